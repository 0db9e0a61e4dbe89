"""Schedules as systemd's timers: the same ticks, and units that systemd accepts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import pytest
from schedule_world import World, executable

from pai_runner.errors import UsageError
from pai_runner.schedule import catalog
from pai_runner.schedule.catalog import Schedule
from pai_runner.schedule.on_calendar import on_calendar
from pai_runner.schedule.systemd import quoted, units
from pai_runner.schedule.ticks import canonical, ticks_after
from pai_runner.schedule.zones import zone

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)
START = datetime(2026, 11, 20, 12, 7, tzinfo=timezone.utc)
_ELAPSE = re.compile(r"(?:Next elapse|Iter\S* #\d+): \w+ (\S+ \S+) UTC")


def systemd_ticks(events: list[str], start: datetime, count: int) -> list[datetime]:
    """Return the first `count` times of some events after `start`, as systemd works them out."""
    done = subprocess.run(
        [
            *("systemd-analyze", "calendar", f"--iterations={count}"),
            *(f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC", *events),
        ],
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = (datetime.fromisoformat(text) for text in _ELAPSE.findall(done.stdout))
    return sorted({one.replace(tzinfo=timezone.utc) for one in found})[:count]


def our_ticks(cron: str, name: str, start: datetime, count: int) -> list[datetime]:
    ticks = islice(ticks_after(cron, zone(name), start), count)
    return [tick.astimezone(timezone.utc) for tick in ticks]


@needs_systemd
@pytest.mark.parametrize(
    "cron",
    [
        "0 2 * * *",
        "*/15 * * * *",
        "5,35 0-6/2,22 * * *",
        "0 2 1,15 * *",
        "0 2 * * 1-5",
        "0 2 * * SUN",
        "0 2 * * 7",
        "0 2 * * 5-7",
        "30 4 31 * *",
        "0 0 29 2 *",
        "0 0 1 JAN,JUL *",
        "0 2 13 * FRI",
        "0 2 1-7 3-5 MON,WED",
        "0 2 */2 * MON",
        "0 2 * * */2",
        "*/20 1-3 28-31 */3 6,0",
        "@hourly",
        "@weekly",
        "@monthly",
        "@yearly",
    ],
)
def test_systemd_finds_the_same_ticks(cron: str) -> None:
    cron = canonical(cron)
    for name in ("UTC", "Asia/Shanghai"):
        events = on_calendar(cron, name, START)
        assert systemd_ticks(events, START, 12) == our_ticks(cron, name, START, 12), events


@needs_systemd
@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Africa/Cairo"])
@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * 0", "15 0,2 * * *", "0 4 * * *"])
def test_nights_on_which_clocks_change(cron: str, name: str) -> None:
    for start in (datetime(2027, month, 1, tzinfo=timezone.utc) for month in (3, 10)):
        events = on_calendar(cron, name, START)
        assert systemd_ticks(events, start, 70) == our_ticks(cron, name, start, 70), events


def test_a_night_without_the_tick_is_written_out() -> None:
    events = on_calendar("0 2 * * *", "Europe/Berlin", START)
    assert events[:2] == ["*-*-* 02:00:00 Europe/Berlin", "2027-03-28 03:00:00 Europe/Berlin"]
    assert len(events) == 11
    assert on_calendar("0 2 * * *", "Asia/Shanghai", START) == ["*-*-* 02:00:00 Asia/Shanghai"]
    assert len(on_calendar("0 2 13 * 5", "UTC", START)) == 2


def test_words_are_quoted_as_in_unit_files() -> None:
    assert quoted('a b"c\\d%e') == '"a b\\"c\\\\d%%e"'


@needs_systemd
@pytest.mark.parametrize("backend", [["--systemd"], ["--systemd", "--system"]])
def test_systemd_accepts_the_units(world: World, backend: list[str]) -> None:
    code, output, errors = world.verb(
        *("install", str(world.file), "--cron", "0 2 13 * FRI", *backend, "--dry-run")
    )
    assert code == 0, errors
    shown = re.split(r"^# (/.*)\n", output, flags=re.MULTILINE)[1:]
    named = [(Path(path).name, text) for path, text in zip(shown[::2], shown[1::2], strict=True)]
    assert [name for name, _ in named] == ["pai-nightly.service", "pai-nightly.timer"]
    verified(named, world.folder)


def verified(named: list[tuple[str, str]], where: Path) -> None:
    """Check that systemd accepts units of these names and texts."""
    folder = where / "units"
    folder.mkdir()
    for name, text in named:
        (folder / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *folder.iterdir()],
        env={**os.environ, "SYSTEMD_UNIT_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_odd_paths_reach_systemd_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a $HOME 100% é"
    folder.mkdir()
    executable(folder / "python", "#!/bin/sh\n")
    schedule = schedule_of(str(folder / "python"), PAI_HOME=f'{folder}/"x" \\')
    verified([(Path(path).name, text) for path, text in units(schedule).items()], tmp_path)


def test_a_program_that_systemd_cannot_start_is_named() -> None:
    with pytest.raises(UsageError, match="no program with quotes"):
        units(schedule_of('/a "b"/python'))


def test_a_line_break_is_no_part_of_a_path() -> None:
    with pytest.raises(UsageError, match="holds a line break"):
        units(schedule_of("/usr/bin/python3", PAI_HOME="/a\n[Service]"))


def schedule_of(python: str, **environment: str) -> Schedule:
    return Schedule(
        name="odd",
        file="/w/odd.pai",
        folder="/w",
        cron="0 2 * * *",
        timezone="UTC",
        backend="systemd-user",
        created="2026-11-20T00:00:00+00:00",
        python=python,
        environment=environment,
    )


@pytest.fixture
def systemctl(world: World) -> Path:
    """A `systemctl` that writes down what it is told."""
    told = world.folder / "told"
    program = world.folder / "bin/systemctl"
    executable(program, f"#!/bin/sh\necho \"$*\" >>'{told}'\n")
    return told


def test_units_are_written_and_removed(world: World, systemctl: Path) -> None:
    folder = world.folder / "config/systemd/user"
    code, output, errors = world.verb(
        *("install", str(world.file), "--cron", "0 2 * * *", "--systemd", "--yes")
    )
    assert code == 0, errors
    assert "journalctl --user -u pai-nightly.service" in errors
    assert "installed; next: " in output
    assert sorted(os.listdir(folder)) == ["pai-nightly.service", "pai-nightly.timer"]
    service = (folder / "pai-nightly.service").read_text()
    assert f'Environment="PAI_HOME={world.folder}/the home/100%%?"' in service
    assert 'ExecStart="' in service
    assert "TimeoutStopSec=60s 60s\n" in service
    assert not world.table.exists()
    assert world.verb("rm", "nightly")[0] == 0
    assert os.listdir(folder) == []
    assert systemctl.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now pai-nightly.timer",
        "--user disable --now pai-nightly.timer",
        "--user daemon-reload",
    ]
    assert catalog.names() == []


def test_units_go_from_the_folder_that_they_were_written_to(
    world: World, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    world.install("--cron", "0 2 * * *", "--systemd")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(world.folder / "another"))
    folder = world.folder / "config/systemd/user"
    assert len(os.listdir(folder)) == 2
    code, _, errors = world.verb("rm", "nightly")
    assert (code, errors) == (0, "")
    assert os.listdir(folder) == []


def test_a_record_of_an_older_pai_does_not_tell_the_folder(world: World, systemctl: Path) -> None:
    world.install("--cron", "0 2 * * *", "--systemd")
    path = Path(catalog.folder(), "nightly.json")
    data = json.loads(path.read_text())
    del data["units"]
    path.write_text(json.dumps(data))
    assert world.verb("rm", "nightly")[0] == 0
    assert os.listdir(world.folder / "config/systemd/user") == []


@pytest.mark.parametrize("words", [["--grace", "30m"], ["--json", "--grace=30m"]])
def test_a_script_has_its_grace(words: list[str]) -> None:
    service, _ = units(replace(schedule_of("/usr/bin/python3"), options=tuple(words))).values()
    assert "TimeoutStopSec=30m 60s\n" in service


def test_units_of_another_home_stay(
    world: World, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install("--cron", "0 2 * * *", "--systemd", "--name", "nightly")
    monkeypatch.setenv("PAI_HOME", str(world.folder / "other"))
    world.install("--cron", "0 2 * * *", "--serve", "--name", "nightly")
    world.change(schema=0)
    assert world.verb("rm", "nightly")[0] == 0
    folder = world.folder / "config/systemd/user"
    assert sorted(os.listdir(folder)) == ["pai-nightly.service", "pai-nightly.timer"]


def test_where_systemctl_does_not_work_it_says_what_to_do(world: World, systemctl: Path) -> None:
    program = world.folder / "bin/systemctl"
    executable(program, "#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")
    world.install("--cron", "0 2 * * *", "--systemd", "--name", "nightly")
    code, _, errors = world.verb("rm", "nightly")
    assert code == 0
    assert "does not work here (Failed to connect to bus); run: systemctl --user disable" in errors


def test_a_unit_of_others_stays(world: World, systemctl: Path) -> None:
    folder = world.folder / "config/systemd/user"
    folder.mkdir(parents=True)
    (folder / "pai-nightly.timer").write_text("[Timer]\n")
    code, _, errors = world.verb(
        *("install", str(world.file), "--cron", "0 2 * * *", "--systemd", "--yes")
    )
    assert code == 2
    assert "there is a" in errors
    assert (folder / "pai-nightly.timer").read_text() == "[Timer]\n"
    assert catalog.names() == []
    assert not systemctl.exists()
