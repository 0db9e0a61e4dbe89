"""Time zones by name, and the machine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pai_runner.errors import UsageError
from pai_runner.zones import machine_zone, zone

WINTER = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
SUMMER = datetime(2026, 7, 15, 12, tzinfo=timezone.utc)


def hours(of: str | None) -> list[float]:
    found = zone(of)
    offsets = [when.astimezone(found).utcoffset() or timedelta() for when in (WINTER, SUMMER)]
    return [offset / timedelta(hours=1) for offset in offsets]


@pytest.fixture
def set_tz(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    def set_to(value: str | None) -> None:
        if value is None:
            monkeypatch.delenv("TZ", raising=False)
        else:
            monkeypatch.setenv("TZ", value)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


def test_a_zone_by_name() -> None:
    assert hours("Europe/Berlin") == [1, 2]
    assert hours("America/New_York") == [-5, -4]
    assert hours("Asia/Shanghai") == [8, 8]
    assert hours("UTC") == [0, 0]


@pytest.mark.parametrize(
    "name",
    ["", "Europe/Berln", "Europe", "../zoneinfo/UTC", "/etc/localtime", "zone.tab", "上海", "a\0"],
)
def test_a_name_that_is_no_zone(name: str) -> None:
    with pytest.raises(UsageError, match="there is no time zone") as caught:
        zone(name)
    assert ("did you mean Europe/Berlin?" in caught.value.message) == (name == "Europe/Berln")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Europe/Berlin", [1, 2]),
        (":America/New_York", [-5, -4]),
        ("", [0, 0]),
        ("CST-8", [8, 8]),
    ],
)
def test_the_machines_zone_is_what_TZ_says(
    value: str, expected: list[float], set_tz: Callable[[str | None], None]
) -> None:
    set_tz(value)
    assert hours(None) == expected


def test_TZ_may_name_a_file(set_tz: Callable[[str | None], None]) -> None:
    file = Path("/usr/share/zoneinfo/Europe/Berlin")
    if not file.exists():
        pytest.skip("this machine has no database of zones in /usr/share/zoneinfo")
    set_tz(str(file))
    assert hours(None) == [1, 2]


def test_without_TZ_it_is_the_c_librarys(set_tz: Callable[[str | None], None]) -> None:
    set_tz(None)
    found = machine_zone()
    for when in (WINTER, SUMMER):
        offset = time.localtime(when.timestamp()).tm_gmtoff
        assert when.astimezone(found).utcoffset() == timedelta(seconds=offset)
