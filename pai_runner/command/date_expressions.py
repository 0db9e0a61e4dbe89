"""DataWorks' date expressions: ${yyyymmdd-1}, $[hh24miss-1/24], $[add_months(mm,-1)], $bizdate.

The rules are those of Alibaba's pages on scheduling parameters ("Supported formats for scheduling
parameters", "Comparison of custom parameter formats"). All arithmetic is on the wall clock, as
DataWorks': a day before 02:30 is 02:30, whatever the zone did in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from pai_runner.command.grammar import shown
from pai_runner.errors import UsageError

FORMS = (
    "valid are for example $[yyyymmdd-1], $[yyyymmdd-7*1], $[hh24miss-1/24], "
    "$[add_months(yyyymmdd,-1)], ${yyyymmdd-1}, ${yyyymm-2}, $bizdate, $cyctime, $gmtdate and "
    "$bizmonth; mm is the month, mi the minute"
)

_TIMES = "write for example 2026-11-20T00:00, 2026-11-20T00:00+08:00, 2026-11-20, 20261120000000"
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<time>\d\d:\d\d)(?::(?P<seconds>\d\d)(?:\.\d+)?)?"
    r"(?P<offset>Z|[+-]\d\d:\d\d(?::\d\d)?)?)?",
    re.ASCII,
)
_YYYYMMDD = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII)


# ====== The instant ======


@dataclass(frozen=True)
class Instant:
    """The time that a job is scheduled for: aware, in the job's zone, in whole seconds."""

    cyctime: datetime

    def __post_init__(self) -> None:
        if self.cyctime.tzinfo is None or self.cyctime.microsecond:
            raise ValueError("a scheduled time has a zone and whole seconds")

    @property
    def bizdate(self) -> date:
        """The business date: the day before the scheduled one, also for hourly jobs."""
        return self.cyctime.date() - timedelta(days=1)


def instant(text: str | None, zone: tzinfo, now: datetime) -> Instant:
    """Return the instant that `text` says, in `zone`; where it says none, `now`, which is aware.

    `2026-11-20T00:00`, with seconds or not, with an offset or not, a blank instead of the T;
    `2026-11-20`, its midnight; or `20261120000000`. Fractions of a second are cut off. A time with
    an offset is converted. One without is the zone's wall time: the first of the two when a change
    of the clock repeats it, and as if the clock had not changed yet when it skips it (zoneinfo's
    fold=0). Raises UsageError for any other text.
    """
    try:
        when = now if text is None else _read(text)
        there = when.replace(tzinfo=zone) if when.tzinfo is None else when.astimezone(zone)
        found = Instant(there.replace(microsecond=0))
        _ = found.bizdate  # the first day of all has no day before
    except (ValueError, OverflowError) as error:
        raise UsageError(f"`{shown(text or '')}` is not a scheduled time", _TIMES) from error
    return found


def _read(text: str) -> datetime:
    digits = _DIGITS.fullmatch(text)
    if digits is not None:
        return datetime.fromisoformat(digits.expand(r"\1-\2-\3T\4:\5:\6"))
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError(text)
    offset = (found["offset"] or "").replace("Z", "+00:00")
    time = f"{found['time'] or '00:00'}:{found['seconds'] or '00'}"
    return datetime.fromisoformat(f"{found['date']}T{time}{offset}")


# ====== Expressions ======

