"""`pai schedule run` and `run-now`: what is due, under a lock, with signals passed on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from schedule_world import World
from support import wait_until

from pai_runner.cli import schedule_run
from pai_runner.schedule import catalog
from pai_runner.schedule.catalog import History, Result, Schedule
from pai_runner.schedule.due import due_ticks, run_due, run_now
from pai_runner.schedule.ticks import instant_text, latest_ticks, next_ticks
from pai_runner.schedule.zones import zone

# Ticks so far apart that none comes during a test.
MONTHLY = ("--cron", "0 0 1 * *", "--timezone", "Etc/UTC", "--serve")
YEAR = timedelta(days=366)
NIGHTLY = Schedule(
    name="nightly",
    file="/w/nightly.pai",
    folder="/w",
    cron="30 2 * * *",
    timezone="Europe/Berlin",
    backend="crontab",
    created="2026-03-01T00:00:00+01:00",
    python="/usr/bin/python3",
)


def tick_before(count: int) -> str:
    """Return the latest tick, or the one that came `count` ticks before it."""
    months = latest_ticks("0 0 1 * *", timezone.utc, datetime.now(timezone.utc))
    return instant_text(next(islice(months, count, None)))


def test_the_latest_tick_is_run_once(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    code, output, errors = world.verb("run", "nightly")
    assert (code, output) == (0, "")
    tick = tick_before(0)
    assert f"pai: nightly: {tick} starts\npai: nightly: {tick} succeeded\n" in errors
    code, _, errors = world.verb("run", "nightly")
    assert code == 0
    assert "has succeeded; nothing else is due" in errors
    assert world.cyctimes() == [tick]


def test_nothing_is_due_before_its_installation(world: World) -> None:
    world.install(*MONTHLY, "--catch-up", "5")
    code, _, errors = world.verb("run", "nightly")
    assert code == 0
    assert "nothing has been due since it was installed" in errors
    assert world.calls() == []


def test_what_failed_is_run_again_by_the_next_start(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    world.behave("exit 7")
    assert world.verb("run", "nightly")[0] == 7
    world.behave("exit 75")
    assert world.verb("run", "nightly")[0] == 75
    world.behave("exit 0")
    code, _, errors = world.verb("run", "nightly")
    assert code == 0
    assert f"{tick_before(0)} starts, try 3" in errors
    (result,) = catalog.read_history("nightly").results
    assert (result.tries, result.code) == (3, 0)


def test_the_last_ticks_are_caught_up_oldest_first(world: World) -> None:
    world.install(*MONTHLY, "--catch-up", "3", age=YEAR)
    world.behave(f'case "$*" in *{tick_before(1)}*) exit 4;; esac; exit 0')
    assert world.verb("run", "nightly")[0] == 4
    assert world.cyctimes() == [tick_before(2), tick_before(1), tick_before(0)]
    world.behave("exit 0")
    assert world.verb("run", "nightly", "--catch-up", "4")[0] == 0
    assert world.cyctimes()[3:] == [tick_before(3), tick_before(1)]


def test_options_are_passed_on_and_may_say_once_per_what(world: World) -> None:
    world.install(*MONTHLY, "--", "--once-per", "bizdate", "--json", age=YEAR)
    world.verb("run", "nightly")
    (call,) = world.calls()
    assert " ".join(call[-5:]) == "--name nightly --once-per bizdate --json"


def test_run_now_runs_this_minute(world: World) -> None:
    world.install("--cron", "0 0 1 1 *", "--timezone", "Asia/Shanghai", "--serve")
    world.behave("exit 3")
    before = datetime.now(timezone.utc).replace(second=0, microsecond=0)
    assert world.verb("run-now", "nightly")[0] == 3
    (cyctime,) = world.cyctimes()
    assert cyctime.endswith("+08:00")
    assert timedelta(0) <= datetime.fromisoformat(cyctime) - before <= timedelta(minutes=1)
    # It is no tick of the schedule's own.
    assert "nothing has been due" in world.verb("run", "nightly")[2]


@pytest.mark.parametrize(("first", "second", "code"), [(0, 0, 0), (0, 4, 4), (3, 4, 3), (3, 0, 3)])
def test_a_tick_that_comes_while_run_now_runs_is_run_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch, first: int, second: int, code: int
) -> None:
    """And none that was due before it."""
    world.install("--cron", "0 2 * * *", "--timezone", "UTC", "--serve", "--catch-up", "5")
    world.change(created="2026-01-01T00:00:00+00:00")
    begun = datetime.fromisoformat("2026-03-10T01:59:30+00:00")
    times = {0: begun, 1: begun + timedelta(days=1), 2: begun + timedelta(days=1)}
    monkeypatch.setattr(schedule_run, "_now", lambda: times[len(world.calls())])
    world.behave(f'case "$*" in *01:59*) exit {first};; esac; exit {second}')
    assert world.verb("run-now", "nightly")[0] == code
    assert world.cyctimes() == ["2026-03-10T01:59+00:00", "2026-03-10T02:00+00:00"]


def test_run_now_that_is_ended_begins_no_other_tick(world: World) -> None:
    now = datetime.fromisoformat("2026-03-10T02:00:30+01:00")
    ran = []

    def start(command: Sequence[str]) -> int:
        nonlocal now
        now += timedelta(days=1)
        ran.append(command)
        return 143

    assert run_now(NIGHTLY, lambda: now, start, ignore, lambda: True) == 143
    assert len(ran) == 1


def test_a_run_at_a_time(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    gate = world.folder / "gate"
    os.mkfifo(gate)
    world.behave(f"read line <'{gate}'; exit 0")
    first = world.start("run", "nightly")
    wait_until(world.calls)
    world.behave("exit 0")
    code, _, errors = world.verb("run", "nightly")
    assert code == 75
    assert "schedule nightly is being run" in errors
    assert world.verb("rm", "nightly")[0] == 75
    # The run goes on, and holds the lock, when who started it is killed.
    first.kill()
    first.wait(timeout=30)
    assert world.verb("run-now", "nightly")[0] == 75
    gate.write_text("go\n")
    wait_until(lambda: world.verb("run", "nightly")[0] != 75)
    assert world.cyctimes() == [tick_before(0)] * 2
    assert catalog.read_history("nightly").results[-1].tries == 2


def started_at(world: World, gate: Path) -> subprocess.Popen[str]:
    """Start a run that goes on until something is written to `gate`; return it as it waits."""
    os.mkfifo(gate)
    world.behave(f"echo >&2 ready; read line <'{gate}'; exit 0")
    process = world.start("run", "nightly")
    assert process.stderr is not None
    while process.stderr.readline() != "ready\n":
        assert process.poll() is None
    return process


def test_what_a_killed_run_has_left_is_waited_for_by_the_next(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    gate = world.folder / "gate"
    first = started_at(world, gate)
    world.behave("exit 0")
    assert "was killed" not in world.verb("ls")[1]
    first.kill()
    first.wait(timeout=30)
    assert "has not ended: who ran it was killed" in world.verb("ls")[1]
    second = world.start("run", "nightly")
    assert second.stderr is not None
    assert "still runs; waits for its end" in second.stderr.readline()
    # One waits: cron may start one each minute.
    code, _, errors = world.verb("run", "nightly")
    assert (code, len(world.calls())) == (75, 1), errors
    gate.write_text("go\n")
    second.communicate(timeout=30)
    assert second.returncode == 0
    assert world.cyctimes() == [tick_before(0)] * 2
    assert f"{tick_before(0)} succeeded" in world.verb("ls")[1]


def test_one_who_waits_may_be_ended(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    gate = world.folder / "gate"
    first = started_at(world, gate)
    first.kill()
    first.wait(timeout=30)
    for _ in range(2):
        waiting = world.start("run", "nightly")
        assert waiting.stderr is not None
        assert "waits for its end" in waiting.stderr.readline()
        waiting.terminate()
        waiting.communicate(timeout=30)
        assert waiting.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    world.behave("exit 0")
    gate.write_text("go\n")
    wait_until(lambda: world.verb("run-now", "nightly")[0] != 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_and_waited_for(world: World, number: signal.Signals) -> None:
    world.install(*MONTHLY, "--catch-up", "3", age=YEAR)
    gate = world.folder / "gate"
    os.mkfifo(gate)
    world.behave(
        f"trap 'echo ended; exit 42' {number.name[3:]}; echo >&2 ready; read line <'{gate}'"
    )
    process = world.start("run", "nightly")
    assert process.stderr is not None
    wait_until(world.calls)
    while process.stderr.readline() != "ready\n":
        pass
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (42, "ended\n")
    assert "failed (42)" in errors
    assert len(world.calls()) == 1  # no further tick was begun


def test_what_cannot_be_started_is_named(world: World) -> None:
    world.install(*MONTHLY, age=YEAR)
    world.change(python="/nowhere/python")
    code, _, errors = world.verb("run", "nightly")
    assert code == 125
    assert "cannot start /nowhere/python: No such file" in errors
    world.change(python=str(world.program), folder="/nowhere")
    code, _, errors = world.verb("run", "nightly")
    assert code == 125
    assert "cannot start /nowhere: No such file" in errors
    world.change(folder="/")
    assert world.verb("run", "nightly")[0] == 0


@pytest.mark.parametrize("damage", ["", "{}", '{"results": [{"cyctime": "x"}]}', "[1]"])
def test_a_damaged_history_is_none(world: World, damage: str) -> None:
    world.install(*MONTHLY, age=YEAR)
    assert world.verb("run", "nightly")[0] == 0
    Path(catalog.folder(), "nightly.state.json").write_text(damage)
    assert world.verb("run", "nightly")[0] == 0
    assert len(world.calls()) == 2


def test_a_tick_that_a_change_of_clocks_moved_is_due() -> None:
    ticks = due_ticks(NIGHTLY, datetime.fromisoformat("2026-03-29T03:00:00+02:00"), 2)
    assert [tick.isoformat() for tick in ticks] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
    ]


def test_a_tick_of_the_repeated_hour_is_known() -> None:
    hourly = replace(NIGHTLY, cron="30 * * * *")
    for now in ("2026-10-25T02:35:00+02:00", "2026-10-25T02:35:00+01:00"):
        (tick,) = due_ticks(hourly, datetime.fromisoformat(now))
        assert instant_text(tick) == now[:14] + "30" + now[-6:]
        history = History((Result(instant_text(tick), now, code=0),))
        assert history.succeeded(tick)


def test_what_comes_due_meanwhile_is_run_too(world: World) -> None:
    now = datetime.fromisoformat("2026-03-10T02:31:00+01:00")
    ran = []

    def start(command: Sequence[str]) -> int:
        nonlocal now
        ran.append(command[command.index("--cyctime") + 1])
        if len(ran) == 1:
            now += timedelta(days=1)
        return 9 if len(ran) == 1 else 0

    assert run_due(NIGHTLY, lambda: now, start, ignore) == 9
    assert ran == ["2026-03-10T02:30+01:00", "2026-03-11T02:30+01:00"]
    # What failed is not tried again by the same process.
    assert run_due(NIGHTLY, lambda: now, lambda command: 5, ignore, 2) == 5
    assert catalog.read_history("nightly").results[0].tries == 2


def ignore(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of renames take long on some disks."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


class Killed(Exception):
    """The process that ran a tick was killed."""


@pytest.mark.slow
def test_a_thousand_nights_succeed_once_each(
    quick_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks change, the machine sleeps, runs fail, or are killed before or after a success."""
    monkeypatch.setenv("PAI_HOME", str(quick_folder))
    chance = random.Random(6)
    schedule = replace(NIGHTLY, catch_up=15)
    published: dict[str, int] = {}

    def start(command: Sequence[str]) -> int:
        """What `pai --once-per cyctime` does, when it is killed at a random moment."""
        cyctime = command[command.index("--cyctime") + 1]
        event = chance.random()
        if event < 0.1:
            raise Killed
        if event < 0.2:
            return 1
        published.setdefault(cyctime, 0)
        if not published[cyctime]:
            published[cyctime] = 1
            if event < 0.3:
                raise Killed
        return 0

    nights = next_ticks(schedule.cron, zone(schedule.timezone), schedule.since, 1000)
    asleep = 0
    starts = [night + timedelta(seconds=3) for night in nights]
    starts += [starts[-1] + timedelta(minutes=minute) for minute in range(30)]
    for now in starts:
        asleep = asleep - 1 if asleep else chance.choice([0] * 9 + [5])
        if not asleep or now > nights[-1]:
            with suppress(Killed):
                run_due(
                    schedule,
                    partial(datetime.fromtimestamp, now.timestamp(), timezone.utc),
                    start,
                    ignore,
                )
    assert published == {night.isoformat(timespec="minutes"): 1 for night in nights}


