"""`pai schedule serve` as a process, with schedules whose ticks come each second or two."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from schedule_world import World
from support import wait_until

from pai_runner.schedule import catalog, locks
from pai_runner.schedule.ticks import latest_tick

pytest.importorskip("apscheduler")
pytest.importorskip("sqlalchemy")

YEARLY = ("--cron", "0 0 1 1 *", "--timezone", "UTC", "--serve")
EACH_SECOND = ("--cron", "* * * * * *", "--timezone", "UTC", "--serve")
LONG = timedelta(days=400)


class Serving:
    """A process that serves; what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said that."""
        wait_until(lambda: sum(text in line for line in list(self.lines)) >= times, 30)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(30)
        self._reader.join(30)
        return code


@pytest.fixture
def serve(world: World) -> Iterator[Callable[..., Serving]]:
    started = []

    def start(*arguments: str) -> Serving:
        started.append(Serving(world.start("serve", *arguments)))
        return started[-1]

    yield start
    for serving in started:
        serving.end()
        assert not any("Traceback" in line for line in serving.lines)


def test_ticks_are_run_as_they_come(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*EACH_SECOND)
    serving = serve()
    wait_until(lambda: len(world.cyctimes()) >= 2, 30)
    assert serving.end() == 0
    assert serving.lines[-1] == "pai: no longer serving\n"
    times = [datetime.fromisoformat(one) for one in world.cyctimes()]
    assert times == sorted(set(times))


def test_what_was_missed_is_run_once(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*YEARLY, age=LONG)
    serving = serve()
    serving.says("nightly: ended with 0")
    assert serving.end() == 0
    latest = latest_tick("0 0 1 1 *", timezone.utc, datetime.now(timezone.utc))
    assert latest is not None
    assert world.cyctimes() == [latest.isoformat(timespec="minutes")]
    # Served again, from its own store: there is nothing to make up for.
    again = serve()
    again.says("serving 1 schedules")
    again.end()
    assert len(world.calls()) == 1


def test_a_failed_tick_is_tried_again(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*YEARLY, age=LONG)
    world.behave("exit 9")
    serving = serve("--retry", "0.2s,0.4s")
    serving.says("is tried again at", 3)
    world.behave("exit 0")
    serving.says("nightly: ended with 0")
    assert serving.end() == 0
    assert len(set(world.cyctimes())) == 1
    assert catalog.read_history("nightly").results[-1].tries == len(world.calls()) >= 4


def test_what_cannot_be_started_is_tried_again(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*YEARLY, age=LONG)
    away = world.program.rename(world.folder / "away")
    serving = serve("--retry", "0.2s")
    serving.says(f"nightly: cannot start {world.program}: No such file", 2)
    away.rename(world.program)
    serving.says("nightly: ended with 0")
    assert len(world.calls()) == 1


def test_a_wrong_command_is_not_tried_again(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*YEARLY, age=LONG)
    world.behave("exit 2")
    serving = serve("--retry", "0.1s")
    serving.says("nightly: ended with 2")
    world.install(*YEARLY, "--name", "other")
    serving.says("other: next tick")
    assert len(world.calls()) == 1


@pytest.mark.slow
def test_a_tick_that_comes_while_another_runs_is_run(
    world: World, serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where failures are not tried again, and with a zone that has no name."""
    monkeypatch.setenv("TZ", "CST-8")
    world.install("--cron", "*/2 * * * * *", "--timezone", "UTC", "--serve")
    gate = world.folder / "gate"
    os.mkfifo(gate)
    world.behave(f"echo >&2 ready; read line <'{gate}'; exit 9")
    serving = serve("--retry", "never")
    serving.says("ready")
    serving.says("nightly: is running; what is due comes after it")
    world.behave("exit 0")
    gate.write_text("go\n")
    wait_until(lambda: len(world.calls()) >= 2, 30)


def test_one_that_another_runs_is_looked_at_again(
    world: World, serve: Callable[..., Serving]
) -> None:
    world.install(*YEARLY, age=LONG)
    with locks.running("nightly"):
        serving = serve("--retry", "never")
        serving.says("nightly: ended with 75")
        serving.says("nightly: is tried again at")
    assert world.calls() == []


