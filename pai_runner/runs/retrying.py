"""Whether a command that failed is tried again, and when."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from pai_runner.jobs.record import Record
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.runs.options import Retries

# What the script itself does wrong; all other signals come from outside.
_OWN_SIGNALS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
}
PREEMPTED = "preempted"
CANCELLED = "cancelled"


def kind_of(record: Record) -> str:
    """Return what kind of end a job has come to that did not succeed.

    It is `cancelled`, `preempted`, or one of `options.FAILURES`.
    """
    if record.state is State.CANCELLED:
        return CANCELLED
    if record.reason is Reason.MACHINE_RESTARTED or _is_taken_away(record):
        return PREEMPTED
    if record.state is State.TIMED_OUT:
        return "timeout"
    if record.state in (State.LOST, State.UNKNOWN):
        return "lost"
    return "setup" if record.reason is Reason.SETUP_FAILED else "failure"


def _is_taken_away(record: Record) -> bool:
    if record.reason is not Reason.KILLED_BY_SIGNAL or record.kind is not Kind.SIGNAL:
        return False
    return (record.exit_code or 0) - 128 not in _OWN_SIGNALS


def wait_before_next(retries: Retries, failed: Sequence[Record]) -> float | None:
    """Return the seconds until the next attempt; None when there is none.

    `failed` are the records of all attempts so far, the last one last.
    """
    last = failed[-1]
    kind = kind_of(last)
    if kind == CANCELLED or _matches(retries.fatal, last):
        return None
    is_preempted = kind == PREEMPTED
    before = sum((kind_of(record) == PREEMPTED) == is_preempted for record in failed)
    if before > (retries.preemptions if is_preempted else retries.most):
        return None
    if not (is_preempted or kind in retries.kinds or _matches(retries.transient, last)):
        return None
    return float(min(retries.longest_wait, retries.first_wait * 2 ** min(len(failed) - 1, 60)))


def _matches(patterns: Sequence[str], record: Record) -> bool:
    text = "\n".join((record.message, *record.last_lines))
    return any(
        str(record.exit_code) == pattern if pattern.isdecimal() else re.search(pattern, text)
        for pattern in patterns
    )
