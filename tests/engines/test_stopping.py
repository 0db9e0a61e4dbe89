"""The local engine on real processes: signals, cancelling, detaching, limits."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest
from supervised import Jobs
from support import wait_until

from pai_runner.jobs.cancel import request_cancel
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes

# ====== Signals ======

HANDLES = """
    import signal, sys, time
    def handler(signum, frame):
        print("got", signum, flush=True)
        if signum in (2, 15, 1):
            sys.exit({code})
    for signum in (1, 2, 3, 10, 12, 15, 28):
        signal.signal(signum, handler)
    print("ready", flush=True)
    while True:
        time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("code", [0, 9])
def test_a_stop_signal_reaches_the_script_itself(
    jobs: Jobs, signum: signal.Signals, code: int
) -> None:
    with jobs.launch(HANDLES.replace("{code}", str(code))) as launcher:
        wait_until(jobs.printed)
        launcher.send_signal(signum)
        # A cancelled job is no success, also when its script ended with 0.
        assert launcher.wait() == (code or 128 + signum)
        assert launcher.stdout is not None
        assert launcher.stdout.read() == f"ready\ngot {int(signum)}\n".encode()
    record = jobs.record
    assert record.state is State.CANCELLED
    assert record.reason is (Reason.HANGUP if signum == signal.SIGHUP else Reason.INTERRUPTED)
    assert record.kind is (Kind.SCRIPT if code else Kind.SIGNAL)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_a_signal_ends(jobs: Jobs, signum: signal.Signals) -> None:
    with jobs.launch("import time; print('ready', flush=True); time.sleep(600)") as launcher:
        wait_until(jobs.printed)
        launcher.send_signal(signum)
        assert launcher.wait() == 128 + signum
    assert jobs.record.state is State.CANCELLED


def test_other_signals_are_passed_on(jobs: Jobs) -> None:
    with jobs.launch(HANDLES.replace("{code}", "0")) as launcher:
        wait_until(jobs.printed)
        for number in (3, 10, 12, 28):
            launcher.send_signal(number)
            wait_until(lambda number=number: jobs.printed(f"got {number}"))
        assert jobs.record.state is State.RUNNING
        launcher.terminate()


IGNORES = """
    import signal, time
    for signum in (1, 2, 15):
        signal.signal(signum, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        time.sleep(600)
"""


def test_ctrl_c_twice_ends_at_once(jobs: Jobs) -> None:
    with jobs.launch(IGNORES, grace_seconds=60.0) as launcher:
        wait_until(jobs.printed)
        launcher.send_signal(signal.SIGINT)
        wait_until(lambda: jobs.record.state is State.STOPPING)
        time.sleep(0.3)  # what comes sooner counts as the same press
        began = time.monotonic()
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait() == 137
        assert time.monotonic() - began < 2
    assert jobs.record.state is State.CANCELLED
    assert "SIGKILL" in jobs.record.message


def test_one_press_that_arrives_twice_leaves_the_grace(jobs: Jobs) -> None:
    saves = """
        import signal, sys, time
        def save(*_):
            signal.signal(2, signal.SIG_IGN)
            signal.signal(15, signal.SIG_IGN)
            time.sleep(0.6)
            print("saved", flush=True)
            sys.exit(0)
        signal.signal(15, save)
        print("ready", flush=True)
        time.sleep(600)
    """
    with jobs.launch(saves) as launcher:
        wait_until(jobs.printed)
        launcher.terminate()
        launcher.terminate()
        assert launcher.wait() == 143
    assert jobs.printed("saved")


def test_after_the_grace_comes_sigkill(jobs: Jobs) -> None:
    with jobs.launch(IGNORES, grace_seconds=0.5) as launcher:
        wait_until(jobs.printed)
        began = time.monotonic()
        launcher.terminate()
        assert launcher.wait() == 137
        assert 0.4 < time.monotonic() - began < 3
    assert jobs.record.state is State.CANCELLED


def test_a_stopped_script_still_gets_its_grace(jobs: Jobs) -> None:
    with jobs.launch(HANDLES.replace("{code}", "0")) as launcher:
        wait_until(lambda: jobs.printed() and jobs.record.state is State.RUNNING)
        process = jobs.record.roles[0].process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        launcher.terminate()
        assert launcher.wait() == 143
    assert jobs.printed("got 15")


def test_the_leader_comes_first(jobs: Jobs) -> None:
    """A worker that is ended under its parent's hands would spoil the checkpoint."""
    parent = """
        import os, signal, sys, time
        child = os.fork()
        if child == 0:
            signal.signal(15, lambda *_: os._exit(9))
            os.write(1, b"ready")
            while True:
                time.sleep(600)
        def save(*_):
            time.sleep(0.3)
            print("child", os.waitpid(child, os.WNOHANG), flush=True)
            sys.exit(0)
        signal.signal(15, save)
        while True:
            time.sleep(600)
    """
    with jobs.launch(parent) as launcher:
        wait_until(jobs.printed)
        launcher.terminate()
        assert launcher.wait() == 143
    assert jobs.printed("child (0, 0)")


def test_under_nohup_a_hangup_is_ignored(jobs: Jobs) -> None:
    command = jobs.launch_command("import time; print('ready', flush=True); time.sleep(600)")
    with subprocess.Popen(["nohup", *command], env=jobs.environment, **_PIPES) as launcher:
        wait_until(jobs.printed)
        launcher.send_signal(signal.SIGHUP)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait() == 143
    assert jobs.record.reason is Reason.INTERRUPTED