def test_schedules_come_and_go_meanwhile(world: World, serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.says("serving 0 schedules")
    world.install(*YEARLY, age=LONG)
    serving.says("nightly: next tick")
    serving.says("nightly: ended with 0")
    assert world.verb("rm", "nightly")[0] == 0
    Path(catalog.folder(), "broken.json").write_text("{")
    world.install("--cron", "0 2 * * *", "--name", "of-cron")
    world.install(*YEARLY, "--name", "other")
    serving.says("nightly: is no longer served")
    serving.says("broken.json is damaged")
    serving.says("other: next tick")
    serving.end()
    assert not any("of-cron" in line for line in serving.lines)
    assert sum("broken.json is damaged" in line for line in serving.lines) == 1


def test_one_serves_at_a_time(world: World, serve: Callable[..., Serving]) -> None:
    first = serve()
    first.says("serving 0")
    code, _, errors = world.verb("serve")
    assert code == 75
    assert "are being served by another process" in errors
    first.process.kill()
    first.process.wait(30)
    serve().says("serving 0")


def test_what_runs_is_ended_and_waited_for(world: World, serve: Callable[..., Serving]) -> None:
    world.install(*YEARLY, age=LONG)
    gate, done = world.folder / "gate", world.folder / "done"
    os.mkfifo(gate)
    world.behave(f"trap 'echo >\"{done}\"; exit 1' TERM; echo >&2 ready; read line <'{gate}'")
    serving = serve()
    serving.says("ready")
    serving.process.send_signal(signal.SIGTERM)
    assert serving.end() == 0
    assert done.exists()
    assert catalog.read_history("nightly").results[-1].code == 1
    # What was cut off is due when it is served again.
    world.behave("exit 0")
    again = serve()
    again.says("nightly: ended with 0")


def test_a_store_that_cannot_be_read_is_named(world: World) -> None:
    catalog.make_folder()
    store = Path(catalog.folder(), "serve.sqlite")
    store.write_bytes(b"this is no database" * 100)
    process = world.start("serve")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 125
    assert f"{store} cannot be used" in errors


def test_a_store_that_cannot_be_written_ends_it(
    world: World, serve: Callable[..., Serving]
) -> None:
    """What APScheduler's own thread cannot write; a run that is under way is ended."""
    gate, done = world.folder / "gate", world.folder / "done"
    os.mkfifo(gate)
    world.behave(f"trap 'echo >\"{done}\"; exit 1' TERM; echo >&2 ready; read line <'{gate}'")
    world.install(*EACH_SECOND)
    serving = serve()
    serving.says("ready")
    with closing(sqlite3.connect(store_path(), isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")  # as a backup: it can be read all the time
        assert serving.process.wait(30) == 125
    serving.end()
    assert any(f"{store_path()} cannot be used: database is locked" in one for one in serving.lines)
    assert done.exists()


def test_a_try_that_cannot_be_planned_ends_it(world: World, serve: Callable[..., Serving]) -> None:
    gate = world.folder / "gate"
    os.mkfifo(gate)
    world.behave(f"echo >&2 ready; read line <'{gate}'; exit 9")
    world.install(*YEARLY, age=LONG)
    serving = serve()
    serving.says("ready")
    with closing(sqlite3.connect(store_path(), isolation_level=None)) as store:
        count = "SELECT count(*) FROM apscheduler_jobs"
        wait_until(lambda: store.execute(count).fetchone() == (1,))  # the first try is off it
        store.execute("BEGIN IMMEDIATE")
        gate.write_text("go\n")
        assert serving.process.wait(30) == 125
    serving.end()
    assert any("cannot be used: database is locked" in one for one in serving.lines)


def store_path() -> Path:
    return Path(catalog.folder(), "serve.sqlite")


def test_the_trigger_keeps_to_our_ticks() -> None:
    from pai_runner.schedule.triggers import CronTicks

    trigger = pickle.loads(pickle.dumps(CronTicks("0 2 * * *", "Europe/Berlin")))
    change = datetime.fromisoformat("2026-03-28T12:00+01:00")
    following = trigger.get_next_fire_time(None, change)
    assert following.isoformat() == "2026-03-29T03:00:00+02:00"
    # Of what was missed the latest is one run.
    later = change + timedelta(days=90)
    missed = trigger.get_next_fire_time(following, later)
    assert missed.isoformat() == "2026-06-26T02:00:00+02:00"
