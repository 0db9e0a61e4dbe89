"""A schedule as a systemd timer and service, `pai-NAME`, of the user or of the system."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from functools import partial

from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.files import write_atomic
from pai_runner.schedule.catalog import Schedule
from pai_runner.schedule.entry import (
    entry_command,
    entry_environment,
    home_comment,
    marker,
    one_line,
)
from pai_runner.schedule.on_calendar import on_calendar

_GRACE = "--grace"
# A script gets 60 s after SIGTERM, unless the user says otherwise; then records are written.
_DEFAULT_GRACE = "60s"
_RECORD_TIME = "60s"


def preview(schedule: Schedule) -> list[tuple[str, str]]:
    """Return where what is written: pairs of a path and a text. Raises UsageError."""
    return list(units(schedule).items())


def install(schedule: Schedule) -> list[str]:
    """Write the units and start the timer. Returns what the user should know.

    Raises UsageError where there are units of that name, SetupError when they cannot be written;
    then nothing is left of them.
    """
    is_system = schedule.backend == "systemd-system"
    written = units(schedule)
    for path in written:
        if os.path.lexists(path):
            raise UsageError(f"there is a {path} already", "remove it, or give another --name")
    try:
        for path, text in written.items():
            _write(path, text)
        notes = _control(is_system, ["daemon-reload"], ["enable", "--now", _timer(schedule.name)])
    except BaseException:  # Ctrl-C as well
        remove(schedule.name, is_system, schedule.units)
        raise
    if not is_system:
        notes.append("`loginctl enable-linger` lets your timers run while you are not logged in")
    of = "" if is_system else "--user "
    return [*notes, f"what its runs print: journalctl {of}-u {_service(schedule.name)}"]


def remove(name: str, is_system: bool, folder: str | None) -> list[str]:
    """Stop the timer and remove the units. Returns what the user should know. Raises SetupError.

    `folder` is where they were installed; None where that is not on record.
    """
    paths = _paths(name, folder or units_folder(is_system))
    ours = [path for path in paths if _is_ours(path, name)]
    if not ours:
        return [f"there is no unit of {name} any more"]
    notes = _control(is_system, ["disable", "--now", _timer(name)])
    _unlink(ours)
    return [*notes, *_control(is_system, ["daemon-reload"])]


def units(schedule: Schedule) -> dict[str, str]:
    """Return the texts of the units by their paths. Raises UsageError."""
    is_system = schedule.backend == "systemd-system"
    service, timer = _paths(schedule.name, schedule.units or units_folder(is_system))
    return {service: _service_text(schedule, is_system), timer: _timer_text(schedule)}


def _service_text(schedule: Schedule, is_system: bool) -> str:
    program, *words = entry_command(schedule)
    if any(character in program for character in "\"'\\"):
        raise UsageError(
            f"systemd starts no program with quotes or backslashes in its path: {program}",
            "use a Python elsewhere, or leave out --systemd",
        )
    command = [quoted(program), *(quoted(word).replace("$", "$$") for word in words)]
    settings = [
        f"Environment={quoted(f'{name}={value}')}"
        for name, value in entry_environment(schedule).items()
    ]
    return "\n".join(
        [
            marker(schedule.name),
            one_line(home_comment()),
            "[Unit]",
            f"Description=pai schedule {schedule.name}",
            "",
            "[Service]",
            "Type=oneshot",
            *([f"User={pwd.getpwuid(os.getuid()).pw_name}"] if is_system else []),
            *settings,
            f"ExecStart={' '.join(command)}",
            "# 75: a run was under way, or a lock was held.",
            "SuccessExitStatus=75",
            "# SIGTERM is for pai, which ends its script.",
            "KillMode=mixed",
            f"TimeoutStopSec={_grace(schedule.options)} {_RECORD_TIME}",
            "",
        ]
    )


def _timer_text(schedule: Schedule) -> str:
    times = on_calendar(schedule.cron, schedule.timezone, schedule.since)
    return "\n".join(
        [
            marker(schedule.name),
            one_line(home_comment()),
            "[Unit]",
            f"Description=Times of pai schedule {schedule.name}",
            "",
            "[Timer]",
            *(f"OnCalendar={one}" for one in times),
            "AccuracySec=1s",
            "Persistent=true",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def _grace(options: Sequence[str]) -> str:
    """Return what --grace says. systemd reads 90, 90s, 30m, 6h and 1d as `pai` does, and sums."""
    found = _DEFAULT_GRACE
    for place, word in enumerate(options):
        name, equals, value = word.partition("=")
        if name == _GRACE and (equals or place + 1 < len(options)):
            found = value if equals else options[place + 1]
    return found.replace(" ", "")


def quoted(text: str) -> str:
    """Return `text` as one word of a unit file (systemd.syntax(7)), its % as systemd wants them.

    Raises UsageError for a text with line breaks.
    """
    escaped = one_line(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


# ====== Files ======


def _service(name: str) -> str:
    return f"pai-{name}.service"


def _timer(name: str) -> str:
    return f"pai-{name}.timer"


def units_folder(is_system: bool) -> str:
    """Return the folder where units are written now (systemd.unit(5))."""
    if is_system:
        return "/etc/systemd/system"
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(os.path.abspath(settings), "systemd/user")


def _paths(name: str, folder: str) -> tuple[str, str]:
    """Return the paths of the service and of the timer."""
    return os.path.join(folder, _service(name)), os.path.join(folder, _timer(name))


def _write(path: str, text: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomic(path, text.encode())
        os.chmod(path, 0o644)  # as units are: systemd complains of others
    except OSError as error:
        raise SetupError(
            f"{path} cannot be written: {error.strerror}",
            "without --system your own timers are used, else be root",
        ) from error


def _is_ours(path: str, name: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split("\n")[:2] == [marker(name), home_comment()]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error


def _unlink(paths: list[str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SetupError(f"{path} cannot be removed: {error.strerror}") from error


# ====== The program ======


def _control(is_system: bool, *commands: list[str]) -> list[str]:
    """Run `systemctl` with each of these, or return the lines that tell the user to do so."""
    program = ["systemctl", *([] if is_system else ["--user"])]
    for place, words in enumerate(commands):
        problem = _problem([*program, *words])
        if problem:
            left = " && ".join(" ".join([*program, *these]) for these in commands[place:])
            return [f"systemctl does not work here ({problem}); run: {left}"]
    return []


def _problem(command: list[str]) -> str | None:
    """Run a command; return what is wrong, None where it did its work."""
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    try:
        done = run(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        return str(error.strerror).lower()
    return None if done.returncode == 0 else (done.stderr.strip() or f"code {done.returncode}")
