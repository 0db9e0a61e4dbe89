"""Whether a command that failed is tried again, and when."""

from __future__ import annotations

import pytest

from pai_runner.errors import UsageError
from pai_runner.jobs.record import Record
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.runs import options
from pai_runner.runs.options import Retries
from pai_runner.runs.retrying import kind_of, wait_before_next


def failed(
    state: State = State.FAILED,
    reason: Reason = Reason.SCRIPT_FAILED,
    code: int = 1,
    kind: Kind = Kind.SCRIPT,
    lines: tuple[str, ...] = (),
) -> Record:
    return Record("id", "name", state, reason, code, kind, last_lines=lines)


KILLED = failed(reason=Reason.KILLED_BY_SIGNAL, code=137, kind=Kind.SIGNAL)
CRASHED = failed(reason=Reason.KILLED_BY_SIGNAL, code=139, kind=Kind.SIGNAL)
RESTARTED = failed(State.LOST, Reason.MACHINE_RESTARTED)


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (failed(), "failure"),
        (failed(reason=Reason.OUT_OF_MEMORY, code=137, kind=Kind.SIGNAL), "failure"),
        (failed(reason=Reason.NOT_PUBLISHED, kind=Kind.RUNNER), "failure"),
        (failed(reason=Reason.SETUP_FAILED, code=125, kind=Kind.RUNNER), "setup"),
        (failed(State.TIMED_OUT, Reason.TIME_LIMIT, 124, Kind.RUNNER), "timeout"),
        (failed(State.LOST, Reason.SUPERVISOR_GONE), "lost"),
        (failed(State.CANCELLED, Reason.INTERRUPTED, 130), "cancelled"),
        (KILLED, "preempted"),
        (CRASHED, "failure"),
        (RESTARTED, "preempted"),
    ],
)
def test_kinds(record: Record, kind: str) -> None:
    assert kind_of(record) == kind


def test_waits_double_up_to_the_longest() -> None:
    retries = Retries(most=9, first_wait=60, longest_wait=1800)
    found = [wait_before_next(retries, [failed()] * count) for count in range(1, 11)]
    assert found == [60, 120, 240, 480, 960, 1800, 1800, 1800, 1800, None]


def test_failures_and_preemptions_have_budgets_of_their_own() -> None:
    retries = Retries(most=1, preemptions=2, first_wait=1)
    assert wait_before_next(retries, [KILLED, KILLED]) is not None
    assert wait_before_next(retries, [KILLED, KILLED, KILLED]) is None
    assert wait_before_next(retries, [KILLED, RESTARTED, failed()]) is not None
    assert wait_before_next(retries, [failed(), KILLED, failed()]) is None
    assert wait_before_next(retries, [failed(), KILLED, CRASHED]) is None


def test_what_is_not_asked_for_is_not_tried_again() -> None:
    setup = failed(reason=Reason.SETUP_FAILED, code=125, kind=Kind.RUNNER)
    assert wait_before_next(Retries(most=3), [setup]) is None
    assert wait_before_next(Retries(most=3, kinds=("setup",)), [setup]) is not None
    assert wait_before_next(Retries(most=3, kinds=("lost",)), [failed()]) is None
    cancelled = failed(State.CANCELLED, Reason.CANCELLED_BY_USER, 143)
    assert wait_before_next(Retries(most=3, transient=("143",)), [cancelled]) is None
    assert wait_before_next(Retries(), [failed()]) is None


def test_codes_and_patterns_of_the_user() -> None:
    only_lost = Retries(most=3, kinds=("lost",), transient=("7", "Connection reset"))
    assert wait_before_next(only_lost, [failed(code=7)]) is not None
    assert wait_before_next(only_lost, [failed(code=77)]) is None
    assert wait_before_next(only_lost, [failed(lines=("x", "Connection reset by peer"))])
    fatal = Retries(most=3, transient=("1",), fatal=(r"KeyError: 'label'",))
    assert wait_before_next(fatal, [failed(lines=("KeyError: 'label'",))]) is None
    assert wait_before_next(fatal, [failed(lines=("KeyError: 'other'",))]) is not None


def test_waits_are_read() -> None:
    assert options.waits("60s..30m") == (60, 1800)
    assert options.waits("5") == (5, 5)
    for wrong in ("30m..60s", "soon", ".."):
        with pytest.raises(UsageError):
            options.waits(wrong)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", ".x", "a/b", "ä" * 300])
def test_names_that_cannot_be_files(name: str) -> None:
    with pytest.raises(UsageError):
        options.checked_name(name)
