"""The local engine on real processes: output, exit codes, signals, limits, failures to start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from supervised import Jobs
from support import wait_until

from pai_runner.errors import SetupError
from pai_runner.jobs.cancel import request_cancel
from pai_runner.jobs.record import load, read
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes

# ====== Output ======


def test_output_is_passed_byte_by_byte(jobs: Jobs) -> None:
    result = jobs.run(
        r"""
        import os
        os.write(1, b"caf\xe9 \xff\x00\r50%\rno newline at the end")
        os.write(2, b"\xe4\xbd\xa0\xe5 half a character\n\n")
        """
    )
    assert result.stdout == b"caf\xe9 \xff\x00\r50%\rno newline at the end"
    assert result.stderr == b"\xe4\xbd\xa0\xe5 half a character\n\n"
    assert result.outcome.exit_code == 0


def test_100_000_lines_are_all_there(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import sys
        for number in range(100_000):
            sys.stdout.write(f"line {number}\\n")
        """
    )
    assert result.stdout.decode().split("\n") == [f"line {n}" for n in range(100_000)] + [""]


def test_64_megabytes_through_a_pipe(jobs: Jobs) -> None:
    text = "import os\nfor part in range(1024): os.write(1, bytes([part % 251]) * 65536)"
    with jobs.launch(text) as launcher:
        assert launcher.stdout is not None
        data = launcher.stdout.read()
        assert launcher.wait() == 0
    assert data == b"".join(bytes([part % 251]) * 65536 for part in range(1024))


def test_a_slow_reader_gets_all_and_does_not_hold_up_the_script(jobs: Jobs) -> None:
    text = "import os\nfor part in range(64): os.write(1, b'x' * 65536)\nprint('end')"
    with jobs.launch(text) as launcher:
        wait_until(lambda: jobs.printed("end") and jobs.record.state.final)
        assert launcher.poll() is None  # it waits for us, the script has not
        assert launcher.stdout is not None
        assert launcher.stdout.read() == b"x" * 65536 * 64 + b"end\n"
        assert launcher.wait() == 0


def test_a_closed_output_does_not_end_the_job(jobs: Jobs) -> None:
    text = """
        import os, time
        for _ in range(50):
            os.write(1, b"x" * 4096)
            time.sleep(0.005)
        open(os.environ["PAI_JOB_DIR"] + "/proof", "w").close()
    """
    with jobs.launch(text) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.read(1)
        launcher.stdout.close()
        assert launcher.wait() == 0
    assert Path(jobs.directory.path, "proof").exists()


