"""A schedule as a line of the user's crontab; all other lines stay as they are, byte for byte."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import home
from pai_runner.schedule.catalog import Schedule, log_path
from pai_runner.schedule.entry import entry_command, entry_environment, marker, one_line
from pai_runner.schedule.ticks import fields
from pai_runner.schedule.zones import constant_shift, machine_zone, zone

# cron's MAX_COMMAND is 1000; longer lines are refused by some and cut by others.
_LONGEST = 990

# What `crontab -l` says where the user has none: Debian's, cronie's and macOS's, then busybox's.
# Any other failure is one: a crontab taken for empty would be lost.
_NONE_YET = re.compile(rb"no crontab for|can't open .*No such file")

_ITS_OWN_ZONE = re.compile(rb"^\s*CRON_TZ\s*=", re.MULTILINE)

# Lines are written for a Bourne shell. The last of these settings counts for ours.
_ITS_SHELL = re.compile(rb"^[ \t]*SHELL[ \t]*=[ \t]*[\"']?([^\"'\r\n]*?)[\"' \t\r]*$", re.MULTILINE)
_BOURNE = ("sh", "bash", "dash", "zsh", "ksh")

_DOUBLE = re.compile(r"\\(?=[\\%])")

_HOUR = timedelta(hours=1)
_OTHERS = "add --systemd or --serve: these know time zones"


def preview(schedule: Schedule) -> list[tuple[str, str]]:
    """Return where what is written, for people: pairs of a place and a text. Raises UsageError."""
    return [("your crontab", "\n".join(lines(schedule)) + "\n")]


def install(schedule: Schedule) -> list[str]:
    """Put the schedule's lines at the crontab's end. Returns what the user should know.

    Raises UsageError, and SetupError when cron cannot be had; then nothing is changed.
    """
    added = lines(schedule)
    before = _read()
    if marker(schedule.name).encode() in before.splitlines():
        raise UsageError(
            f"your crontab has lines of a schedule {schedule.name} already",
            "they are of another PAI_HOME, or stayed behind: remove them, or give another --name",
        )
    if _ITS_OWN_ZONE.search(before):
        raise UsageError(
            "your crontab sets CRON_TZ, which moves the times of the lines behind it where this "
            "machine's cron knows it",
            _OTHERS,
        )
    shells = _ITS_SHELL.findall(before)
    if shells and os.path.basename(shells[-1]).decode(errors="replace") not in _BOURNE:
        raise UsageError(
            f"your crontab sets SHELL to {shells[-1].decode(errors='replace')}, which cannot run "
            "our lines",
            f"one of {', '.join(_BOURNE)} can; or add --systemd or --serve",
        )
    gap = b"\n" if before and not before.endswith(b"\n") else b""
    try:
        _write(before + gap + "".join(f"{line}\n" for line in added).encode())
    except BaseException:  # Ctrl-C as well
        remove(schedule.name)
        raise
    return [f"what its runs print goes to {log_path(schedule.name)}"]


def remove(name: str) -> list[str]:
    """Take a schedule's lines out of the crontab. Returns what the user should know.

    Raises SetupError.
    """
    before = _read().splitlines(keepends=True)
    kept = _without(name, before)
    if len(kept) == len(before):
        return [f"your crontab has no line of {name} any more"]
    _write(b"".join(kept))
    return []


def _without(name: str, before: Sequence[bytes]) -> list[bytes]:
    """Return the lines less those that run the schedule from this home, and their marker.

    Our users edit theirs: other lines may have come in between. A marker belongs to the next line
    that runs a schedule of this name; it stays where that is of another home.
    """
    ours = _escaped(f" {_setting('PAI_HOME', home())} ").encode()
    kept: list[bytes] = []
    is_next_ours = True
    for line in reversed(before):
        is_entry = b" pai_runner" in line and f" schedule run {name} ".encode() in line
        if is_entry:
            is_next_ours = ours in line
        is_marker = line.rstrip(b"\r\n") == marker(name).encode()
        if not (is_next_ours and (is_entry or is_marker)):
            kept.append(line)
    return kept[::-1]


def lines(schedule: Schedule) -> list[str]:
    """Return the lines of a schedule. Raises UsageError where cron cannot run it."""
    settings = [_setting(name, value) for name, value in entry_environment(schedule).items()]
    words = [shlex.quote(one_line(word)) for word in entry_command(schedule)]
    command = " ".join([*settings, *words, ">>", shlex.quote(log_path(schedule.name)), "2>&1"])
    command = _escaped(command)
    if len(command.encode()) > _LONGEST:
        raise UsageError(
            f"the line for cron is too long: {len(command)} characters, at most {_LONGEST}",
            "add --systemd, or use shorter paths",
        )
    return [marker(schedule.name), f"{_machine_cron(schedule)} {command}"]


def _setting(name: str, value: str) -> str:
    return f"{name}={shlex.quote(one_line(value))}"


def _escaped(command: str) -> str:
    """Return a command as it stands in a crontab, where a plain % is a line break (crontab(5)).

    A backslash would take away the meaning of one behind it, and some crons drop it then: an end
    and a new beginning of the quotes, which are around it always, go in between.
    """
    return _DOUBLE.sub(r"\\''", command).replace("%", r"\%")


def _machine_cron(schedule: Schedule) -> str:
    """Return the expression by the machine's clock, which is what cron goes by.

    CRON_TZ is not for us: Debian's cron does not know it. Raises UsageError.
    """
    ours, machine = zone(schedule.timezone), machine_zone()
    shift = constant_shift(ours, zone(machine), datetime.now(timezone.utc))
    shifted = None if shift is None else shifted_cron(schedule.cron, shift)
    if shifted is None:
        why = "shift against each other" if shift is None else "are hours apart"
        raise UsageError(
            f"cron goes by this machine's zone, {machine}: `{schedule.cron}` in "
            f"{schedule.timezone} is no one line there, as their clocks {why}",
            _OTHERS,
        )
    return shifted


def shifted_cron(cron: str, shift: timedelta) -> str | None:
    """Return a canonical expression by clocks that are `shift` ahead; None where there is none.

    There is one for whole hours, where no day of the month and no month is named, and a day of
    the week only if all hours stay on one side of midnight.
    """
    if not shift:
        return cron
    minute, hour, day, month, weekday = cron.split()
    if shift % _HOUR or (day, month) != ("*", "*"):
        return None
    named = fields(cron)
    hours = [divmod(one + shift // _HOUR, 24) for one in sorted(named.hours)]
    days = {days for days, _ in hours}
    if weekday != "*":
        if len(days) > 1:
            return None
        moved = days.pop()
        weekday = ",".join(str(one) for one in sorted((day + moved) % 7 for day in named.weekdays))
    if not hour.startswith("*") or len(hours) < 24:
        hour = ",".join(str(one) for one in sorted(one for _, one in hours))
    return f"{minute} {hour} * * {weekday}"


# ====== The program ======


def _read() -> bytes:
    """Return the user's crontab as it is; empty where there is none. Raises SetupError."""
    done = _crontab("-l")
    if done.returncode == 0:
        return done.stdout
    if _NONE_YET.search(done.stderr):
        return b""
    raise _refused("read", done)


def _write(data: bytes) -> None:
    done = _crontab("-", data) if data else _crontab("-r")
    if done.returncode != 0:
        raise _refused("changed", done)


def _crontab(word: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", word],
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise SetupError(
            "there is no cron on this machine: no program `crontab`",
            "install cron, or add --systemd or --serve",
        ) from None
    except OSError as error:
        raise SetupError(
            f"the program `crontab` cannot be started: {error.strerror}",
            "ask for the right to use cron, or add --systemd or --serve",
        ) from error


def _refused(what: str, done: subprocess.CompletedProcess[bytes]) -> SetupError:
    said = done.stderr.decode(errors="replace").strip()
    return SetupError(f"your crontab cannot be {what}: {said or f'code {done.returncode}'}")
