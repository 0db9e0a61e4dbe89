"""Versions: which directories are some, whether they are whole, and how numbers are given."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fault_server import fault_server
from model_folders import (
    UGLY_MODEL,
    Shelf,
    lay_versions,
    numbers_of,
    publish_model,
)
from oss_server import OSSServer

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.keeping import KeepRule, collect
from pai_runner.models.manifest import MANIFEST
from pai_runner.models.place import BucketPlace
from pai_runner.models.versions import (
    RESERVATIONS,
    given_numbers,
    list_versions,
    number_of,
    reserve,
    version_numbers,
)

HIGHEST = 2**63 - 1


# ====== Numbers ======


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0", 0),
        ("1", 1),
        ("007", 7),
        ("1753600000", 1753600000),
        (str(HIGHEST), HIGHEST),
        (str(HIGHEST + 1), None),
        ("9" * 20, None),
        ("", None),
        ("v1", None),
        ("1v", None),
        ("temp-1", None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        (" 1", None),
        ("1\n", None),
        ("１", None),
        ("latest.json", None),
    ],
)
def test_which_names_are_numbers(name: str, number: int | None) -> None:
    assert number_of(name) == number


def test_directories_with_numbers_are_versions(shelf: Shelf) -> None:
    for name in ("007", "2", "10", "v3", "temp-4", ".staging-5", "12345678901234567890"):
        shelf.raw.put(f"{name}/saved_model.pb", b"graph")
    shelf.raw.put("11", b"a file")
    shelf.raw.put("saved_model.pb", b"not a version either")
    found = list_versions(shelf.place)
    assert [(one.number, one.name) for one in found] == [(2, "2"), (7, "007"), (10, "10")]
    assert all(one.is_complete and one.manifest is None for one in found)
    assert reserve(shelf.place) == 12


def test_of_two_names_for_a_number_the_plain_one_counts(local_shelf: Shelf) -> None:
    local_shelf.raw.put("007/saved_model.pb", b"graph")
    local_shelf.raw.put("7/saved_model.pb", b"graph")
    assert version_numbers(local_shelf.place) == {7: "7"}


def test_a_place_that_is_empty_or_missing_has_no_versions(shelf: Shelf) -> None:
    assert list_versions(shelf.place) == []
    assert list_versions(shelf.place.at("missing")) == []
    assert given_numbers(shelf.place.at("missing")) == set()


# ====== What lies there ======


def test_a_version_is_read_with_its_manifest(shelf: Shelf) -> None:
    manifest = publish_model(shelf.place, UGLY_MODEL).manifest
    (version,) = list_versions(shelf.place)
    assert version.is_complete, version.problem
    assert version.manifest == manifest
    assert set(version.files) == {*UGLY_MODEL, MANIFEST}
    assert manifest.total_bytes == sum(map(len, UGLY_MODEL.values()))
    assert version.total_bytes == manifest.total_bytes + version.files[MANIFEST].size
    assert version.entry == "saved_model.pb"
    assert abs(version.written_ns / 1e9 - time.time()) < 120


def test_what_is_wrong_with_a_version_is_said(shelf: Shelf) -> None:
    lay_versions(shelf, 5)
    raw = shelf.raw
    raw.delete("1/saved_model.pb")
    raw.put("1/variables/variables.index", b"index")
    raw.delete("2/saved_model.pb")
    raw.put("2/saved_model.pbtxt", b"graph")
    raw.put("3/saved_model.pb", b"gr")
    raw.put(f"4/{MANIFEST}", b'{"version": 1')
    problems = [one.problem for one in list_versions(shelf.place)]
    assert problems[:3] == [
        "it has no saved_model.pb",
        "saved_model.pb is missing",
        "saved_model.pb has 2 bytes, not 5",
    ]
    assert problems[3].startswith(f"{shelf.prefix}4/{MANIFEST} is damaged: JSONDecodeError")
    assert problems[4] == ""
    assert [one.is_complete for one in list_versions(shelf.place)] == [False] * 4 + [True]


def test_a_version_without_a_manifest_is_complete_with_its_entry(shelf: Shelf) -> None:
    shelf.raw.put("1/saved_model.pbtxt", b"graph")
    shelf.raw.put("2/variables/variables.index", b"index")
    assert [one.is_complete for one in list_versions(shelf.place)] == [True, False]


# ====== Reserving ======


def test_the_next_number_follows_the_highest_ever_given(shelf: Shelf) -> None:
    place = shelf.place
    lay_versions(shelf, 3)
    for name in [name for name in shelf.raw.names() if name.startswith("3/")]:
        shelf.raw.delete(name)
    assert reserve(place) == 4
    collect(place, KeepRule(last=1), grace=0)
    assert numbers_of(list_versions(place)) == [2]
    assert reserve(place) == 5
    assert given_numbers(place) == {1, 2, 3, 4, 5}


def test_versions_of_others_are_followed(local_shelf: Shelf) -> None:
    local_shelf.raw.put("0041/saved_model.pb", b"graph")
    assert reserve(local_shelf.place) == 42


def test_a_number_may_be_chosen_once(shelf: Shelf) -> None:
    place = shelf.place
    shelf.raw.put("0020/saved_model.pb", b"graph")
    assert reserve(place, 7) == 7
    assert reserve(place, "5") == 5
    assert reserve(place, 0) == 0
    for taken in (7, "007", 5, 0, 20):
        with pytest.raises(SetupError, match="was given before") as caught:
            reserve(place, taken)
        assert "versions there: 20" in str(caught.value.hint)
    assert reserve(place) == 21


def test_a_timestamp_is_the_time_or_the_next_number_after_it(local_shelf: Shelf) -> None:
    before = int(time.time())
    first = reserve(local_shelf.place, "timestamp")
    assert before <= first <= time.time()
    second = reserve(local_shelf.place, "timestamp")
    assert first < second <= max(first + 1, int(time.time()))
    local_shelf.raw.put(f"{first + 1000}/saved_model.pb", b"graph")
    assert reserve(local_shelf.place, "timestamp") == first + 1001


@pytest.mark.parametrize("version", ["latest", "", "v1", -1, "1.5", 1.5, True, HIGHEST + 1])
def test_what_is_no_version_is_refused(version: Any, local_shelf: Shelf) -> None:
    with pytest.raises(UsageError, match="is not a version"):
        reserve(local_shelf.place, version)
    assert local_shelf.raw.names() == set()


def test_there_is_a_highest_number(local_shelf: Shelf) -> None:
    assert reserve(local_shelf.place, HIGHEST) == HIGHEST
    with pytest.raises(SetupError, match="no number above"):
        reserve(local_shelf.place)


def test_many_at_once_get_different_numbers(shelf: Shelf) -> None:
    place, count = shelf.place, 6
    start = threading.Barrier(count)

    def act(_: int) -> int:
        start.wait()
        return reserve(place)

    with ThreadPoolExecutor(count) as pool:
        assert sorted(pool.map(act, range(count))) == [1, 2, 3, 4, 5, 6]


def test_many_at_once_who_choose_one_number(shelf: Shelf) -> None:
    place, count = shelf.place, 6
    start = threading.Barrier(count)

    def act(_: int) -> int | None:
        start.wait()
        try:
            return reserve(place, 3)
        except SetupError:
            return None

    with ThreadPoolExecutor(count) as pool:
        assert sorted(pool.map(act, range(count)), key=str) == [3, *[None] * (count - 1)]


def test_a_lost_answer_costs_no_number(oss_shelf: Shelf, oss_server: OSSServer) -> None:
    given_numbers(oss_shelf.place)
    oss_server.set(lose_puts=1)
    assert reserve(oss_shelf.place) == 1
    assert len(oss_shelf.raw.names()) == 1


@pytest.fixture
def careless() -> Iterator[BucketPlace]:
    """A place on a server that does not know If-None-Match."""
    with fault_server() as faults:
        yield BucketPlace.opened("s3://bucket/dir/", faults.options)


def test_a_server_without_conditions_is_refused(careless: BucketPlace) -> None:
    for version in (None, 5, "timestamp"):
        with pytest.raises(SetupError, match="does not honour conditional writes"):
            reserve(careless, version)


def test_reservations_lie_beside_the_numbers(shelf: Shelf) -> None:
    reserve(shelf.place)
    assert shelf.raw.names() == {f"{RESERVATIONS}/1"}


def test_a_process_that_was_killed_while_it_reserved_takes_no_number(local_shelf: Shelf) -> None:
    local_shelf.raw.put(f"{RESERVATIONS}/.tmp-abc", b"half")
    assert reserve(local_shelf.place) == 1
