"""Time zones by their IANA names."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pai_runner.errors import SetupError, UsageError, nearest

_LOCALTIME = "/etc/localtime"
_NAME_FILE = "/etc/timezone"  # Debian's; it counts where /etc/localtime is a copy and no link

# How far two zones are compared, and how finely: where one changes its offset, by half hours, as
# New York's clocks change an hour before Chicago's.
_COMPARED = timedelta(days=4 * 366)
_STEP = timedelta(hours=6)
_FINE_STEP = timedelta(minutes=30)


def zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name, for example Asia/Shanghai. Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        # OSError: the name of a directory, as `Europe`.
        close = nearest(name, available_timezones())
        meant = f"did you mean {' or '.join(close)}?" if close else "for example Asia/Shanghai"
        raise UsageError(
            f"there is no time zone `{name}`", f"give an IANA name; {meant}"
        ) from error


def machine_zone(localtime: str = _LOCALTIME, name_file: str = _NAME_FILE) -> str:
    """Return the IANA name of the machine's zone, which cron and systemd go by: /etc/localtime's.

    Raises SetupError where the machine does not tell a name.
    """
    _, _, name = os.path.realpath(localtime).partition("/zoneinfo/")
    if not name and os.path.exists(name_file):
        with open(name_file, encoding="utf-8") as file:
            name = file.read().strip()
    if not name and not os.path.exists(localtime):
        return "UTC"  # as the C library takes it
    name = name.removeprefix("posix/")
    if name not in available_timezones():
        raise SetupError(
            f"{localtime} does not tell the name of this machine's time zone",
            "say it: --timezone Asia/Shanghai",
        )
    return name


def default_zone() -> str:
    """Return the zone of this process: TZ where it is an IANA name, else the machine's."""
    name = os.environ.get("TZ", "").removeprefix(":")
    return name if name in available_timezones() else machine_zone()


def constant_shift(source: ZoneInfo, target: ZoneInfo, now: datetime) -> timedelta | None:
    """Return how far `target`'s clocks are ahead of `source`'s; None where that changes.

    What is looked at is the time from `now` on, four years long.
    """
    if source.key == target.key:
        return timedelta()
    start = now.astimezone(timezone.utc)
    before = _offsets(start, source, target)
    seen = {before}
    for count in range(1, _COMPARED // _STEP + 1):
        moment = start + count * _STEP
        offsets = _offsets(moment, source, target)
        if offsets != before:
            fine = range(_STEP // _FINE_STEP)
            seen.update(_offsets(moment - one * _FINE_STEP, source, target) for one in fine)
        before = offsets
    shifts = {there - here for here, there in seen}
    return shifts.pop() if len(shifts) == 1 else None


def _offsets(moment: datetime, source: ZoneInfo, target: ZoneInfo) -> tuple[timedelta, timedelta]:
    here, there = (moment.astimezone(one).utcoffset() for one in (source, target))
    return here or timedelta(), there or timedelta()
