"""`pai top`: what runs, on a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Pai, wait_until

SCRIPT = """\
import sys, time
print("INFO:tensorflow:loss = 0.7, step = 100", file=sys.stderr)
print("INFO:tensorflow:loss = 0.5, step = 300 (0.500 sec)", file=sys.stderr)
print("\\x1b[2Jthe last \\x07line", file=sys.stderr)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


@pytest.fixture
def running(pai: Pai, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job that has printed what its script prints, and runs."""
    script, printed = tmp_path / "train.py", tmp_path / "printed"
    script.write_text(SCRIPT, encoding="utf-8")
    words = ["--devices", "cpu", "--grace", "1s", "-name", "tensorflow", f"-Dscript={script}"]
    process = pai.start(*words, "-DjobName=nightly", f"-DuserDefinedParameters={printed}")
    wait_until(printed.exists, seconds=60)
    yield process
    process.terminate()
    process.communicate(timeout=60)


def test_a_running_job_is_shown_with_its_steps(pai: Pai, running: subprocess.Popen[str]) -> None:
    (job,) = json.loads(pai("top", "--json").stdout)
    assert (job["name"], job["state"]) == ("nightly", "RUNNING")
    assert 0 < job["seconds"] < 300
    (role,) = job["roles"]
    assert os.path.isdir(f"/proc/{role.pop('pid')}")
    assert role == {
        "label": "worker-0",
        "devices": [],
        "step": 300,
        "steps_per_second": 400.0,
        "last_line": "the last line",
    }
    for words in (["--once"], []):
        header, row = pai("top", *words).stdout.splitlines()
        assert header.split()[:4] == ["id", "name", "state", "age"]
        assert row.split()[:3] == [job["id"], "nightly", "RUNNING"]
        assert row.split()[-6:] == ["cpu", "300", "400", "the", "last", "line"]
    _watch_and_end(pai, job["id"], b"q")
    _watch_and_end(pai, job["id"], b"\x03")


def test_nothing_runs(pai: Pai) -> None:
    assert pai("top", "--once").stdout == "no job runs\n"
    assert json.loads(pai("top", "--json").stdout) == []
    ran = pai("top", "--interval", "0")
    assert ran.returncode == 2
    assert "`0` is not between" in ran.stderr


def _watch_and_end(pai: Pai, job_id: str, key: bytes) -> None:
    """Watch on a terminal until the job is drawn twice, then press `key`."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        pai.command("top", "--interval", "0.1s"),
        cwd=pai.folder,
        env={**pai.environment, "TERM": "xterm", "COLUMNS": "160", "LINES": "24"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(terminal)
    drawn = b""
    deadline = time.monotonic() + 60
    shown = job_id.rpartition("-")[2].encode()
    while drawn.count(shown) < 2:
        assert select.select([main], [], [], max(0.0, deadline - time.monotonic()))[0], drawn
        drawn += os.read(main, 65536)
    os.write(main, key)
    while process.poll() is None:
        assert time.monotonic() < deadline
        drawn += _read(main)
    drawn += _read(main)
    os.close(main)
    assert process.returncode == 0, drawn
    assert (drawn.count(b"\x1b[?1049h"), drawn.count(b"\x1b[?1049l")) == (1, 1)
    assert b"Traceback" not in drawn


def _take_terminal() -> None:
    """Make the terminal on standard input this session's, so that its keys become signals."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(descriptor: int) -> bytes:
    try:
        if select.select([descriptor], [], [], 0.05)[0]:
            return os.read(descriptor, 65536)
    except OSError:
        pass  # the other side of the terminal is gone
    return b""
