"""What a schedule's entry in cron or systemd has in common: the command, and what it needs."""

from __future__ import annotations

from pai_runner.errors import UsageError
from pai_runner.jobs.directory import home
from pai_runner.schedule.catalog import Schedule

# The first line of what we have written elsewhere, so that it is known again.
_MARKER = "# pai_runner: "

# What `pai schedule run` itself cannot do without. The rest of a schedule's environment it sets.
_NEEDED = ("PAI_HOME", "PYTHONPATH")


def marker(name: str) -> str:
    """Return the comment that stands at an entry of the schedule called `name`."""
    return _MARKER + name


def home_comment() -> str:
    """Return the comment that tells whose an entry is: schedules of two homes may share a name."""
    return f"# PAI_HOME: {home()}"


def entry_command(schedule: Schedule) -> list[str]:
    """Return the command of an entry. Its words are absolute paths and plain words."""
    return schedule.pai("schedule", "run", schedule.name)


def entry_environment(schedule: Schedule) -> dict[str, str]:
    """Return the variables that an entry sets."""
    return {name: schedule.environment[name] for name in _NEEDED if name in schedule.environment}


def one_line(text: str) -> str:
    """Return `text`. Raises UsageError where it would break the line that it stands in."""
    if any(character in text for character in "\n\r\0"):
        raise UsageError(f"a path holds a line break: {text!r}", "rename the folder")
    return text
