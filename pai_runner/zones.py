"""Time zones: the one that is named, and the machine's own."""

from __future__ import annotations

import os
from datetime import datetime, timezone, tzinfo

from pai_runner.errors import UsageError, nearest

_LOCALTIME = "/etc/localtime"
_DATABASE = "/zoneinfo/"


def zone(name: str | None) -> tzinfo:
    """Return the zone that IANA's database calls `name`; where none is named, the machine's.

    Raises UsageError for a name that the machine's database does not have.
    """
    if name is None:
        return machine_zone()
    found = None if os.path.isabs(name) else _known(name)
    if found is None:
        raise _unknown(name)
    return found


def machine_zone() -> tzinfo:
    """Return the machine's zone: what TZ says, else /etc/localtime, as the C library does.

    Where neither can be read (TZ may hold rules instead of a name) it is the machine's present
    offset from UTC, which does not follow changes of the clock.
    """
    setting = os.environ.get("TZ")
    if setting is not None:
        # An empty TZ is UTC, and a colon may stand before a name.
        found = _known(setting.removeprefix(":") or "UTC")
    else:
        found = _known(os.path.realpath(_LOCALTIME).rpartition(_DATABASE)[2]) or _known(_LOCALTIME)
    return found or datetime.now().astimezone().tzinfo or timezone.utc


def _known(name: str) -> tzinfo | None:
    """Return the zone of a name, or of a file's absolute path; None when there is none."""
    if name == "UTC":  # it needs no database
        return timezone.utc
    from zoneinfo import ZoneInfo  # here, so that `pai --help` need not wait for it

    try:
        if not os.path.isabs(name):
            return ZoneInfo(name)
        with open(name, "rb") as file:
            return ZoneInfo.from_file(file, key=name)
    except (OSError, ValueError, LookupError):
        return None


def _unknown(name: str) -> UsageError:
    from zoneinfo import available_timezones

    names = available_timezones()
    if not names:
        return UsageError(
            f"the zone `{name}` is not known here: this machine has no database of zones",
            "install the package tzdata",
        )
    close = nearest(name, names)
    meant = f"; did you mean {close[0]}?" if close else ""
    return UsageError(
        f"there is no time zone `{name}`{meant}",
        "zones are called as in IANA's database: Asia/Shanghai, Europe/Berlin, UTC",
    )
