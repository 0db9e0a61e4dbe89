"""`pai schedule ls` and `next`: what is scheduled, and when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from pai_runner.cli.output import print_json, print_table, say_error
from pai_runner.errors import UsageError
from pai_runner.schedule import catalog, locks
from pai_runner.schedule.catalog import Result, Schedule
from pai_runner.schedule.due import outcome_text
from pai_runner.schedule.ticks import instant_text, next_ticks
from pai_runner.schedule.zones import zone


def ls(arguments: Sequence[str]) -> int:
    """Print the schedules. Returns 0, or 1 where one is damaged."""
    parser = argparse.ArgumentParser("pai schedule ls", description="Lists the schedules.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    schedules, damaged = catalog.read_all()
    for error in damaged:
        say_error(error)
    if options.json:
        print_json([_json(schedule) for schedule in schedules])
    elif schedules:
        header = ("name", "cron", "timezone", "file", "backend", "next", "last")
        print_table([header, *map(_row, schedules)])
    elif not damaged:
        print("no schedules")
    return 1 if damaged else 0


def upcoming(arguments: Sequence[str]) -> int:
    """Print the next ticks. Returns the exit code."""
    parser = argparse.ArgumentParser(
        "pai schedule next", description="Prints the next ticks of a schedule, one a line."
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-n", type=_count, default=5, metavar="N", help="how many; default 5")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    ticks = _next(catalog.read(options.name), options.n)
    if options.json:
        print_json(ticks)
    else:
        print("\n".join(ticks))
    return 0


def _next(schedule: Schedule, count: int) -> list[str]:
    now = datetime.now(timezone.utc)
    ticks = next_ticks(schedule.cron, zone(schedule.timezone), now, count)
    return [instant_text(tick) for tick in ticks]


def _row(schedule: Schedule) -> tuple[str, ...]:
    following = _next(schedule, 1)
    return (
        schedule.name,
        schedule.cron,
        schedule.timezone,
        schedule.file,
        schedule.backend,
        following[0] if following else "never",
        _last_text(schedule.name, catalog.read_history(schedule.name).last),
    )


def _last_text(name: str, last: Result | None) -> str:
    if last is None:
        return "-"
    text = f"{last.cyctime} {outcome_text(last.code)}"
    return f"{text}: who ran it was killed" if last.code is None and locks.is_left(name) else text


def _json(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule for machines: as it is on record, with its next tick and last results."""
    history = catalog.read_history(schedule.name)
    return {
        **schedule.to_json(),
        "next": next(iter(_next(schedule, 1)), None),
        "last": _result_json(history.last),
        "last_success": _result_json(history.last_success),
    }


def _result_json(result: Result | None) -> dict[str, Any] | None:
    return None if result is None else asdict(result)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise UsageError(f"`{text}` is no number of ticks", "a number from 1 to 10000")
    return int(text)
