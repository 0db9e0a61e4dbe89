"""Cron expressions as systemd writes them: OnCalendar= (systemd.time(7))."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from pai_runner.schedule.ticks import Fields, fields, ticks_after
from pai_runner.schedule.zones import zone

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_ALL_DAYS, _ALL_MONTHS = range(1, 32), range(1, 13)
_DAY = timedelta(days=1)
# For so long changes of the clock are written out.
_AHEAD = 10 * 366


def on_calendar(cron: str, timezone: str, now: datetime) -> list[str]:
    """Return the calendar events of a canonical expression in a zone.

    They are one or two, and one for each night of the next ten years that skips a tick: where
    cron runs right after the change of the clocks, systemd leaves the tick out.
    """
    return [*_events(fields(cron), timezone), *_made_up_for(cron, timezone, now)]


def _events(named: Fields, timezone: str) -> list[str]:
    """Two events are needed for the days that either of two fields names.

    systemd takes those that both name.
    """
    weekdays, days = _weekdays(named), _list(named.days, _ALL_DAYS)
    pairs = [(weekdays, days)] if named.days_and_weekdays else [("", days), (weekdays, "*")]
    months = _list(named.months, _ALL_MONTHS)
    time = f"{_list(named.hours, range(24))}:{_list(named.minutes, range(60))}:00"
    return [f"{on}*-{months}-{of} {time} {timezone}" for on, of in pairs]


def _made_up_for(cron: str, timezone: str, now: datetime) -> list[str]:
    """Return an event for each tick that does not come at a time which its fields name."""
    named, ours = fields(cron), zone(timezone)
    return [
        f"{tick:%Y-%m-%d %H:%M}:00 {timezone}"
        for noon in _noons_before_changes(now.astimezone(ours))
        for tick in _ticks_between(cron, ours, noon, noon + _DAY)
        if tick.hour not in named.hours or tick.minute not in named.minutes
    ]


def _noons_before_changes(now: datetime) -> Iterator[datetime]:
    """Yield the noons whose next has another offset from UTC."""
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0) - _DAY
    for _ in range(_AHEAD):
        following = noon + _DAY
        if following.utcoffset() != noon.utcoffset():
            yield noon
        noon = following


def _ticks_between(cron: str, ours: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    ticks = ticks_after(cron, ours, start)
    return takewhile(lambda tick: tick.timestamp() <= end.timestamp(), ticks)


def _weekdays(named: Fields) -> str:
    """Return the days of the week and a blank; nothing for all."""
    if len(named.weekdays) == len(_DAYS):
        return ""
    return ",".join(_DAYS[day] for day in sorted(named.weekdays)) + " "


def _list(values: Collection[int], everything: Collection[int]) -> str:
    if len(values) == len(everything):
        return "*"
    return ",".join(f"{value:02d}" for value in sorted(values))