def test_the_traceback_is_the_last_thing_shown(jobs: Jobs) -> None:
    text = "print('x' * 500_000)\nraise ValueError('the reason')"
    shown = subprocess.run(
        jobs.launch_command(text),
        env=jobs.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert shown.returncode == 1
    assert shown.stdout.endswith(b"ValueError: the reason\n")


# ====== How a script ends ======


@pytest.mark.parametrize("code", [0, 1, 3, 77, 125, 255])
def test_the_scripts_code_comes_back(jobs: Jobs, code: int) -> None:
    result = jobs.run(f"raise SystemExit({code})")
    assert result.outcome.exit_code == code
    assert result.record.exit_code == code
    assert result.record.kind is Kind.SCRIPT
    expected = State.FAILED if code else State.SUCCEEDED
    assert result.outcome.state is expected
    assert result.outcome.reason is (Reason.SCRIPT_FAILED if code else None)


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_a_script_killed_by_a_signal(jobs: Jobs, signum: signal.Signals) -> None:
    result = jobs.run(f"import os; os.kill(os.getpid(), {int(signum)})")
    assert result.outcome.exit_code == 128 + signum
    assert result.outcome.reason is Reason.KILLED_BY_SIGNAL
    assert signum.name in result.outcome.message
    assert result.record.kind is Kind.SIGNAL


def test_the_record_of_a_failure_holds_the_last_lines_without_secrets(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import json, os, sys
        with open(int(os.environ["PAI_SECRETS_FD"])) as file:
            secret = json.load(file)["token"]
        for number in range(60):
            print(f"line {number} {secret}", file=sys.stderr)
        sys.exit(5)
        """,
        secrets={"token": "very-secret-value"},
    )
    lines = result.record.last_lines
    assert len(lines) == 40
    assert lines[0] == "line 20 ***"
    assert lines[-1] == "line 59 ***"
    assert b"line 59 very-secret-value" in result.stderr  # the script's own output is its own
    for path in Path(result.directory.path).rglob("*"):
        if path.is_file() and path.name != "stderr":
            assert b"very-secret-value" not in path.read_bytes(), path


def test_the_error_that_the_script_left_is_in_the_message(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import json, os, sys
        error = {"kind": "script", "type": "KeyError", "message": "'step'"}
        with open(os.environ["PAI_ROLE_DIR"] + "/error.json", "w") as file:
            json.dump(error, file)
        sys.exit(1)
        """
    )
    assert result.outcome.message == "worker-0 ended with code 1: KeyError: 'step'"
    assert result.outcome.role == "worker-0"


def test_an_error_before_the_first_line_is_a_setup_failure(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import json, os, sys
        error = {"kind": "setup", "type": "SetupError", "message": "no bucket", "hint": "make it"}
        with open(os.environ["PAI_ROLE_DIR"] + "/error.json", "w") as file:
            json.dump(error, file)
        sys.exit(125)
        """
    )
    assert result.outcome.exit_code == 125
    assert result.outcome.reason is Reason.SETUP_FAILED
    assert result.outcome.message == "no bucket (make it)"
    assert result.record.kind is Kind.RUNNER


def test_what_a_script_leaves_behind_is_ended(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import os, sys, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        """
    )
    assert result.outcome.exit_code == 0
    assert jobs.left() == []


def test_the_surroundings_of_a_script(jobs: Jobs) -> None:
    result = jobs.run(
        """
        import json, os, signal, sys
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        fds = [int(fd) for fd in os.listdir("/proc/self/fd")]
        secrets = int(os.environ["PAI_SECRETS_FD"])
        known = {0, 1, 2, secrets}
        print(json.dumps({
            "stdin": os.read(0, 1).decode(),
            "cwd": os.getcwd(),
            "leader": os.getsid(0) == os.getpid(),
            "ignored": [s.name for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
                        if signal.getsignal(s) is signal.SIG_IGN and s is not signal.SIGPIPE],
            "blocked": sorted(blocked),
            # One more is listdir's own.
            "fds": len([fd for fd in fds if fd not in known]) - 1,
            "argv": sys.argv,
            "own": os.environ["MINE"],
            "unbuffered": os.environ["PYTHONUNBUFFERED"],
            "secrets": json.load(os.fdopen(secrets)),
        }))
        """,
        environment={"MINE": "yes"},
        secrets={"a": "b"},
        working_directory="/",
    )
    script = str(jobs.folder / "script.py")
    assert json.loads(result.stdout) == {
        "stdin": "",
        "cwd": "/",
        "leader": True,
        "ignored": [],
        "blocked": [],
        "fds": 0,
        "argv": [script],
        "own": "yes",
        "unbuffered": "1",
        "secrets": {"a": "b"},
    }


def test_a_process_that_needs_too_much_memory(jobs: Jobs) -> None:
    """Told from other SIGKILLs by the kernel's own count, in a control group of its own."""
    cgroup = _memory_cgroup(jobs.token)
    if cgroup is None:
        pytest.skip("no memory control group can be made here")
    try:
        greedy = (
            "print('ready')\nx = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1"
        )
        command = jobs.launch_command(greedy)
        enter = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, "sh", *command], env=jobs.environment, check=False
        )
        assert done.returncode == 137
        assert jobs.record.reason is Reason.OUT_OF_MEMORY
        assert "memory" in jobs.record.message
    finally:
        wait_until(lambda: not Path(cgroup, "cgroup.procs").read_text().strip())
        os.rmdir(cgroup)


def _memory_cgroup(name: str) -> str | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            folder, limit = f"/sys/fs/cgroup/memory{path}/{name}", "memory.limit_in_bytes"
        elif controllers == "":
            folder, limit = f"/sys/fs/cgroup{path}/{name}", "memory.max"
        else:
            continue
        try:
            os.mkdir(folder)
            Path(folder, limit).write_text("200000000")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        return folder
    return None


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


# ====== What cannot be started ======


def test_an_interpreter_that_is_not_there(jobs: Jobs) -> None:
    result = jobs.run("pass", interpreter="/no/such/python")
    assert result.outcome.exit_code == 125
    assert result.outcome.reason is Reason.SETUP_FAILED
    assert result.outcome.message == "/no/such/python cannot be started: No such file or directory"


def test_a_working_directory_that_is_not_there(jobs: Jobs) -> None:
    result = jobs.run("pass", working_directory="/no/such/folder")
    assert result.outcome.exit_code == 125
    assert "/no/such/folder cannot be entered: No such file" in result.outcome.message


def test_too_much_environment(jobs: Jobs) -> None:
    result = jobs.run("pass", environment={"BIG": "x" * (1 << 18)})
    assert result.outcome.exit_code == 125
    assert "Argument list too long" in result.outcome.message


def test_too_many_secrets(jobs: Jobs) -> None:
    result = jobs.run("pass", secrets={"big": "x" * 100_000})
    assert result.outcome.exit_code == 125
    assert "secrets" in result.outcome.message


