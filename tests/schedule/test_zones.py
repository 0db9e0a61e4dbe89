"""Time zones: their names, the machine's own, and clocks that go in step."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pai_runner.errors import SetupError, UsageError
from pai_runner.schedule.zones import constant_shift, default_zone, machine_zone, zone

NOW = datetime(2026, 11, 20, tzinfo=timezone.utc)


@pytest.mark.parametrize("name", ["Asia/Shanghia", "Europe", "../etc/passwd", "", "+08:00"])
def test_a_zone_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        zone(name)
    assert f"`{name}`" in str(caught.value)
    assert "Asia/Shanghai" in (caught.value.hint or "") or name != "Asia/Shanghia"


def test_the_machines_zone_is_that_of_its_link(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Asia/Shanghai")
    assert machine_zone(str(link)) == "Asia/Shanghai"


def test_where_it_is_a_copy_a_file_tells_its_name(tmp_path: Path) -> None:
    copy, name = tmp_path / "localtime", tmp_path / "timezone"
    copy.write_bytes(b"TZif2")
    with pytest.raises(SetupError, match="does not tell the name"):
        machine_zone(str(copy), str(name))
    name.write_text("Europe/Berlin\n")
    assert machine_zone(str(copy), str(name)) == "Europe/Berlin"


def test_a_machine_without_a_zone_has_utc(tmp_path: Path) -> None:
    assert machine_zone(str(tmp_path / "none"), str(tmp_path / "none")) == "UTC"


def test_tz_goes_before_the_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    assert default_zone() == "Asia/Shanghai"
    monkeypatch.setenv("TZ", "CET-1CEST")
    assert default_zone() == machine_zone()


@pytest.mark.parametrize(
    ("source", "target", "hours"),
    [
        ("Asia/Shanghai", "UTC", -8),
        ("Europe/London", "Europe/Berlin", 1),
        ("Europe/Berlin", "Europe/Paris", 0),
        ("Europe/Berlin", "UTC", None),
        ("Europe/Berlin", "America/New_York", None),
    ],
)
def test_clocks_that_go_in_step(source: str, target: str, hours: int | None) -> None:
    shift = constant_shift(ZoneInfo(source), ZoneInfo(target), NOW)
    assert shift == (None if hours is None else timedelta(hours=hours))


@pytest.mark.parametrize("hour", range(0, 6, 3))
def test_clocks_that_change_an_hour_apart_do_not(hour: int) -> None:
    zones = ZoneInfo("America/New_York"), ZoneInfo("America/Chicago")
    assert constant_shift(*zones, NOW + timedelta(hours=hour)) is None
