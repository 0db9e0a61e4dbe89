"""From what was seen of a job to what its record says: state, reason, exit code, message.

The root cause is what came first in time. A role that fails after the job was told to stop
fails because of that.
"""

from __future__ import annotations

import json
import os
import signal

from pai_runner.errors import ExitCode
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pai_runner.jobs.directory import RoleDirectory


class Cause:
    """Why the job was told to stop, other than by a role's own end.

    `signum` is what the roles were sent first. `exit_code` is set where the cause decides it,
    None where the script does.
    """

    __slots__ = ("exit_code", "message", "reason", "signum", "state")

    def __init__(
        self,
        state: State,
        reason: Reason,
        message: str,
        signum: int = signal.SIGTERM,
        exit_code: int | None = None,
    ) -> None:
        self.state = state
        self.reason = reason
        self.message = message
        self.signum = signum
        self.exit_code = exit_code


class RoleEnd:
    """How a role ended. `status` is a wait status, `at` its time on the monotonic clock.

    `failure` says why it could not be started; `left` are processes that could not be ended.
    """

    __slots__ = ("at", "directory", "failure", "killed_for_memory", "label", "left", "status")

    def __init__(self, label: str, directory: RoleDirectory) -> None:
        self.label = label
        self.directory = directory
        self.status: int | None = None
        self.at = float("inf")
        self.failure: str | None = None
        self.killed_for_memory = False
        self.left: tuple[int, ...] = ()

    @property
    def exit_code(self) -> int | None:
        return None if self.status is None else processes.exit_code(self.status)

    @property
    def is_killed(self) -> bool:
        """Whether a signal cut it off, or nothing is known of its end.

        Python ends by SIGINT only after it has unwound, as after any exception.
        """
        if self.status is None:
            return True
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) != signal.SIGINT

    @property
    def failed(self) -> bool:
        return self.failure is not None or self.status not in (None, 0)


class Verdict:
    """What the record will say."""

    __slots__ = ("exit_code", "kind", "message", "reason", "role", "state")

    def __init__(
        self,
        state: State,
        reason: Reason | None,
        exit_code: int,
        kind: Kind,
        message: str,
        role: str | None,
    ) -> None:
        self.state = state
        self.reason = reason
        self.exit_code = exit_code
        self.kind = kind
        self.message = message
        self.role = role


def judge(cause: Cause | None, ends: Sequence[RoleEnd]) -> Verdict:
    """Return what came of the job. `cause` is None when no one asked it to stop."""
    verdict = _by_cause(cause, ends) if cause else _by_roles(ends)
    left = [pid for end in ends for pid in end.left]
    if left:
        pids = ", ".join(map(str, left))
        verdict.message += f"; these processes do not end, they hang in the kernel: {pids}"
    return verdict


def with_problem(verdict: Verdict, problem: str, reason: Reason) -> Verdict:
    """Return the verdict of a job of which `problem` says what went wrong after the script.

    It makes a failure of a success, for `reason`, and leaves a failure its own code.
    """
    if verdict.state is State.SUCCEEDED:
        message = f"the script succeeded, but {problem}"
        return Verdict(State.FAILED, reason, 1, Kind.RUNNER, message, None)
    verdict.message += f"; {problem}"
    return verdict


def _by_cause(cause: Cause, ends: Sequence[RoleEnd]) -> Verdict:
    first = min(ends, key=lambda end: end.at, default=None)
    label = first.label if first else None
    if cause.exit_code is not None:
        return Verdict(
            cause.state, cause.reason, cause.exit_code, Kind.RUNNER, cause.message, label
        )
    # A cancelled job never counts as a success, also when its script ended with 0.
    code = (first.exit_code if first else None) or 128 + cause.signum
    message = cause.message
    own = first is not None and first.status is not None and os.WIFEXITED(first.status)
    if first is not None and first.status is not None and first.status == signal.SIGKILL:
        message += "; the script was ended by SIGKILL"
    kind = Kind.SCRIPT if own and first is not None and first.exit_code else Kind.SIGNAL
    return Verdict(cause.state, cause.reason, code, kind, message, label)


def _by_roles(ends: Sequence[RoleEnd]) -> Verdict:
    failed = [end for end in ends if end.failed]
    if not failed:
        return Verdict(State.SUCCEEDED, None, 0, Kind.SCRIPT, "", None)
    first = min(failed, key=lambda end: end.at)
    code = first.exit_code or 0
    error = read_error(first.directory)
    if first.failure is not None:
        message = first.failure
    elif error.get("kind") == "setup":
        message = _setup_message(error)
    else:
        return _of_script(first, code, error)
    return Verdict(
        State.FAILED, Reason.SETUP_FAILED, ExitCode.SETUP, Kind.RUNNER, message, first.label
    )


def _of_script(end: RoleEnd, code: int, error: dict[str, Any]) -> Verdict:
    if end.status is not None and os.WIFSIGNALED(end.status):
        name = signal_name(os.WTERMSIG(end.status))
        if end.killed_for_memory:
            reason = Reason.OUT_OF_MEMORY
            message = f"{end.label} was killed by the kernel because memory ran out"
        else:
            reason, message = Reason.KILLED_BY_SIGNAL, f"{end.label} was killed by {name}"
        return Verdict(State.FAILED, reason, code, Kind.SIGNAL, message, end.label)
    message = f"{end.label} ended with code {code}"
    if error.get("type"):
        message += f": {error['type']}: {error.get('message', '')}"
    return Verdict(State.FAILED, Reason.SCRIPT_FAILED, code, Kind.SCRIPT, message, end.label)


def _setup_message(error: dict[str, Any]) -> str:
    hint = error.get("hint")
    return f"{error.get('message', '')}" + (f" ({hint})" if hint else "")


def read_error(directory: RoleDirectory) -> dict[str, Any]:
    """Return the error that the role's own process left; empty when it left none."""
    try:
        with open(directory.error, encoding="utf-8", errors="replace") as file:
            data = json.load(file)
    except (OSError, ValueError):
        # ValueError: it was killed while it wrote. The exit code still tells.
        return {}
    return data if isinstance(data, dict) else {}


def signal_name(signum: int) -> str:
    """Return a signal's name and number, for example `SIGKILL (signal 9)`."""
    try:
        return f"{signal.Signals(signum).name} (signal {signum})"
    except ValueError:
        return f"signal {signum}"
