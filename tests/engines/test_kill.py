"""Whoever of a job's processes is killed: nothing of it is left, and the record says what happened.

`scripts/proof kills` repeats these; PAI_PROOF_COUNT is how many kills that makes in all.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from supervised import WITH_GRANDCHILD, Jobs
from support import wait_until

from pai_runner.jobs.record import Record, load
from pai_runner.jobs.state import Reason, State
from pai_runner.run import processes

# It clears its environment, has its own session, and ignores what it can.
STUBBORN = WITH_GRANDCHILD.replace(
    "import os, sys, time; os.write",
    "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN); os.write",
)
# It takes its time to save on SIGTERM, and says when it has.
SAVES = WITH_GRANDCHILD.replace(
    '    print("ready"',
    """    import signal
    signal.signal(15, lambda *_: (time.sleep(0.5), print("saved"), sys.exit(0)))
    print("ready\"""",
)


class Running:
    """A job that runs, and the pids of who takes part."""

    def __init__(self, jobs: Jobs, launcher: int) -> None:
        wait_until(lambda: jobs.printed() and jobs.record.state is State.RUNNING, 20)
        self.record = jobs.record
        role = self.record.roles[0]
        assert self.record.supervisor is not None
        assert role.guard is not None
        assert role.process is not None
        self.pids = {
            "launcher": launcher,
            "supervisor": self.record.supervisor.pid,
            "guard": role.guard.pid,
            "script": role.process.pid,
        }

    def kill(self, *victims: str) -> None:
        for number, victim in enumerate(victims):
            try:
                os.kill(self.pids[victim], signal.SIGKILL)
            except ProcessLookupError:
                # The first one's death was quicker than we are.
                assert number > 0


Expected = tuple[tuple[State, Reason, int | None, str], ...]
LAUNCHER = (State.CANCELLED, Reason.LAUNCHER_GONE, 143, r"the launcher \(pid \d+\) is gone")
SUPERVISOR = (State.LOST, Reason.SUPERVISOR_GONE, 137, r"the supervisor \(pid \d+\) was killed by")
GUARD = (State.FAILED, Reason.GUARD_GONE, 137, r"the guard of worker-0 \(pid \d+\) was killed by")
SCRIPT = (State.FAILED, Reason.KILLED_BY_SIGNAL, 137, r"worker-0 was killed by SIGKILL")
UNSEEN = (State.LOST, Reason.SUPERVISOR_GONE, None, r"the supervisor \(pid \d+\) was gone while")
# Both were gone before the supervisor's next look, or the script died of the launcher's end.
LAUNCHER_AND_SCRIPT = (State.CANCELLED, Reason.LAUNCHER_GONE, 137, "the launcher")

# (who is killed, what the record may say). On a busy machine the first death may be dealt with
# before the second comes.
CASES: list[tuple[tuple[str, ...], Expected]] = [
    (("launcher",), (LAUNCHER,)),
    (("supervisor",), (SUPERVISOR,)),
    (("guard",), (GUARD,)),
    (("script",), (SCRIPT,)),
    (("launcher", "supervisor"), (UNSEEN, LAUNCHER)),
    (("supervisor", "launcher"), (UNSEEN, SUPERVISOR)),
    (("launcher", "guard"), (LAUNCHER, GUARD)),
    (("guard", "launcher"), (LAUNCHER, GUARD)),
    (("supervisor", "guard"), (SUPERVISOR,)),
    (("guard", "supervisor"), (SUPERVISOR, GUARD)),
    (("supervisor", "script"), (SUPERVISOR,)),
    (("guard", "script"), (GUARD, SCRIPT)),
    (("launcher", "script"), (LAUNCHER, SCRIPT, LAUNCHER_AND_SCRIPT)),
]
# Beside the cases, the terminal and the four at any moment.
ROUNDS = max(1, int(os.environ.get("PAI_PROOF_COUNT", "1")) // (len(CASES) + 5))


@pytest.mark.proof_kills
@pytest.mark.parametrize(
    ("victims", "expected"), CASES, ids=["+".join(victims) for victims, _ in CASES]
)
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_nothing_is_left(
    jobs: Jobs, victims: tuple[str, ...], expected: Expected, round_: int
) -> None:
    with jobs.launch(WITH_GRANDCHILD) as launcher:
        running = Running(jobs, launcher.pid)
        assert len(jobs.left()) == 5
        running.kill(*victims)
        wait_until(lambda: jobs.left() == [], 15)
        code = launcher.wait()
    record = jobs.record
    assert any(_agrees(record, *one) for one in expected), json.dumps(record.to_json(), indent=1)
    if "launcher" not in victims:
        assert code == record.exit_code
        assert load(jobs.directory).state.final


def _agrees(record: Record, state: State, reason: Reason, code: int | None, text: str) -> bool:
    return (record.state, record.reason, record.exit_code) == (state, reason, code) and re.match(
        text, record.message
    ) is not None


@pytest.mark.proof_kills
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_closing_the_terminal_leaves_nothing(jobs: Jobs, round_: int) -> None:
    command = jobs.launch_command(WITH_GRANDCHILD)
    launcher, terminal = pty.fork()
    if launcher == 0:
        os.execve(sys.executable, command, jobs.environment)
    Running(jobs, launcher)
    os.close(terminal)
    wait_until(lambda: jobs.left() == [], 15)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == 129
    record = jobs.record
    assert (record.state, record.reason, record.exit_code) == (
        State.CANCELLED,
        Reason.HANGUP,
        129,
    )


@pytest.mark.parametrize("victim", ["launcher", "supervisor", "guard"])
def test_the_script_may_save(jobs: Jobs, victim: str) -> None:
    with jobs.launch(SAVES) as launcher:
        running = Running(jobs, launcher.pid)
        running.kill(victim)
        wait_until(lambda: jobs.left() == [], 15)
    assert jobs.printed("saved")
    wait_until(lambda: jobs.record.state.final)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "supervisor", "guard", "script"])