def _children() -> set[int]:
    stats = processes.all_stats()
    return {pid for pid, stat in stats.items() if stat.parent == os.getpid()}


_PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}


def test_handlers_and_children_are_left_as_they_were(jobs: Jobs) -> None:
    before = [signal.getsignal(signum) for signum in (2, 15, 1)]
    children_before = _children()
    jobs.run("pass")
    assert [signal.getsignal(signum) for signum in (2, 15, 1)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert _children() == children_before
    assert not processes.set_subreaper(False)


def test_jobs_side_by_side_in_threads(jobs: Jobs) -> None:
    codes: dict[int, int] = {}

    def run(code: int) -> None:
        folder = jobs.folder / str(code)
        folder.mkdir()
        text = f"import time; time.sleep(0.2); raise SystemExit({code})"
        codes[code] = Jobs(folder, jobs.token).run(text).outcome.exit_code

    threads = [threading.Thread(target=run, args=(code,)) for code in (0, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {0: 0, 3: 3, 4: 4}


# ====== Cancelling from elsewhere, detaching ======


def test_cancel_from_another_process(jobs: Jobs) -> None:
    with jobs.launch(HANDLES.replace("{code}", "0")) as launcher:
        wait_until(jobs.printed)
        request_cancel(jobs.directory)
        assert launcher.wait() == 143
    assert jobs.record.reason is Reason.CANCELLED_BY_USER
    assert request_cancel(jobs.directory).state is State.CANCELLED


def test_cancel_with_force_gives_no_grace(jobs: Jobs) -> None:
    with jobs.launch(IGNORES, grace_seconds=60.0) as launcher:
        wait_until(jobs.printed)
        began = time.monotonic()
        request_cancel(jobs.directory)
        wait_until(lambda: jobs.record.state is State.STOPPING)
        request_cancel(jobs.directory)  # asking again is not forcing
        request_cancel(jobs.directory, force=True)
        assert launcher.wait() == 137
        assert time.monotonic() - began < 3
    assert jobs.record.reason is Reason.CANCELLED_BY_USER


def test_a_detached_job_outlives_its_launcher(jobs: Jobs) -> None:
    with jobs.launch(HANDLES.replace("{code}", "0"), detach=True) as launcher:
        assert launcher.stdout is not None
        printed = launcher.stdout.read().decode().strip()  # no process of the job holds the pipe
        assert launcher.wait() == 0
    assert printed == jobs.directory.id
    wait_until(lambda: jobs.printed() and jobs.record.state is State.RUNNING)
    request_cancel(jobs.directory)
    wait_until(lambda: jobs.record.state.final)
    assert jobs.record.exit_code == 143
    wait_until(lambda: jobs.left() == [])


def test_force_ends_what_a_lost_job_left(jobs: Jobs) -> None:
    """Supervisor and guard of a detached job killed at once: only the script is signalled."""
    with jobs.launch(IGNORES, detach=True) as launcher:
        launcher.wait()
    wait_until(lambda: jobs.printed() and jobs.record.state is State.RUNNING)
    record = jobs.record
    guard, process = record.roles[0].guard, record.roles[0].process
    assert record.supervisor is not None
    assert guard is not None
    assert process is not None
    os.kill(record.supervisor.pid, signal.SIGKILL)
    os.kill(guard.pid, signal.SIGKILL)
    wait_until(lambda: jobs.record.state is State.LOST)
    assert f"its script still runs (pid {process.pid})" in jobs.record.message
    with pytest.raises(Exception, match=f"still run: {process.pid}"):
        request_cancel(jobs.directory)
    request_cancel(jobs.directory, force=True)
    assert jobs.left() == []


# ====== Limits ======

SLEEPS = "import time; print('ready', flush=True); time.sleep(600)"


def test_the_time_limit(jobs: Jobs) -> None:
    result = jobs.run(SLEEPS, total_seconds=0.5)
    assert result.outcome.exit_code == 124
    assert result.outcome.state is State.TIMED_OUT
    assert result.outcome.reason is Reason.TIME_LIMIT
    assert "0.5 s" in result.outcome.message


def test_no_progress_shows_where_it_hangs(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import faulthandler, signal, time
        faulthandler.register(signal.SIGQUIT)
        def hanging_here():
            time.sleep(600)
        hanging_here()
        """,
        no_progress_seconds=0.5,
    )
    assert result.outcome.exit_code == 126
    assert result.outcome.state is State.TIMED_OUT
    assert result.outcome.reason is Reason.NO_PROGRESS
    assert b"in hanging_here" in result.stderr
    assert any("in hanging_here" in line for line in result.record.last_lines)


@pytest.mark.parametrize(
    "step",
    ["print('.', flush=True)", "os.utime(os.environ['PAI_ROLE_DIR'] + '/heartbeat')"],
    ids=["output", "heartbeat"],
)
def test_progress_keeps_a_job_alive(jobs: Jobs, step: str) -> None:
    result = jobs.run(
        f"""
        import os, time
        open(os.environ["PAI_ROLE_DIR"] + "/heartbeat", "w").close()
        for _ in range(8):
            time.sleep(0.2)
            {step}
        """,
        no_progress_seconds=1.0,
    )
    assert result.outcome.exit_code == 0
