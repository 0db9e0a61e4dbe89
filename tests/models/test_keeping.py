"""Which versions are kept, how the others go, pins, and the ways back to an earlier version."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import (
    ABOUT,
    MODEL,
    Shelf,
    below,
    flipped,
    lay_versions,
    numbers_of,
    publish_model,
)

from pai_runner.errors import SetupError, UsageError
from pai_runner.models import keeping, publishing
from pai_runner.models.keeping import (
    KeepRule,
    choose,
    collect,
    latest_version,
    pin,
    republish,
    rollback,
    unpin,
)
from pai_runner.models.manifest import MANIFEST
from pai_runner.models.place import Entry
from pai_runner.models.pointer import POINTER, Pointer, advance, point_at, read_pointer
from pai_runner.models.versions import (
    PINS,
    Version,
    list_versions,
    pinned_numbers,
    reserve,
    version_numbers,
)

NOW = 2_000_000_000.0
HOUR = 3600.0


# ====== The rule ======


def a_version(number: int, age: float, state: str) -> Version:
    """Return a version that is `complete`, `damaged` (a file is missing) or `begun`."""
    name = "variables/variables.index" if state == "begun" else "saved_model.pb"
    problem = "" if state == "complete" else f"it is {state}"
    files = {name: Entry(1, int((NOW - age) * 1e9))}
    return Version(number, str(number), files, None, problem)


a_shelf = st.dictionaries(
    st.integers(1, 30),
    st.tuples(st.integers(1, 100), st.sampled_from(["complete", "complete", "damaged", "begun"])),
    max_size=12,
).map(
    lambda found: [a_version(number, age * HOUR, state) for number, (age, state) in found.items()]
)
some_numbers = st.frozensets(st.integers(1, 30), max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    versions=a_shelf,
    points_at=st.none() | st.integers(1, 30),
    pinned=some_numbers,
    also=some_numbers,
    last=st.none() | st.integers(1, 6),
    young=st.none() | st.integers(0, 100),
    grace=st.integers(0, 100),
)
def test_what_goes_by_a_rule(
    versions: list[Version],
    points_at: int | None,
    pinned: frozenset[int],
    also: frozenset[int],
    last: int | None,
    young: int | None,
    grace: int,
) -> None:
    rule = KeepRule(last, tuple(also), None if young is None else young * HOUR)
    served = set() if points_at is None else {points_at}
    going = choose(versions, served | pinned, rule, NOW, grace * HOUR)
    gone = {version.number for version, _ in going}
    assert all(reason for _, reason in going)
    protected = {points_at, *pinned, *also}
    complete = sorted((one.number for one in versions if one.is_complete), reverse=True)
    assert gone.isdisjoint(protected)
    assert gone.isdisjoint(complete[:1])
    for version in versions:
        hours = (NOW - version.written_ns / 1e9) / HOUR
        if version.number in protected:
            continue
        if version.is_complete:
            # Exactly those behind the last, as far as they are old enough.
            rank = complete.index(version.number)
            goes = last is not None and rank >= last and hours > (young or 0)
            assert (version.number in gone) == goes
        elif not version.entry:
            assert (version.number in gone) == (hours > grace)
        elif version.number in gone:
            assert last is not None
            assert hours > max(young or 0, grace)


def test_what_is_no_rule_is_refused() -> None:
    for values in ({"last": 0}, {"last": -1}, {"younger_than": -1.0}):
        with pytest.raises(UsageError):
            KeepRule(**values)  # type: ignore[arg-type]


# ====== Removing ======


def test_the_last_the_pinned_and_the_pointers_are_kept(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 6)
    pin(place, 1)
    rollback(place, 2)
    rule = KeepRule(last=2, pinned=(3,))
    before = shelf.raw.names()
    would = collect(place, rule, dry_run=True, grace=0)
    assert shelf.raw.names() == before
    assert collect(place, rule, grace=0) == would
    assert [(one.name, one.reason) for one in would] == [("4", "not among the last 2")]
    assert would[0].bytes == sum(len(shelf.raw.read(f"5/{name}")) for name in below(before, "5"))
    assert numbers_of(list_versions(place)) == [1, 2, 3, 5, 6]
    assert shelf.raw.names() == {name for name in before if not name.startswith("4/")}
    assert collect(place, rule, grace=0) == []


def test_young_versions_are_kept(local_shelf: Shelf) -> None:
    lay_versions(local_shelf, 3)
    advance(local_shelf.place, 3)
    assert collect(local_shelf.place, KeepRule(last=1, younger_than=HOUR)) == []
    gone = collect(local_shelf.place, KeepRule(last=1, younger_than=0))
    assert [one.name for one in gone] == ["1", "2"]


def test_a_version_goes_with_its_entry_and_manifest_first(bucket_shelf: Shelf) -> None:
    lay_versions(bucket_shelf, 2)
    bucket_shelf.raw.put("1/saved_model.pbtxt", b"text")
    bucket_shelf.raw.put("1/variables/variables.index", b"index")
    gone: list[str] = []

    def remove(call: Any, path: str) -> None:
        gone.append(path.rpartition("/1/")[2])
        call(path)

    collect(bucket_shelf.faulty(rm_file=remove), KeepRule(last=1), grace=0)
    assert gone[:3] == ["saved_model.pb", "saved_model.pbtxt", MANIFEST]
    assert gone[3:] == ["variables/variables.index"]
    assert numbers_of(list_versions(bucket_shelf.place)) == [2]


def test_what_killed_exporters_left_goes_when_it_is_old(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 1)
    # One was killed as it copied, one as it uploaded.
    shelf.raw.put(f"{reserve(place)}/variables/variables.index", b"index")
    shelf.raw.put(".staging-0123/variables/variables.index", b"staged")
    shelf.raw.put("temp-1/mine", b"a directory of the user")
    before = shelf.raw.names()
    assert collect(place, KeepRule(), grace=HOUR) == []
    assert shelf.raw.names() == before
    gone = collect(place, KeepRule(), grace=0)
    assert [(one.name, one.bytes) for one in gone] == [("2", 5), (".staging-0123", 6)]
    assert gone[0].reason == "it has no saved_model.pb"
    left = {"2/variables/variables.index", ".staging-0123/variables/variables.index"}
    assert before - shelf.raw.names() == left
    assert reserve(place) == 3


def test_what_is_no_version_stays(shelf: Shelf) -> None:
    """Days, steps and users have directories with numbers, too."""
    lay_versions(shelf, 1)
    shelf.raw.put("20240101/visits.csv", b"data")
    assert collect(shelf.place, KeepRule(last=1), grace=0) == []
    assert shelf.raw.read("20240101/visits.csv") == b"data"


def test_the_number_of_a_version_of_others_is_not_given_when_it_is_gone(shelf: Shelf) -> None:
    for number in (1, 2):
        shelf.raw.put(f"{number}/saved_model.pb", b"graph")
    gone = collect(shelf.place, KeepRule(last=1), grace=0)
    assert [one.name for one in gone] == ["1"]
    with pytest.raises(SetupError, match="given before"):
        reserve(shelf.place, 1)


def test_a_version_that_is_about_to_be_pointed_at_stays(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shelf.place
    publish_model(place)
    with monkeypatch.context() as patch:
        # Of two exporters both are at the pointer, and the one with version 3 is killed there.
        patch.setattr(publishing, "advance", lambda *_: None)
        publish_model(place)
        publish_model(place)
    assert collect(place, KeepRule(last=1)) == []
    assert advance(place, 2).version in version_numbers(place)
    # A day later nobody is about to do anything.
    publish_model(place)
    assert [one.name for one in collect(place, KeepRule(last=1), grace=0)] == ["1", "2", "3"]


def test_local_leftovers_go_by_their_newest_file(local_shelf: Shelf) -> None:
    place = local_shelf.place
    old = time.time() - 48 * HOUR
    for name, mtimes in {"old": [old, old], "busy": [old, time.time()]}.items():
        for number, mtime in enumerate(mtimes):
            file = f".staging-{name}/model/{number}"
            local_shelf.raw.put(file, b"x")
            os.utime(f"{place.prefix}{file}", (mtime, mtime))
    for name, mtime in ((".removed-empty", old), (".staging-empty", time.time())):
        os.mkdir(f"{place.prefix}{name}")
        os.utime(f"{place.prefix}{name}", (mtime, mtime))
    assert [one.name for one in collect(place, KeepRule())] == [".removed-empty", ".staging-old"]
    assert place.children() == {".staging-busy", ".staging-empty"}


def test_what_is_pinned_or_pointed_at_meanwhile_stays(
    local_shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = local_shelf.place
    lay_versions(local_shelf, 4)
    removed = keeping.remove_version

    def hurried(place: Any, version: Version) -> None:
        removed(place, version)
        if version.number == 1:
            pin(place, 2)
            rollback(place, 3)

    monkeypatch.setattr(keeping, "remove_version", hurried)
    assert [one.name for one in collect(place, KeepRule(last=1), grace=0)] == ["1"]
    assert numbers_of(list_versions(place)) == [2, 3, 4]


def test_an_empty_place_has_nothing_to_remove(shelf: Shelf) -> None:
    assert collect(shelf.place, KeepRule(), grace=0) == []


# ====== Pins ======


def test_versions_are_pinned_and_unpinned(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 2)
    pin(place, 1)
    pin(place, 1)
    assert pinned_numbers(place) == {1}
    assert below(shelf.raw.names(), PINS) == {"1"}
    with pytest.raises(SetupError, match="has no version 3") as caught:
        pin(place, 3)
    assert caught.value.hint == "versions there: 1, 2"
    with pytest.raises(SetupError, match="version 2 is not pinned") as caught:
        unpin(place, 2)
    assert caught.value.hint == "pinned: 1"
    unpin(place, 1)
    assert pinned_numbers(place) == set()


# ====== Going back ======


def test_a_rollback_points_at_an_earlier_version(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 3)
    assert latest_version(place) == 3
    assert rollback(place, 1).version == 1
    assert latest_version(place) == 1
    assert publish_model(place).version == 4
    assert latest_version(place) == 4


def test_a_version_that_is_removed_during_a_rollback_is_told(
    local_shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = local_shelf.place
    lay_versions(local_shelf, 3)

    def late(place: Any, number: int) -> Pointer:
        collect(place, KeepRule(last=1), grace=0)
        return point_at(place, number)

    monkeypatch.setattr(keeping, "point_at", late)
    with pytest.raises(SetupError, match="has no version 1"):
        rollback(place, 1)


def test_only_a_whole_version_is_gone_back_to(local_shelf: Shelf) -> None:
    place = local_shelf.place
    lay_versions(local_shelf, 2)
    local_shelf.raw.delete("1/saved_model.pb")
    for back in (rollback, republish):
        with pytest.raises(SetupError, match=r"version 1 of .* is not complete: it has no saved"):
            back(place, 1)
        with pytest.raises(SetupError, match="has no version 9"):
            back(place, 9)
    assert read_pointer(place) is None
    assert set(version_numbers(place)) == {1, 2}


def test_a_version_is_published_again_as_the_next(shelf: Shelf) -> None:
    place = shelf.place
    first = publish_model(place)
    shelf.raw.put("2/saved_model.pb", b"graph")
    again = republish(place, 1)
    assert again.version == 3
    assert again.manifest.files == first.manifest.files
    assert again.manifest.about == ABOUT
    assert latest_version(place) == 3
    for name, data in MODEL.items():
        assert shelf.raw.read(f"3/{name}") == data
    assert not any(name.startswith(".staging") for name in place.children())


def test_a_damaged_version_is_not_published_again(shelf: Shelf) -> None:
    publish_model(shelf.place)
    shelf.raw.put("1/fingerprint.pb", flipped(MODEL["fingerprint.pb"]))
    with pytest.raises(SetupError, match=r"fingerprint\.pb: its content is not what was"):
        republish(shelf.place, 1)
    assert numbers_of(list_versions(shelf.place)) == [1]


def test_a_version_of_others_is_published_again(local_shelf: Shelf) -> None:
    local_shelf.raw.put("007/saved_model.pb", b"graph")
    assert republish(local_shelf.place, 7).version == 8
    assert local_shelf.raw.read("8/saved_model.pb") == b"graph"


# ====== The version to serve ======


def test_without_a_pointer_the_highest_complete_version_is_served(shelf: Shelf) -> None:
    for number in (1, 2, 10):
        shelf.raw.put(f"{number}/saved_model.pb", b"graph")
    shelf.raw.put("11/variables/variables.index", b"index")
    assert latest_version(shelf.place) == 10
    advance(shelf.place, 2)
    assert latest_version(shelf.place) == 2


def test_without_a_version_what_is_there_is_told(local_shelf: Shelf) -> None:
    with pytest.raises(SetupError, match="has no complete version") as caught:
        latest_version(local_shelf.place)
    assert str(caught.value.hint).endswith("; nothing is there")
    local_shelf.raw.put("saved_model.pb", b"graph")
    advance(local_shelf.place, 3)
    with pytest.raises(SetupError) as caught:
        latest_version(local_shelf.place)
    assert "saved_model.pb" in str(caught.value.hint)
    assert f"{POINTER} names version 3" in str(caught.value)


def test_what_a_killed_local_writer_left_is_collected_when_it_is_old(
    local_shelf: Shelf,
) -> None:
    lay_versions(local_shelf, 1)
    for name in (".tmp-a", ".versions/.tmp-b"):
        local_shelf.place.write(name, b"x")
    assert collect(local_shelf.place, KeepRule()) == []
    gone = collect(local_shelf.place, KeepRule(), grace=0)
    assert [one.name for one in gone] == [".tmp-a", ".versions/.tmp-b"]
    assert not [name for name in local_shelf.place.find() if ".tmp-" in name]


def test_what_a_pointer_that_was_left_behind_names_is_kept(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 3)
    for number in (1, 2, 3):
        advance(place, number)
    behind = Pointer(1, 1, 1, "")
    place.write(POINTER, behind.to_json())
    assert [one.name for one in collect(place, KeepRule(last=1), grace=0)] == ["2"]


def test_two_collectors_at_once_do_not_disturb_each_other(local_shelf: Shelf) -> None:
    place = local_shelf.place
    lay_versions(local_shelf, 30)
    rule = KeepRule(last=1)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(collect, place, rule, grace=0.0) for _ in range(4)]:
            future.result()
    assert set(version_numbers(place)) == {30}
    assert not [name for name in place.children() if name.startswith(".removed-")]