_FIELDS: Mapping[str, Callable[[datetime], str]] = {
    "yyyy": lambda when: f"{when.year:04}",
    "yy": lambda when: f"{when.year % 100:02}",
    "mm": lambda when: f"{when.month:02}",
    "dd": lambda when: f"{when.day:02}",
    "hh24": lambda when: f"{when.hour:02}",
    "hh12": lambda when: f"{_of_twelve(when.hour):02}",
    "hh": lambda when: f"{_of_twelve(when.hour):02}",
    "mi": lambda when: f"{when.minute:02}",
    "ss": lambda when: f"{when.second:02}",
}
# Only one way to read each: `yyyy` is never `yy` twice.
_FIELD = re.compile(r"yyyy|yy(?!yy)|mm|dd|hh24|hh12|hh(?!24|12)|mi|ss")
_FORMAT = rf"(?:{_FIELD.pattern})(?:[-/_.:年月日时分秒]*(?:{_FIELD.pattern}))*"
_NUMBER = r"[0-9]{1,9}(?:\*[0-9]{1,9})?"
# DataWorks' older form tolerated blanks around the sign.
_OFFSET = re.compile(rf"\s*([+-])\s*({_NUMBER})(/24/60|/24|)")
_EXPRESSION = re.compile(
    rf"(?:(?P<format>{_FORMAT})"
    rf"|add_months\(\s*(?P<moved>{_FORMAT})\s*,\s*(?P<sign>[+-]?)(?P<months>{_NUMBER})\s*\))"
    rf"(?P<offsets>(?:\s*[+-]\s*{_NUMBER}(?:/24(?:/60)?)?)*)"
)
# What nobody writes who does not mean a date: the rest may be arithmetic of a shell.
_LIKE_A_DATE = re.compile(r"yyy|mmdd|hh24|hh12|add_months", re.IGNORECASE)
_WORD = re.compile(r"\w+", re.ASCII)
_CLOCK = {"hh24", "hh12", "hh", "mi", "ss"}

# What stands in a command without being assigned, and the expression that it is.
BUILT_IN = {"bdp.system.bizdate": "$bizdate", "bdp.system.cyctime": "$cyctime"}

_IDS = ("jobid", "nodeid", "taskid")
# The pieces of an assigned value that are no constant, and what is not closed.
_PIECE = re.compile(
    r"\$\[[^\[\]]*\]|\$\{(?P<braced>[^{}]*)\}|\$[\[{]|\$(?P<name>[A-Za-z]\w*)(?P<offset>[+-]\d+)?",
    re.ASCII,
)


def evaluate(expression: str, instant: Instant) -> str | None:
    """Return what `${...}` or `$[...]` is at `instant`; None when it is no date expression.

    `${...}` counts from the business date, in the smallest unit that it shows: days, months or
    years. `$[...]` counts from the scheduled time, in days and, as /24 and /24/60, in hours and
    minutes; add_months in months. A month that has no such day gives its last one. Raises
    UsageError for what looks like a date expression but is none, and for a result before the year 1
    or after 9999.
    """
    inside = expression[2:-1].strip()
    found = _EXPRESSION.fullmatch(inside)
    if found is None:
        # A plain word within braces is a name, whatever it looks like.
        plain = expression[1] == "{" and _WORD.fullmatch(inside)
        if _LIKE_A_DATE.search(inside) and not plain:
            raise _wrong(expression)
        return None
    shape = found["format"] or found["moved"]
    fields = set(_FIELD.findall(shape))
    offsets = _OFFSET.findall(found["offsets"])
    try:
        if expression[1] == "{":
            when = _from_bizdate(expression, found["moved"], fields, offsets, instant)
        else:
            when = _from_cyctime(expression, found, fields, offsets, instant)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"`{shown(expression)}` is not within the years 1 to 9999") from error
    return _FIELD.sub(lambda field: _FIELDS[field[0]](when), shape)


def assigned_value(value: str, instant: Instant) -> str:
    """Return what the right side of an assignment is at `instant`.

    It is made of expressions and constants: `$bizdate`, `${yyyymm}01`, `v7`. Raises UsageError for
    an expression that is wrong.
    """
    return _PIECE.sub(lambda found: _piece(found, instant), value)


