"""The project's errors and its exit codes.

Every error names the thing, what is wrong with it and what to do. The command line prints
`str(error)`, then the hint, and ends with `error.exit_code`.
"""

from __future__ import annotations

from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitCode(IntEnum):
    """What `pai` ends with when the script's own code is not what is returned.

    A script's own code is passed through unchanged, and a script killed by signal N gives 128+N.
    """

    OK = 0, "the job succeeded"
    USAGE = 2, "the command line or the PAI command is wrong; nothing was started"
    BUSY = 75, "the resources are busy now; the same command may work later"
    TIMED_OUT = 124, "the job passed its time limit and was ended"
    SETUP = 125, "the job could not be set up; the script's first line never ran"
    HUNG = 126, "the job showed no progress for too long and was ended"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class PaiError(Exception):
    """An error that a user can mend. `hint` says how, in one line."""

    exit_code: ExitCode = ExitCode.SETUP

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        # Where it leaves a script its traceback shows the hint as well (Python 3.11).
        if hint and hasattr(self, "add_note"):
            self.add_note(f"hint: {hint}")


class UsageError(PaiError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class CommandError(UsageError):
    """The text is not a well-formed PAI command. `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int, hint: str | None = None) -> None:
        super().__init__(f"line {line}, column {column}: {message}", hint)
        self.line = line
        self.column = column


class ParameterError(UsageError):
    """A -D parameter that does not exist, or a value that it cannot have."""

    def __init__(
        self, name: str, message: str, hint: str | None = None, suggestions: Iterable[str] = ()
    ) -> None:
        super().__init__(message, hint)
        self.name = name
        self.suggestions = tuple(suggestions)


class LocationError(UsageError):
    """A text that is not a location."""


class SetupError(PaiError):
    """The world is not as the command needs it: no such script, no such bucket, no such GPU."""

    exit_code = ExitCode.SETUP


class BusyError(PaiError):
    """What the command needs exists, but is in use."""

    exit_code = ExitCode.BUSY


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """Return up to three of `valid` that look like `name`, best first, ignoring case."""
    import difflib

    lowered = {candidate.lower(): candidate for candidate in valid}
    matches = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    return [lowered[match] for match in matches]
