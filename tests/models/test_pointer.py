"""latest.json: moved by many at once, rolled back, and put right after a writer that was killed."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from model_folders import Shelf

from pai_runner.errors import SetupError
from pai_runner.models.place import Place
from pai_runner.models.pointer import (
    GENERATIONS,
    POINTER,
    Pointer,
    advance,
    point_at,
    read_pointer,
)


def shown(shelf: Shelf) -> dict[str, Any]:
    """Return what a reader of latest.json alone sees."""
    value: dict[str, Any] = json.loads(shelf.raw.read(POINTER))
    return value


def agreed(shelf: Shelf) -> Pointer:
    """Return what the pointer says, which latest.json and the highest generation both do."""
    pointer = read_pointer(shelf.place)
    assert pointer is not None
    highest = max(name for name in shelf.raw.names() if name.startswith(f"{GENERATIONS}/"))
    assert shelf.raw.read(POINTER) == shelf.raw.read(highest) == pointer.to_json()
    return pointer


def test_there_is_none_at_first(shelf: Shelf) -> None:
    assert read_pointer(shelf.place) is None


def test_it_advances_to_higher_versions_only(shelf: Shelf) -> None:
    for version, expected in ((3, 3), (2, 3), (3, 3), (10, 10), (9, 10)):
        assert advance(shelf.place, version).version == expected
        assert agreed(shelf).version == expected
        assert shown(shelf)["version"] == expected
    assert agreed(shelf).generation == 2


def test_after_a_rollback_only_a_newer_version_moves_it(shelf: Shelf) -> None:
    place = shelf.place
    for version in (1, 2, 5):
        advance(place, version)
    assert point_at(place, 2).version == 2
    assert (agreed(shelf).version, agreed(shelf).highest) == (2, 5)
    # An exporter that began before the rollback, and ends after it.
    assert advance(place, 4).version == 2
    assert advance(place, 5).version == 2
    assert agreed(shelf).version == 2
    assert advance(place, 6).version == 6
    assert agreed(shelf).highest == 6


def test_pointing_where_it_points_changes_nothing(local_shelf: Shelf) -> None:
    first = point_at(local_shelf.place, 3)
    assert point_at(local_shelf.place, 3) == first
    assert agreed(local_shelf) == first


def at_once(count: int, act: Any) -> None:
    """Call `act(number)` in so many threads at the same moment."""
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        act(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


def test_many_who_advance_it_leave_it_on_the_highest(shelf: Shelf) -> None:
    versions = list(range(1, 17))
    random.Random(1).shuffle(versions)

    def act(number: int) -> None:
        for version in versions[number::4]:
            assert advance(shelf.place, version).version >= version

    at_once(4, act)
    assert agreed(shelf).version == 16


def test_nobody_who_advances_it_undoes_a_rollback(shelf: Shelf) -> None:
    advance(shelf.place, 9)

    def act(number: int) -> None:
        if number == 0:
            point_at(shelf.place, 4)
        else:
            advance(shelf.place, number)

    at_once(6, act)
    assert (agreed(shelf).version, agreed(shelf).highest) == (4, 9)


def test_a_writer_that_is_late_leaves_the_newer_state(bucket_shelf: Shelf) -> None:
    """Another moves the pointer on, all of it, just before latest.json is written."""
    others = [5]

    def pipe(call: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith(f"/{POINTER}") and others:
            advance(bucket_shelf.place, others.pop())
        return call(path, *arguments, **options)

    assert advance(bucket_shelf.faulty(pipe_file=pipe), 4).version == 4
    assert (agreed(bucket_shelf).version, agreed(bucket_shelf).generation) == (5, 2)


def test_a_writer_that_was_killed_is_put_right_by_the_next(shelf: Shelf) -> None:
    place = shelf.place
    advance(place, 1)
    killed = Pointer(version=2, highest=2, generation=2, moved_at="2026-01-02T03:04:05Z")
    shelf.raw.put(f"{GENERATIONS}/{2:012}", killed.to_json())
    assert shown(shelf)["version"] == 1
    assert read_pointer(place) == killed
    # Even one that has nothing to move.
    assert advance(place, 1) == killed
    assert agreed(shelf) == killed


def test_old_generations_are_removed(local_shelf: Shelf) -> None:
    for version in range(1, 71):
        advance(local_shelf.place, version)
    assert len(local_shelf.raw.names()) <= 52
    assert agreed(local_shelf).generation == 70


def test_without_its_generations_it_goes_on_from_latest_json(local_shelf: Shelf) -> None:
    advance(local_shelf.place, 4)
    for name in local_shelf.raw.names() - {POINTER}:
        local_shelf.raw.delete(name)
    assert advance(local_shelf.place, 3).version == 4
    assert advance(local_shelf.place, 5).generation == 2
    assert agreed(local_shelf).version == 5


def test_a_lost_answer_does_not_move_it_twice(oss_shelf: Shelf) -> None:
    advance(oss_shelf.place, 1)
    oss_shelf.server.set(lose_puts=1)
    assert advance(oss_shelf.place, 2).generation == 2
    assert agreed(oss_shelf).generation == 2


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b'{"version": null}', b'{"version": 1e999}', b"\xff"]
)
def test_a_damaged_pointer_is_named(data: bytes, local_shelf: Shelf) -> None:
    place: Place = local_shelf.place
    advance(place, 1)
    (name,) = local_shelf.raw.names() - {POINTER}
    local_shelf.raw.put(name, data)
    with pytest.raises(SetupError, match=f"{place.shown(name)} is damaged"):
        read_pointer(place)