def test_the_real_pai_runs_a_tick_once(world: World) -> None:
    """The installed line, a real job, and a second start that knows nothing of the first."""
    pai = [sys.executable, "-m", "pai_runner"]
    told = subprocess.run([*pai, "--help"], capture_output=True, text=True, check=True)
    if "--once-per" not in told.stdout:
        pytest.skip("this `pai` has no --once-per")
    script = world.folder / "train.py"
    script.write_text("import sys\nprint('trained', *sys.argv[1:])\n")
    world.file.write_text(
        "PAI -name tensorflow -Dscript=file://train.py "
        "-DuserDefinedParameters='--day=${bdp.system.bizdate}';\n"
    )
    world.install("--cron", "0 2 * * *", age=YEAR)
    world.change(python=sys.executable)
    now = datetime.now(timezone.utc)
    latest = next(latest_ticks("0 2 * * *", timezone.utc, now))
    log = Path(catalog.log_path("nightly"))
    for _ in range(2):
        assert world.run_line().returncode == 0, log.read_text()
        assert f"nightly: {latest:%Y-%m-%dT%H:%M}+00:00 succeeded" in log.read_text()
        os.unlink(os.path.join(catalog.folder(), "nightly.state.json"))
    printed = [line for line in log.read_text().splitlines() if line.startswith("trained")]
    assert printed == [f"trained --day={latest - timedelta(days=1):%Y%m%d}"]