def test_a_grandchild_that_ignores_signals_goes_too(jobs: Jobs, victim: str) -> None:
    with jobs.launch(STUBBORN, grace_seconds=1.0) as launcher:
        Running(jobs, launcher.pid).kill(victim)
        wait_until(lambda: jobs.left() == [], 20)


def test_a_detached_job_whose_supervisor_is_killed(jobs: Jobs) -> None:
    with jobs.launch(WITH_GRANDCHILD, detach=True) as launcher:
        assert launcher.wait() == 0
    running = Running(jobs, launcher.pid)
    running.kill("supervisor")
    wait_until(lambda: jobs.left() == [], 15)
    assert _agrees(jobs.record, *UNSEEN)


def test_a_killed_guard_while_stopping(jobs: Jobs) -> None:
    with jobs.launch(STUBBORN, grace_seconds=1.0) as launcher:
        running = Running(jobs, launcher.pid)
        os.kill(launcher.pid, signal.SIGTERM)
        wait_until(lambda: jobs.record.state is State.STOPPING)
        running.kill("guard")
        wait_until(lambda: jobs.left() == [], 15)
        assert launcher.wait() == 143
    assert (jobs.record.state, jobs.record.reason) == (State.CANCELLED, Reason.INTERRUPTED)


def test_a_launcher_killed_before_the_supervisor_is_up(jobs: Jobs) -> None:
    with jobs.launch(WITH_GRANDCHILD) as launcher:
        wait_until(lambda: (jobs.home / "jobs").is_dir() and _state_written(jobs), step=0.001)
        launcher.kill()
    wait_until(lambda: jobs.left() == [], 15)
    wait_until(lambda: jobs.record.state.final)
    assert jobs.record.reason is Reason.LAUNCHER_GONE


def _state_written(jobs: Jobs) -> bool:
    return any((jobs.home / "jobs").glob("*/state.json"))


@pytest.mark.proof_kills
@pytest.mark.parametrize("depth", [0, 1, 2, 3], ids=["launcher", "supervisor", "guard", "script"])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_kill_at_any_moment(jobs: Jobs, depth: int, round_: int) -> None:
    """Also while the job starts: the victim dies some milliseconds after it came to be."""
    delay = random.Random(f"{depth} {round_}").uniform(0.0, 0.06)
    with jobs.launch(WITH_GRANDCHILD, grace_seconds=2.0) as launcher:
        victim = launcher.pid
        for _ in range(depth):
            wait_until(lambda victim=victim: _child(victim) or launcher.poll() is not None, 5, 0.0)
            victim = _child(victim)
        time.sleep(delay)
        os.kill(victim, signal.SIGKILL)
        if depth > 0:
            assert launcher.wait(15) == 137
        wait_until(lambda: jobs.left() == [], 15)
    if (jobs.home / "jobs").exists() and _state_written(jobs):
        wait_until(lambda: jobs.record.state.final)
        assert jobs.record.message


def _child(parent: int) -> int:
    for pid, stat in processes.all_stats().items():
        if stat.parent == parent:
            return pid
    return 0


def test_other_children_of_the_launching_process_are_spared(jobs: Jobs) -> None:
    """The launcher may be a program with children of its own, and a job may lose its supervisor."""
    quiet = "import time; time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", quiet])
    handle = jobs.submit(WITH_GRANDCHILD)
    late = subprocess.Popen([sys.executable, "-c", quiet])
    try:
        _later(lambda: Running(jobs, os.getpid()).kill("supervisor", "guard"))
        with open(os.devnull, "w", encoding="ascii") as null:
            outcome = handle.wait(null.fileno(), null.fileno())
        assert outcome.state is State.LOST
        assert other.poll() is None
        assert late.poll() is None
    finally:
        for process in (other, late):
            process.kill()
            process.wait()


def _later(action: Callable[[], None]) -> None:
    import threading

    threading.Thread(target=action).start()


def test_the_whole_session_is_quick(jobs: Jobs) -> None:
    """A kill is noticed at once, not at the next look."""
    with jobs.launch(WITH_GRANDCHILD) as launcher:
        running = Running(jobs, launcher.pid)
        began = time.monotonic()
        running.kill("script")
        assert launcher.wait() == 137
        assert time.monotonic() - began < 0.9
