"""The ticks of a cron expression in a time zone: pure functions.

What the fields mean, and what happens when clocks change, is as in Debian's cron (crontab(5) and
cron(8) of Debian); cronsim works it out. A tick at fixed times (neither the minute nor the hour
begins with `*`) that a change skips comes right after the change, and one that a change repeats
comes once, the first time. All other ticks go by the clock on the wall: what is skipped is left
out, what is repeated comes twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import partial
from itertools import islice, takewhile
from operator import ge

from cronsim import CronSim, CronSimError

from pai_runner.errors import UsageError

_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_SECOND = "second"

# What every cron reads. A step stands behind a range: `5/15` is read differently, or not at all.
_VALUE = r"(?:[0-9]{1,2}|[a-z]{3})"
_FIELD = re.compile(rf"(?:(?:\*|{_VALUE}-{_VALUE})(?:/[0-9]{{1,2}})?|{_VALUE})", re.IGNORECASE)

_FORM = 'five fields: minute, hour, day of the month, month, day of the week; as "0 2 * * *"'

# How far back the latest tick is looked for, further and further: a tick of each minute is found
# at once, and one of a 29 February that is a Monday at last (it may be 40 years ago).
_LOOK_BACK = tuple(
    timedelta(hours=hours) for hours in (0.05, 2, 50, 400, 1500, 20_000, 80_000, 400_000)
)

_ANY_TIME = datetime(2000, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Fields:
    """The values that the fields of an expression name; a Sunday is 0.

    `days_and_weekdays`: a day counts that both day fields name. It is false where both are
    restricted: then a day counts that either names.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    days_and_weekdays: bool


def canonical(cron: str, with_seconds: bool = False) -> str:
    """Return an expression, checked, with one blank between its fields; @daily is written out.

    With `with_seconds` a sixth field, which comes first, may name seconds. Raises UsageError
    that says which field is wrong.
    """
    words = _NAMED.get(cron.strip().lower(), cron).split()
    if cron.strip().startswith("@") and words == cron.split():
        raise UsageError(f"there is no `{cron.strip()}`", f"one of: {', '.join(_NAMED)}")
    names = (_SECOND, *_FIELDS) if with_seconds and len(words) == 6 else _FIELDS
    if len(words) != len(names):
        raise UsageError(f"`{cron}` has {len(words)} fields; a cron expression has 5", _FORM)
    for place, (name, word) in enumerate(zip(names, words, strict=True)):
        alone = ["*"] * len(words)
        alone[place] = word
        if not all(map(_FIELD.fullmatch, word.split(","))) or not _is_read(" ".join(alone)):
            raise UsageError(
                f"`{cron}`: the {name} `{word}` is wrong",
                "a value, a range 1-5, a step */15 or 0-30/10, or a list of these with commas",
            )
    if not _is_read(" ".join(words)):
        raise UsageError(f"`{cron}`: there is no such day", "no month named has that day")
    return " ".join(words)


def fields(cron: str) -> Fields:
    """Return what a canonical expression of five fields names."""
    read = CronSim(cron, _ANY_TIME)
    weekdays = {day % 7 for day in read.weekdays if isinstance(day, int)}
    return Fields(
        frozenset(read.minutes),
        frozenset(read.hours),
        frozenset(read.days),
        frozenset(read.months),
        frozenset(weekdays),
        read.day_and,
    )


def ticks_after(cron: str, zone: tzinfo, instant: datetime) -> Iterator[datetime]:
    """Yield the ticks of a canonical expression later than `instant`, in `zone`, as they come."""
    for moment in _moments(cron, zone, instant):
        yield moment.astimezone(zone)


def latest_tick(cron: str, zone: tzinfo, now: datetime) -> datetime | None:
    """Return the last tick that is not later than `now`, in `zone`; None where there is none."""
    return next(latest_ticks(cron, zone, now), None)


def latest_ticks(cron: str, zone: tzinfo, now: datetime) -> Iterator[datetime]:
    """Yield the ticks that are not later than `now`, in `zone`, the latest first.

    They are found forwards, so that what is due is what `ticks_after` has told.
    """
    moment = end = now.astimezone(timezone.utc)
    for back in _LOOK_BACK:
        start = moment - back
        found = list(takewhile(partial(ge, end), _moments(cron, zone, start)))
        yield from (one.astimezone(zone) for one in reversed(found))
        end = start


def instant_text(tick: datetime) -> str:
    """Return a tick as ISO text with its offset: 2026-11-20T02:00+08:00."""
    return tick.isoformat(timespec="seconds" if tick.second else "minutes")


def next_ticks(cron: str, zone: tzinfo, now: datetime, count: int) -> list[datetime]:
    """Return the `count` ticks that come after `now`."""
    return list(islice(ticks_after(cron, zone, now), count))


def _moments(cron: str, zone: tzinfo, instant: datetime) -> Iterator[datetime]:
    """Yield ticks in UTC: within one zone Python compares what clocks show, not moments."""
    last = instant.astimezone(timezone.utc)
    for tick in CronSim(cron, instant.astimezone(zone)):
        moment = tick.astimezone(timezone.utc)
        # Begun within a repeated hour, cronsim names its first pass once more.
        if moment > last:
            last = moment
            yield moment


def _is_read(cron: str) -> bool:
    try:
        CronSim(cron, _ANY_TIME)
    except CronSimError:
        return False
    return True
