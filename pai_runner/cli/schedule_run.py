"""`pai schedule run NAME` and `run-now`: run a schedule's file in the foreground."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from pai_runner.cli.output import say
from pai_runner.errors import UsageError
from pai_runner.schedule import catalog, due, locks
from pai_runner.schedule.catalog import Schedule
from pai_runner.schedule.due import Say, Start
from pai_runner.schedule.foreground import Foreground, environment_with
from pai_runner.schedule.logs import begin_anew

_Run = Callable[[Schedule, Start, Callable[[], bool]], int]


def run(arguments: Sequence[str]) -> int:
    """Run what is due. Returns 0, or the exit code of the first tick that failed."""
    parser = argparse.ArgumentParser(
        "pai schedule run",
        description="Runs the file for the latest tick, unless that has succeeded: what cron, "
        "systemd and `pai schedule serve` start. Ends with 75 where it is running already; where "
        "only what a killed one had started is left, waits for its end.",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--catch-up",
        type=catch_up_count,
        metavar="N",
        help="of the last N ticks run those that have not succeeded; default as installed",
    )
    options = parser.parse_args(arguments)
    return _run_one(
        options.name,
        lambda schedule, start, is_ended: due.run_due(
            schedule, _now, start, say, options.catch_up, is_ended
        ),
        tell=say,
    )


def run_now(arguments: Sequence[str]) -> int:
    """Run the file for the tick of this minute, and what comes due meanwhile.

    Returns 0, or the exit code of the first that failed.
    """
    parser = argparse.ArgumentParser(
        "pai schedule run-now",
        description="Runs the file as if a tick came this minute, whatever the schedule says.",
    )
    parser.add_argument("name", metavar="NAME")
    options = parser.parse_args(arguments)
    return _run_one(
        options.name,
        lambda schedule, start, is_ended: due.run_now(schedule, _now, start, say, is_ended),
    )


def catch_up_count(text: str) -> int:
    """Return the number of ticks that a word of the command line names. Raises UsageError."""
    if not text.isdecimal() or not 1 <= int(text) <= catalog.REMEMBERED:
        raise UsageError(
            f"`{text}` is no number of ticks", f"a number from 1 to {catalog.REMEMBERED}"
        )
    return int(text)


def _run_one(name: str, run_it: _Run, tell: Say | None = None) -> int:
    """Run a schedule under its lock; signals go to what runs. `tell` is as for the lock."""
    catalog.read(name)  # before a lock is made for a name that is none
    with locks.running(name, tell) as lock, Foreground() as foreground:
        schedule = catalog.read(name)
        try:
            begin_anew(name)
        except OSError as error:
            say(f"{name}: its log cannot be begun anew: {error}")
        environment = environment_with(schedule.environment)

        def start(command: Sequence[str]) -> int:
            # The lock goes along: where this process is killed, what it started still holds it.
            return foreground.run(command, schedule.folder, environment, [lock])

        return run_it(schedule, start, lambda: foreground.signal is not None)


def _now() -> datetime:
    return datetime.now(timezone.utc)
