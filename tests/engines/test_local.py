"""The local engine on real processes: output, exit codes, failures to start, the record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from supervised import Jobs
from support import wait_until

from pai_runner.errors import SetupError
from pai_runner.jobs.record import load, read
from pai_runner.jobs.state import Kind, Reason, State

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
