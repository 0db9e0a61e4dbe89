"""What of a schedule is due, and running it.

Whoever starts `pai schedule run NAME` (cron, a systemd timer, `pai schedule serve`, a person) need
not know the time: what is run is what is due and has not succeeded. So a start too many does
nothing, and one that was missed is made up for by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice, takewhile

from pai_runner.errors import ExitCode
from pai_runner.schedule.catalog import (
    History,
    Result,
    Schedule,
    ended,
    read_history,
    record,
)
from pai_runner.schedule.ticks import instant_text, latest_ticks
from pai_runner.schedule.zones import zone

# Starts `pai` with a command line, and returns its exit code.
Start = Callable[[Sequence[str]], int]
Say = Callable[[str], None]

# `pai` has a word for the same date that is up to the user.
_ONCE_PER = "--once-per"
ONCE_PER_TICK = (_ONCE_PER, "cyctime")


def due_ticks(schedule: Schedule, now: datetime, count: int | None = None) -> list[datetime]:
    """Return the last `count` ticks (default: the schedule's catch_up) that are due, oldest first.

    They lie between the schedule's creation and `now`.
    """
    latest = latest_ticks(schedule.cron, zone(schedule.timezone), now)
    due = takewhile(lambda tick: not _is_before(tick, schedule.since), latest)
    return list(islice(due, schedule.catch_up if count is None else count))[::-1]


def unfinished_tick(schedule: Schedule, history: History, now: datetime) -> datetime | None:
    """Return the latest tick that is due, where it has not succeeded."""
    due = due_ticks(schedule, now, 1)
    return due[0] if due and not history.succeeded(due[0]) else None


def command_for(schedule: Schedule, tick: datetime) -> list[str]:
    """Return the command line that runs a schedule's file for `tick`."""
    once = () if _names_option(schedule.options, _ONCE_PER) else ONCE_PER_TICK
    return schedule.pai(
        *("-f", schedule.file),
        *("--cyctime", instant_text(tick)),
        *("--timezone", schedule.timezone),
        *("--name", schedule.name),
        *once,
        *schedule.options,
    )


def run_due(
    schedule: Schedule,
    clock: Callable[[], datetime],
    start: Start,
    say: Say,
    count: int | None = None,
    is_ended: Callable[[], bool] = lambda: False,
) -> int:
    """Run what is due and has not succeeded, oldest first. The caller holds the schedule's lock.

    `clock` tells the time: what came due meanwhile is run as well, as whoever was started for it
    found the lock held. Each tick is tried once. One that fails does not keep later ones from
    being run, unless `is_ended` says that this process was told to end. Returns 0, or the exit
    code of the first that failed.
    """
    first_failure = int(ExitCode.OK)
    tried: set[float] = set()
    while True:
        due = due_ticks(schedule, clock(), count)
        history = read_history(schedule.name)
        left = [tick for tick in due if tick.timestamp() not in tried]
        wanted = [tick for tick in left if not history.succeeded(tick)]
        if not wanted:
            break
        for tick in wanted:
            tried.add(tick.timestamp())
            code = run_tick(schedule, tick, start, say)
            first_failure = first_failure or code
            if is_ended():
                return first_failure
    if not tried:
        say(f"{schedule.name}: {_nothing_due(due)}")
    return first_failure


def run_now(
    schedule: Schedule,
    clock: Callable[[], datetime],
    start: Start,
    say: Say,
    is_ended: Callable[[], bool] = lambda: False,
) -> int:
    """Run a schedule's file for the tick of this minute, then what came due while that ran.

    The caller holds the schedule's lock. What was due before is not run. Returns 0, or the exit
    code of the first that failed.
    """
    begun = clock()
    code = run_tick(schedule, this_minute(schedule, begun), start, say)
    # Whoever was started for these found the lock held.
    meanwhile = replace(schedule, created=begun.isoformat())
    if is_ended() or not due_ticks(meanwhile, clock(), 1):
        return code
    rest = run_due(meanwhile, clock, start, say, is_ended=is_ended)
    return code or rest


def run_tick(schedule: Schedule, tick: datetime, start: Start, say: Say) -> int:
    """Run a schedule's file for `tick`, and record how it ended. Returns its exit code."""
    before = read_history(schedule.name).of(tick)
    tries = 1 if before is None else before.tries + 1
    result = Result(instant_text(tick), _now_text(), tries)
    record(schedule.name, result)
    say(f"{schedule.name}: {result.cyctime} starts" + (f", try {tries}" if tries > 1 else ""))
    code = start(command_for(schedule, tick))
    record(schedule.name, ended(result, code, _now_text()))
    say(f"{schedule.name}: {result.cyctime} {outcome_text(code)}")
    return code


def this_minute(schedule: Schedule, now: datetime) -> datetime:
    """Return the tick that `now` would be: to the minute, in the schedule's zone."""
    return now.astimezone(zone(schedule.timezone)).replace(second=0, microsecond=0)


def outcome_text(code: int | None) -> str:
    """Return how a run ended, for people."""
    if code is None:
        return "has not ended"
    if code == ExitCode.OK:
        return "succeeded"
    if code == ExitCode.BUSY:
        return f"was put off ({code})"
    return f"failed ({code})"


def _nothing_due(due: Sequence[datetime]) -> str:
    if not due:
        return "nothing has been due since it was installed"
    return f"{instant_text(due[-1])} has succeeded; nothing else is due"


def _is_before(tick: datetime, instant: datetime) -> bool:
    return tick.astimezone(timezone.utc) < instant.astimezone(timezone.utc)


def _names_option(words: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)


def _now_text() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
