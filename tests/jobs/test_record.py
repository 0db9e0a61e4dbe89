"""Records: written whole, read by anyone, LOST when their writer is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pai_runner.jobs.directory import JobDirectory, create
from pai_runner.jobs.files import now_text, write_atomic, write_in_place
from pai_runner.jobs.identity import Identity, boot_id
from pai_runner.jobs.listing import list_records
from pai_runner.jobs.record import Record, RoleProcess, append_event, load, read, write
from pai_runner.jobs.state import Kind, Reason, State


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    return create(tmp_path)


def me() -> Identity:
    return Identity.of(os.getpid())


def somebody_dead() -> Identity:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity.of(child.pid)
    child.communicate(b"\n")
    return identity


def full_record(directory: JobDirectory) -> Record:
    return Record(
        directory.id,
        "name 中文 \udce9",
        State.FAILED,
        Reason.SCRIPT_FAILED,
        3,
        Kind.SCRIPT,
        "worker-0 ended with code 3",
        "worker-0",
        created=now_text(),
        started=now_text(),
        ended=now_text(),
        launcher=me(),
        supervisor=me(),
        roles=(RoleProcess("worker-0", me(), me(), 3), RoleProcess("worker-1")),
        last_lines=("a", "b"),
    )


def test_a_record_comes_back_as_it_was(directory: JobDirectory) -> None:
    record = full_record(directory)
    write(directory, record)
    assert load(directory).to_json() == record.to_json()
    assert os.stat(directory.state).st_mode & 0o777 == 0o600
    assert os.listdir(directory.path) == ["state.json"]


def test_final_states_are_final_whoever_lives(directory: JobDirectory) -> None:
    for state in State:
        if state.final:
            dead = somebody_dead()
            write(directory, Record(directory.id, "", state, supervisor=dead))
            assert read(directory).state is state


def test_running_without_its_supervisor_is_lost(directory: JobDirectory) -> None:
    dead = somebody_dead()
    write(directory, Record(directory.id, "", State.RUNNING, launcher=me(), supervisor=dead))
    before = Path(directory.state).read_bytes()
    record = read(directory)
    assert (record.state, record.reason) == (State.LOST, Reason.SUPERVISOR_GONE)
    assert record.message == f"the supervisor (pid {dead.pid}) was gone while the job was RUNNING"
    assert Path(directory.state).read_bytes() == before  # a reader never writes


def test_pending_without_its_launcher_is_lost(directory: JobDirectory) -> None:
    write(directory, Record(directory.id, "", State.PENDING, launcher=me()))
    assert read(directory).state is State.PENDING
    write(directory, Record(directory.id, "", State.PENDING, launcher=somebody_dead()))
    record = read(directory)
    assert (record.state, record.reason) == (State.LOST, Reason.LAUNCHER_GONE)


def test_a_pid_that_another_process_has_now_is_not_the_supervisor(
    directory: JobDirectory,
) -> None:
    mine = me()
    other = Identity(mine.pid, mine.start + "1", mine.boot, mine.host)
    write(directory, Record(directory.id, "", State.RUNNING, supervisor=other))
    assert read(directory).state is State.LOST


def test_after_a_restart_of_the_machine(directory: JobDirectory) -> None:
    mine = me()
    before = Identity(mine.pid, mine.start, "another-boot", mine.host)
    write(directory, Record(directory.id, "", State.RUNNING, supervisor=before))
    assert read(directory).reason is Reason.MACHINE_RESTARTED


def test_another_machines_job_is_not_called_lost(directory: JobDirectory) -> None:
    there = Identity(1, "1", boot_id(), "another-host")
    write(directory, Record(directory.id, "", State.RUNNING, supervisor=there))
    assert read(directory).state is State.RUNNING


def test_a_script_that_lives_on_is_named(directory: JobDirectory) -> None:
    roles = (RoleProcess("worker-0", somebody_dead(), me()),)
    lost = Record(directory.id, "", State.RUNNING, supervisor=somebody_dead(), roles=roles)
    write(directory, lost)
    message = read(directory).message
    assert f"its script still runs (pid {os.getpid()})" in message
    assert f"pai cancel --force {directory.id}" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "not an object"),
        (b'{"schema": 1}', "damaged: 'times'"),
        (b'{"schema": 7}', "schema 7"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_a_damaged_record_is_shown_as_such(
    directory: JobDirectory, data: bytes, message: str
) -> None:
    Path(directory.state).write_bytes(data)
    record = read(directory)
    assert record.state is State.UNKNOWN
    assert message in record.message
    assert record.id == directory.id


def test_a_job_without_a_record(directory: JobDirectory) -> None:
    assert read(directory).state is State.UNKNOWN
    assert "never started" in read(directory).message


def test_words_of_a_newer_version_are_unknown(directory: JobDirectory) -> None:
    data = {**full_record(directory).to_json(), "state": "PREEMPTED", "reason": "preempted"}
    Path(directory.state).write_text(json.dumps(data))
    record = read(directory)
    assert (record.state, record.reason) == (State.UNKNOWN, Reason.UNKNOWN)
    assert record.message == "worker-0 ended with code 3"


def test_a_reader_never_sees_half_a_record(directory: JobDirectory) -> None:
    record = full_record(directory)
    over = threading.Event()
    write(directory, record)

    def keep_writing() -> None:
        lengths = 0
        while not over.is_set():
            lengths = (lengths + 7) % 90
            write(directory, record.replaced(message="x" * lengths * 100))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        states = {load(directory).state for _ in range(500)}
    finally:
        over.set()
        writer.join()
    assert states == {State.FAILED}


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    with pytest.raises(OSError):
        write_atomic(str(folder), b"a file cannot replace a folder")
    assert os.listdir(tmp_path) == ["target"]


def test_writing_in_place_keeps_within_the_space(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a": "' + b"x" * 100 + b'"}')
    write_in_place(str(path), b'{"b": 1}')
    assert json.loads(path.read_bytes()) == {"b": 1}
    with pytest.raises(OSError, match="No space left"):
        write_in_place(str(path), b"x" * 100_000)
    assert json.loads(path.read_bytes()) == {"b": 1}


def test_events_are_appended(directory: JobDirectory) -> None:
    append_event(directory, Record(directory.id, "", State.PENDING))
    append_event(directory, full_record(directory))
    events = [json.loads(line) for line in Path(directory.events).read_text().splitlines()]
    assert [event["state"] for event in events] == ["PENDING", "FAILED"]
    assert events[1]["reason"] == "script failed"


def test_listing(tmp_path: Path) -> None:
    states = (State.SUCCEEDED, State.FAILED, State.SUCCEEDED)
    for number, state in enumerate(states):
        directory = JobDirectory(tmp_path, f"2026112{number}-000000-aaaaaa")
        os.makedirs(directory.path)
        write(directory, Record(directory.id, str(number), state))
    Path(tmp_path, "jobs", "20261120-000000-broken").mkdir()
    names = [(record.job_name, record.state) for record in list_records(records_home=tmp_path)]
    assert names == [
        ("2", State.SUCCEEDED),
        ("1", State.FAILED),
        ("", State.UNKNOWN),
        ("0", State.SUCCEEDED),
    ]
    some = list_records(1, {State.SUCCEEDED}, tmp_path)
    assert [record.job_name for record in some] == ["2"]
    assert list_records(records_home=tmp_path / "nowhere") == []


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not Identity.of(child.pid).alive
    child.wait()
    assert me().alive
    assert not me().gone
