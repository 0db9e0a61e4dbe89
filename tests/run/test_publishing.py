"""Publishing from the supervisor's side, with another program in the publisher's place.

The roles' interpreter is a program of the test: it runs scripts as Python does, and in place of the
publisher's program a few lines of the test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import Jobs, jobs_in
from support import wait_until

from pai_runner.jobs.cancel import request_cancel
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes

SUCCEEDS = "print('made')"
INTERPRETER = """\
#!{python}
import json, os, sys
if not sys.argv[2].endswith("/models/publish.py"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
import signal, time
_, _, _, *options = sys.argv
assert options[::2] == ["--job", "--report"]
job, report = options[1], int(options[3])
def tell(problem="", message=""):
    os.write(report, json.dumps({{"problem": problem, "message": message}}).encode() + b"\\n")
{lines}
"""
WAITS = """
    print("publishing", flush=True)
    while True:
        time.sleep(600)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    yield from jobs_in(tmp_path)


def with_publisher(folder: Path, lines: str) -> dict[str, Any]:
    """Return the options of a job in whose publisher's place `lines` are run."""
    path = folder / "interpreter"
    path.write_text(INTERPRETER.format(python=sys.executable, lines=textwrap.dedent(lines)))
    path.chmod(0o700)
    return {"interpreter": str(path), "publishes": True}


def is_publishing(jobs: Jobs) -> bool:
    try:
        return "publishing" in Path(jobs.directory.publisher.stdout).read_text()
    except (FileNotFoundError, IndexError):
        return False


def states(path: str) -> list[str]:
    return [json.loads(line)["state"] for line in Path(path).read_text().splitlines()]


# ====== What it is told, and what it says ======


def test_it_runs_after_the_script_and_its_message_is_the_jobs(jobs: Jobs, tmp_path: Path) -> None:
    lines = """
        assert os.path.exists(os.path.join(job, "attempts", "1", "worker-0", "exit.json"))
        secrets = json.load(open(int(os.environ["PAI_SECRETS_FD"])))
        assert "TheValue" not in json.dumps([*os.environ.values(), *sys.argv])
        print("secret", len(secrets["name"]), "role", os.environ["PAI_ROLE_DIR"], flush=True)
        print("noise", file=sys.stderr)
        tell(message="published it")
    """
    options = with_publisher(tmp_path, lines)
    result = jobs.run(SUCCEEDS, secrets={"name": "TheValue"}, **options)
    assert result.outcome.state is State.SUCCEEDED
    assert (result.outcome.exit_code, result.outcome.message) == (0, "published it")
    assert result.stdout == b"made\n"
    assert result.stderr.decode() == f"secret 8 role {result.directory.publisher.path}\n"
    assert states(result.directory.events)[-3:] == ["RUNNING", "PUBLISHING", "SUCCEEDED"]


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_nothing_is_published_of_a_script_that_failed(
    jobs: Jobs, tmp_path: Path, ending: str
) -> None:
    result = jobs.run(ending, **with_publisher(tmp_path, "tell()"))
    assert result.outcome.state is State.FAILED
    assert result.outcome.exit_code == (3 if "3" in ending else 137)
    assert "publish" not in result.outcome.message
    assert not Path(result.directory.publisher.path).exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tell(problem='it is broken')", "the script succeeded, but it is broken"),
        ("sys.exit(3)", "the process that publishes its exports ended with code 3"),
        (
            "os.kill(os.getpid(), 9)",
            "the process that publishes its exports was killed by SIGKILL (signal 9)",
        ),
    ],
)
def test_what_is_not_published_fails_the_job(
    jobs: Jobs, tmp_path: Path, lines: str, message: str
) -> None:
    result = jobs.run(SUCCEEDS, **with_publisher(tmp_path, lines))
    assert result.outcome.state is State.FAILED
    assert result.outcome.reason is Reason.NOT_PUBLISHED
    assert result.outcome.exit_code == 1
    assert message in result.outcome.message
    assert result.record.kind is Kind.RUNNER


@pytest.mark.slow
def test_silence_while_publishing_is_no_hanging_script(jobs: Jobs, tmp_path: Path) -> None:
    lines = "time.sleep(2.6); tell(message='published it')"
    options = with_publisher(tmp_path, lines)
    result = jobs.run(SUCCEEDS, no_progress_seconds=2.0, **options)
    assert result.outcome.state is State.SUCCEEDED, result.outcome.message


# ====== When it is to stop ======


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(jobs: Jobs, tmp_path: Path, signum: signal.Signals) -> None:
    with jobs.launch(SUCCEEDS, **with_publisher(tmp_path, WAITS)) as launcher:
        wait_until(lambda: is_publishing(jobs))
        assert jobs.record.state is State.PUBLISHING
        launcher.send_signal(signum)
        assert launcher.wait() == 128 + signum
    record = jobs.record
    assert (record.state, record.reason) == (State.CANCELLED, Reason.INTERRUPTED)
    assert "publishes its exports was ended" in record.message


def test_it_may_clean_up_but_a_second_ctrl_c_kills_it(jobs: Jobs, tmp_path: Path) -> None:
    lines = """
        signal.signal(signal.SIGTERM, lambda *_: print("stopping", flush=True))
        print("publishing", flush=True)
        while True:
            time.sleep(600)
    """
    with jobs.launch(SUCCEEDS, **with_publisher(tmp_path, lines)) as launcher:
        wait_until(lambda: is_publishing(jobs))
        launcher.send_signal(signal.SIGINT)
        log = Path(jobs.directory.publisher.stdout)
        wait_until(lambda: "stopping" in log.read_text())
        with pytest.raises(subprocess.TimeoutExpired):  # what comes sooner is the same press
            launcher.wait(processes.SAME_SIGNAL_SECONDS + 0.1)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=5) == 130


def test_cancelling_ends_it(jobs: Jobs, tmp_path: Path) -> None:
    with jobs.launch(SUCCEEDS, **with_publisher(tmp_path, WAITS)) as launcher:
        wait_until(lambda: is_publishing(jobs))
        request_cancel(jobs.directory)
        assert launcher.wait() == 143
    assert jobs.record.reason is Reason.CANCELLED_BY_USER


@pytest.mark.slow
def test_the_time_limit_holds_for_it(jobs: Jobs, tmp_path: Path) -> None:
    result = jobs.run(SUCCEEDS, total_seconds=2.0, **with_publisher(tmp_path, WAITS))
    assert result.outcome.state is State.TIMED_OUT
    assert result.outcome.exit_code == 124
    assert "publishes its exports was ended" in result.outcome.message


def test_it_ends_with_the_launcher(jobs: Jobs, tmp_path: Path) -> None:
    with jobs.launch(SUCCEEDS, **with_publisher(tmp_path, WAITS)) as launcher:
        wait_until(lambda: is_publishing(jobs))
        launcher.kill()
    wait_until(lambda: jobs.record.state.final)
    assert jobs.record.reason is Reason.LAUNCHER_GONE
    wait_until(lambda: not jobs.left())


def test_it_ends_with_the_supervisor(jobs: Jobs, tmp_path: Path) -> None:
    with jobs.launch(SUCCEEDS, **with_publisher(tmp_path, WAITS)) as launcher:
        wait_until(lambda: is_publishing(jobs))
        assert jobs.record.supervisor is not None
        os.kill(jobs.record.supervisor.pid, signal.SIGKILL)
        assert launcher.wait() == 137
    assert jobs.record.state is State.LOST
    assert jobs.left() == []
