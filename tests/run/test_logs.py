"""Following logs: every byte, whatever the output does."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import wait_until

from pai_runner.jobs.directory import JobDirectory, create
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, write
from pai_runner.jobs.state import State
from pai_runner.run.logs import Follower, Stream, follow
from pai_runner.run.watch import tail_lines


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as out:
        stream = Stream(str(tmp_path / "log"), out.fileno())
        assert stream.pump() == 0
        (tmp_path / "log").write_bytes(b"first")
        assert stream.pump() == 5
        with (tmp_path / "log").open("ab") as log:
            log.write(b" second")
        assert stream.pump() == 7
        stream.close()
        assert (tmp_path / "out").read_bytes() == b"first second"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_full_pipe_never_blocks(tmp_path: Path, blocking: bool) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "log").write_bytes(data)
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    stream = Stream(str(tmp_path / "log"), writer)
    received = b""
    times_blocked = 0
    while stream.pump() or stream.blocked:
        if stream.blocked:
            times_blocked += 1
            received += os.read(reader, 1 << 16)
    assert times_blocked > 10
    os.close(writer)
    received += _rest(reader)
    assert received == data
    stream.close()


def _rest(reader: int) -> bytes:
    data = b""
    while part := os.read(reader, 1 << 16):
        data += part
    os.close(reader)
    return data


def test_a_pipe_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100)
    reader, writer = os.pipe()
    os.close(reader)
    follower = Follower([(str(tmp_path / "log"), writer)])
    assert not follower.pump()
    assert follower.lost_reader
    assert follower.blocked == []
    follower.close()
    os.close(writer)


def test_a_closed_descriptor_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x")
    closed = fcntl.fcntl(1, fcntl.F_DUPFD, 100)
    os.close(closed)
    stream = Stream(str(tmp_path / "log"), closed)
    assert stream.pump() == 0
    assert stream.gone
    stream.close()


def test_a_full_disk_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x")
    with open("/dev/full", "wb", buffering=0) as full:
        stream = Stream(str(tmp_path / "log"), full.fileno())
        stream.pump()
        assert stream.gone
        stream.close()


def test_the_pause_grows_and_falls_back(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        follower = Follower([(str(tmp_path / "log"), out.fileno())])
        pauses = []
        for _ in range(6):
            follower.pump()
            pauses.append(follower.delay)
        assert pauses == [0.02, 0.04, 0.08, 0.1, 0.1, 0.1]
        (tmp_path / "log").write_bytes(b"x")
        follower.pump()
        assert follower.delay == 0.01
        follower.close()


# ====== Another process's job ======


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    directory = create(tmp_path)
    directory.role("worker-0").create()
    return directory


def test_follow_ends_with_the_job_and_loses_nothing(
    directory: JobDirectory, tmp_path: Path
) -> None:
    role = directory.role("worker-0")
    running = Record(directory.id, "", State.RUNNING, supervisor=Identity.of(os.getpid()))
    write(directory, running)

    def job() -> None:
        with open(role.stdout, "wb") as out, open(role.stderr, "wb") as err:
            for number in range(50):
                out.write(b"line %d\n" % number)
                out.flush()
                time.sleep(0.005)
            err.write(b"last words")
        write(directory, running.replaced(state=State.SUCCEEDED))

    writer = threading.Thread(target=job)
    writer.start()
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        record = follow(directory, out.fileno(), err.fileno())
    writer.join()
    assert record.state is State.SUCCEEDED
    assert (tmp_path / "out").read_bytes() == b"".join(b"line %d\n" % n for n in range(50))
    assert (tmp_path / "err").read_bytes() == b"last words"


def test_follow_can_stop_at_what_is_there(directory: JobDirectory, tmp_path: Path) -> None:
    write(
        directory,
        Record(directory.id, "", State.RUNNING, supervisor=Identity.of(os.getpid())),
    )
    Path(directory.role("worker-0").stdout).write_bytes(b"so far")
    with (tmp_path / "out").open("wb") as out:
        record = follow(directory, out.fileno(), None, to_end=False)
    assert record.state is State.RUNNING
    assert (tmp_path / "out").read_bytes() == b"so far"


def test_follow_ends_when_the_job_is_lost(directory: JobDirectory, tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    alive = Identity.of(supervisor.pid)
    write(directory, Record(directory.id, "", State.RUNNING, supervisor=alive))
    Path(directory.role("worker-0").stdout).write_bytes(b"text")
    records: list[Record] = []

    def watch() -> None:
        with (tmp_path / "out").open("wb") as out:
            records.append(follow(directory, out.fileno(), None))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wait_until(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_bytes() == b"text")
    assert records == []
    supervisor.communicate(b"\n")
    watcher.join(5)
    assert records[0].state is State.LOST


# ====== Last lines ======


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\ntwo", ["one", "two"]),
        (b"one\ntwo\n", ["one", "two"]),
        (b"10%\r50%\r100%\nend\r\n", ["100%", "end"]),
        (b"caf\xe9\n", ["caf\ufffd"]),
        (b"a\nb\nc\nd\n", ["b", "c", "d"]),
        (b"x" * 100 + b"\n", ["x" * 10]),
    ],
)
def test_tail_lines(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    (tmp_path / "log").write_bytes(data)
    assert tail_lines(str(tmp_path / "log"), 3, width=10) == expected


def test_tail_lines_reads_the_end_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"cut in the middle\nwhole\n")
    assert tail_lines(str(tmp_path / "log"), 3, most_bytes=10) == ["whole"]
    assert tail_lines(str(tmp_path / "nowhere"), 3) == []