def system_value(name: str, instant: Instant) -> str:
    """Return what `$name` is: bizdate, cyctime, gmtdate or bizmonth. Raises UsageError."""
    bizdate, cyctime = instant.bizdate, instant.cyctime
    if name == "bizdate":
        return _day(bizdate)
    if name == "cyctime":
        return _day(cyctime) + f"{cyctime.hour:02}{cyctime.minute:02}{cyctime.second:02}"
    if name == "gmtdate":
        return _day(cyctime)
    if name == "bizmonth":
        same = (bizdate.year, bizdate.month) == (cyctime.year, cyctime.month)
        return _day(bizdate.replace(day=1) - timedelta(days=1) if same else bizdate)[:6]
    if name in _IDS:
        raise UsageError(f"`${name}` is an id of DataWorks, and there is none here", FORMS)
    raise _wrong(f"${name}")


def shifted(day: str, days: int) -> str | None:
    """Return the day `days` after the yyyymmdd date `day`, as such; None when there is none."""
    found = _YYYYMMDD.fullmatch(day)
    if found is None:
        return None
    try:
        return _day(date(*map(int, found.groups())) + timedelta(days=days))
    except (ValueError, OverflowError):
        return None


def _piece(found: re.Match[str], instant: Instant) -> str:
    text = found[0]
    if found["offset"]:
        raise UsageError(
            f"`{shown(text)}`: ${found['name']} takes no offset",
            "write for example ${yyyymmdd-1}, which counts from the business date, or "
            "$[yyyymmdd-1], which counts from the scheduled time",
        )
    if found["name"]:
        return system_value(found["name"], instant)
    if text in ("$[", "${"):
        raise UsageError(f"`{text}` is never closed in `{shown(found.string)}`", FORMS)
    if found["braced"] in BUILT_IN:
        return system_value(BUILT_IN[found["braced"]][1:], instant)
    value = evaluate(text, instant)
    if value is None:
        raise _wrong(text)
    return value


def _from_bizdate(
    expression: str,
    add_months: str | None,
    fields: set[str],
    offsets: list[tuple[str, str, str]],
    instant: Instant,
) -> datetime:
    if add_months or fields & _CLOCK or any(part for _, _, part in offsets):
        raise UsageError(
            f"`{shown(expression)}`: ${{...}} is a date; it knows no hours and no add_months",
            f"write $[{shown(expression[2:-1])}], which counts from the scheduled time",
        )
    day = datetime.combine(instant.bizdate, datetime.min.time())
    count = sum(_number(sign, number) for sign, number, _ in offsets)
    if "dd" in fields:
        return day + timedelta(days=count)
    return _months_later(day, count if "mm" in fields else 12 * count)


def _from_cyctime(
    expression: str,
    found: re.Match[str],
    fields: set[str],
    offsets: list[tuple[str, str, str]],
    instant: Instant,
) -> datetime:
    when = instant.cyctime.replace(tzinfo=None)
    if found["months"]:
        when = _months_later(when, _number(found["sign"], found["months"]))
    for sign, number, part in offsets:
        count = _number(sign, number)
        if part:
            when += timedelta(hours=count) if part == "/24" else timedelta(minutes=count)
        elif "dd" in fields or any(other for _, _, other in offsets):
            when += timedelta(days=count)
        else:
            raise UsageError(
                f"`{shown(expression)}` counts in days, and shows none",
                "an hour is 1/24, a minute 1/24/60; for months and years write "
                "$[add_months(yyyymm,-1)] or, from the business date, ${yyyymm-1} and ${yyyy-1}",
            )
    return when


def _months_later(when: datetime, months: int) -> datetime:
    from calendar import monthrange  # few commands need it

    year, month = divmod(when.year * 12 + when.month - 1 + months, 12)
    last = monthrange(year, month + 1)[1]
    return when.replace(year=year, month=month + 1, day=min(when.day, last))


def _number(sign: str, text: str) -> int:
    first, _, second = text.partition("*")
    count = int(first) * int(second or 1)
    return -count if sign == "-" else count


def _of_twelve(hour: int) -> int:
    return (hour - 1) % 12 + 1


def _day(day: date) -> str:
    return f"{day.year:04}{day.month:02}{day.day:02}"


def _wrong(expression: str) -> UsageError:
    return UsageError(f"`{shown(expression)}` is not a date expression", FORMS)