def test_a_spec_that_the_supervisor_cannot_read(jobs: Jobs) -> None:
    result = jobs.run("pass", roles=())
    # No role: nothing to do, and nothing that failed.
    assert result.outcome.exit_code == 0
    broken = jobs.submit("pass", grace_seconds="soon")
    with open(os.devnull, "w", encoding="ascii") as null:
        outcome = broken.wait(null.fileno(), null.fileno())
    assert outcome.exit_code == 1
    assert outcome.reason is Reason.INTERNAL_ERROR
    assert "soon" in outcome.message
    assert "Traceback" in Path(broken.directory.supervisor_log).read_text()


def test_a_job_folder_that_cannot_be_written(jobs: Jobs) -> None:
    shutil.rmtree(jobs.home, ignore_errors=True)
    jobs.home.write_text("a file in the home's place")
    with pytest.raises(SetupError, match="cannot be written"):
        jobs.run("pass")
    jobs.home.unlink()


@pytest.mark.parametrize(
    ("options", "reason"),
    [("ro", "Read-only file system"), ("size=4k,nr_inodes=4", "No space left on device")],
)
def test_a_home_without_room(jobs: Jobs, options: str, reason: str) -> None:
    jobs.home.mkdir()
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" || exit 77; shift 2; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", options, str(jobs.home)]
    done = subprocess.run(
        [*command, *jobs.launch_command("pass")],
        env=jobs.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert "SetupError" in done.stderr
    assert f"cannot be written: {reason}" in done.stderr


FULL_DISK = r"""
mount -t tmpfs -o size=256k tmpfs "$1" || exit 77
shift
"$@" &
pid=$!
while ! cat "$HOME_/jobs/"*/attempts/1/worker-0/stdout 2>/dev/null | grep -q ready
do sleep 0.05; done
dd if=/dev/zero of="$HOME_/filler" bs=4k 2>/dev/null
touch "$GO"
wait $pid
code=$?
cp "$HOME_/jobs/"*/state.json "$COPY"
exit $code
"""


def test_a_disk_that_fills_up_while_the_job_runs(jobs: Jobs) -> None:
    jobs.home.mkdir()
    go, copy = jobs.folder / "go", jobs.folder / "copy"
    text = f"""
        import os, sys, time
        print("ready", flush=True)
        while not os.path.exists({str(go)!r}):
            time.sleep(0.02)
        sys.exit(6)
    """
    command = ["unshare", "-m", "sh", "-c", FULL_DISK, "sh", str(jobs.home)]
    environment = {**jobs.environment, "HOME_": str(jobs.home), "GO": str(go), "COPY": str(copy)}
    done = subprocess.run(
        [*command, *jobs.launch_command(text)], env=environment, capture_output=True, check=False
    )
    if done.returncode in (1, 77):
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 6, done.stderr
    record = json.loads(copy.read_text())
    assert (record["state"], record["exit_code"]) == ("FAILED", 6)


# ====== The record while it all happens ======


def test_the_record_can_be_read_at_every_moment(jobs: Jobs) -> None:
    handle = jobs.submit("import time; time.sleep(0.3)")
    seen: list[State] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(read(handle.directory).state)

    reader = threading.Thread(target=look)
    reader.start()
    with open(os.devnull, "w", encoding="ascii") as null:
        handle.wait(null.fileno(), null.fileno())
    over.set()
    reader.join()
    order = [State.PENDING, State.STARTING, State.RUNNING, State.SUCCEEDED]
    changes = [
        state for number, state in enumerate(seen) if number == 0 or state != seen[number - 1]
    ]
    assert [state for state in order if state in changes] == changes
    events = Path(handle.directory.events).read_text().splitlines()
    assert [json.loads(line)["state"] for line in events] == [state.value for state in order]


def test_an_outcome_is_what_the_record_says(jobs: Jobs) -> None:
    result = jobs.run("raise SystemExit(2)")
    record = load(result.directory)
    assert result.outcome.exit_code == record.exit_code
    assert result.outcome.message == record.message
    assert record.created is not None
    assert record.started is not None
    assert record.ended is not None
    assert record.created <= record.started <= record.ended
    exit_file = json.loads(Path(result.directory.role("worker-0").exit).read_text())
    assert exit_file["exit_code"] == 2


def test_the_folders_are_private(jobs: Jobs) -> None:
    result = jobs.run("pass")
    for folder in (result.directory.path, result.directory.role("worker-0").path):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(jobs.home).st_mode & 0o777 == 0o700


def test_a_supervisor_that_cannot_start(jobs: Jobs, tmp_path: Path) -> None:
    """A Python that breaks at once: the log says why, and the job has failed in its setup."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import supervised
sys.executable = {shutil.which("false")!r}
sys.exit(supervised.main())
"""
    command = jobs.launch_command("pass")
    done = subprocess.run(
        [sys.executable, "-c", code, command[2]], env=jobs.environment, check=False
    )
    assert done.returncode == 125
    assert jobs.record.state is State.FAILED
    assert jobs.record.reason is Reason.SETUP_FAILED
