"""What a user may say about a run, beside its commands and the options of each job."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pai_runner.errors import UsageError
from pai_runner.run.options import parse_duration

FAILURES = ("failure", "lost", "timeout", "setup")
EVENTS = ("start", "success", "failure", "recovery")
PERIODS = ("bizdate", "cyctime")
IF_RUNNING = ("skip", "wait", "replace")

_NAME = re.compile(r"\w[\w.-]*")
# A file's name has 255 bytes; it stands before an ending.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Retries:
    """When a command is tried again.

    `most` counts those of the user's own failures of the kinds in `kinds`, `preemptions` those of
    a process or machine that was taken away: each has its budget. After the k-th attempt
    `first_wait` * 2**(k-1) seconds pass, at most `longest_wait`. `transient` and `fatal` are exit
    codes, or patterns of what the script printed last: the ones are tried again whatever their kind
    is, the others never.
    """

    most: int = 0
    preemptions: int = 0
    kinds: tuple[str, ...] = ("failure", "lost", "timeout")
    first_wait: float = 60.0
    longest_wait: float = 1800.0
    transient: tuple[str, ...] = ()
    fatal: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """How the commands of a run are kept.

    `name` is that of the run, which `once_per` needs. `lock` is a name of which one run is kept at
    a time, `lock_seconds` how long one waits for it (None: for ever). `most_running` is how many
    runs of this machine that give it may be kept at once.
    """

    name: str | None = None
    keeps_going: bool = False
    retries: Retries = Retries()
    lock: str | None = None
    if_running: str = "skip"
    lock_seconds: float | None = None
    once_per: str | None = None
    is_forced: bool = False
    most_running: int | None = None
    notify: tuple[str, ...] = ()
    notify_on: tuple[str, ...] = ("failure", "recovery")


def checked_name(text: str) -> str:
    """Return a name that can be that of a file. Raises UsageError."""
    if _NAME.fullmatch(text) is None or len(os.fsencode(text)) > _LONGEST_NAME:
        raise UsageError(
            f"`{text}` cannot be a name", "use letters, digits, `_`, `-` and `.`, not first"
        )
    return text


def choices(text: str, valid: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the words of a list with commas, all of which are `valid`. Raises UsageError."""
    found = tuple(word.strip() for word in text.split(","))
    wrong = [word for word in found if word not in valid]
    if wrong:
        raise UsageError(f"{what} `{wrong[0]}` is unknown", f"valid are: {', '.join(valid)}")
    return found


def waits(text: str) -> tuple[float, float]:
    """Return the seconds of `60s..30m`, or of `60s` twice. Raises UsageError."""
    first, _, longest = text.partition("..")
    found = parse_duration(first), parse_duration(longest or first)
    if found[0] > found[1]:
        raise UsageError(f"`{text}` ends before it begins", "write for example 60s..30m")
    return found


def pattern(text: str) -> str:
    """Return an exit code or a regular expression, as it is written. Raises UsageError."""
    if not text:
        raise UsageError("an empty pattern fits everything", "give an exit code, or a pattern")
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(
            f"`{text}` is no regular expression: {error}",
            "give an exit code, or a pattern as Python's re takes it",
        ) from error
    return text
