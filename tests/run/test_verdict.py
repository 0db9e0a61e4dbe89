"""What a record says of what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pai_runner.jobs.directory import RoleDirectory
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run.verdict import Cause, RoleEnd, judge, signal_name


def ended(folder: Path, label: str, code: int = 0, signum: int = 0, at: float = 1.0) -> RoleEnd:
    directory = RoleDirectory(str(folder / label))
    directory.create()
    end = RoleEnd(label, directory)
    end.status = signum or code << 8
    end.at = at
    return end


def test_the_first_failure_in_time_is_the_cause(tmp_path: Path) -> None:
    ends = [
        ended(tmp_path, "worker-0", code=1, at=3.0),
        ended(tmp_path, "worker-1", code=7, at=2.0),
        ended(tmp_path, "ps-0", signum=15, at=2.5),
        ended(tmp_path, "worker-2", code=0, at=1.0),
    ]
    verdict = judge(None, ends)
    assert (verdict.exit_code, verdict.role, verdict.kind) == (7, "worker-1", Kind.SCRIPT)


def test_nothing_failed(tmp_path: Path) -> None:
    verdict = judge(None, [ended(tmp_path, "worker-0")])
    assert (verdict.state, verdict.reason, verdict.exit_code) == (State.SUCCEEDED, None, 0)


@pytest.mark.parametrize(
    ("code", "signum", "expected", "kind"),
    [(0, 0, 143, Kind.SIGNAL), (3, 0, 3, Kind.SCRIPT), (0, 15, 143, Kind.SIGNAL)],
)
def test_a_cancelled_job_is_no_success(
    tmp_path: Path, code: int, signum: int, expected: int, kind: Kind
) -> None:
    cause = Cause(State.CANCELLED, Reason.CANCELLED_BY_USER, "cancelled")
    verdict = judge(cause, [ended(tmp_path, "worker-0", code, signum)])
    assert (verdict.state, verdict.exit_code, verdict.kind) == (State.CANCELLED, expected, kind)


def test_a_limit_has_its_own_code(tmp_path: Path) -> None:
    cause = Cause(State.TIMED_OUT, Reason.TIME_LIMIT, "too long", exit_code=124)
    verdict = judge(cause, [ended(tmp_path, "worker-0", code=3)])
    assert (verdict.state, verdict.exit_code, verdict.kind) == (State.TIMED_OUT, 124, Kind.RUNNER)


def test_an_error_file_that_is_cut_short_is_not_the_end(tmp_path: Path) -> None:
    end = ended(tmp_path, "worker-0", code=125)
    Path(end.directory.error).write_text('{"kind": "setup", "mess')
    verdict = judge(None, [end])
    # The script may end with 125 itself.
    assert (verdict.reason, verdict.exit_code) == (Reason.SCRIPT_FAILED, 125)
    Path(end.directory.error).write_text(json.dumps({"kind": "setup", "message": "no bucket"}))
    assert judge(None, [end]).reason is Reason.SETUP_FAILED


def test_what_could_not_be_ended_is_named(tmp_path: Path) -> None:
    end = ended(tmp_path, "worker-0", signum=9)
    end.left = (12, 34)
    assert judge(None, [end]).message.endswith("they hang in the kernel: 12, 34")


def test_signal_names() -> None:
    assert signal_name(9) == "SIGKILL (signal 9)"
    assert signal_name(40) == "signal 40"
