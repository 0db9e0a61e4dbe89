"""Removing records: only of jobs that are over, and whole whenever it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support import ROOT, wait_until

from pai_runner.jobs.cancel import MARKER
from pai_runner.jobs.directory import JobDirectory, all_ids, create, new_id
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.listing import list_records
from pai_runner.jobs.record import Record, RoleProcess, write
from pai_runner.jobs.retention import Rule, Swept, sweep
from pai_runner.jobs.runs import Run, RunDirectory, Step, all_runs, write_run
from pai_runner.jobs.state import State

DAY = 86400.0
NOW = datetime(2026, 11, 21, 2, 0, tzinfo=timezone.utc)
MONTH = Rule(older_than=30 * DAY)


def text_of(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def make_job(
    home: Path, days: float, state: State = State.SUCCEEDED, supervisor: Identity | None = None
) -> JobDirectory:
    """Make the record of a job that began, and ended if `state` is final, `days` before NOW."""
    directory = create(home)
    then = NOW - timedelta(days=days)
    began = text_of(then)
    write(
        directory,
        Record(
            directory.id,
            "nightly",
            state,
            created=began,
            started=began,
            ended=began if state.final else None,
            supervisor=supervisor,
            roles=(RoleProcess("worker-0"),),
        ),
    )
    role = directory.role("worker-0")
    role.create()
    Path(role.stdout).write_bytes(b"x" * 1000)
    age(directory.path, then)
    return directory


def age(folder: str, then: datetime) -> None:
    """Have all below `folder` last changed at `then`."""
    for path in [*Path(folder).rglob("*"), Path(folder)]:
        os.utime(path, (then.timestamp(), then.timestamp()))


def swept(home: Path, rule: Rule = MONTH, *, needed: str = "", dry_run: bool = False) -> Swept:
    return sweep(rule, NOW.timestamp(), lambda _: needed, dry_run, home)


def ids(jobs: list[JobDirectory]) -> set[str]:
    return {job.id for job in jobs}


@contextmanager
def living_process(**environment: str) -> Iterator[int]:
    """Yield the pid of a process that waits for its end."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is exec'ed: its environment is its own
    try:
        yield process.pid
    finally:
        process.communicate(b"\n")


def dead_process() -> Identity:
    with living_process() as pid:
        return Identity.of(pid)


# ====== What goes ======


def test_jobs_that_ended_longer_ago_go(tmp_path: Path) -> None:
    old = [make_job(tmp_path, days) for days in (31, 400)]
    young = [make_job(tmp_path, days) for days in (0, 29.9)]
    first = swept(tmp_path, dry_run=True)
    assert {one.id for one in first.removed} == ids(old)
    assert set(all_ids(tmp_path)) == ids(old + young)
    sizes = {job.id: _size(job.path) for job in old}
    done = swept(tmp_path)
    assert done == first
    assert {one.id: one.bytes for one in done.removed} == sizes
    assert done.bytes == sum(sizes.values()) > 2000
    assert {round(one.age / DAY) for one in done.removed} == {31, 400}
    assert set(all_ids(tmp_path)) == ids(young)
    assert os.listdir(tmp_path / "trash") == []
    assert swept(tmp_path).findings == ()


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def test_those_that_failed_can_be_kept(tmp_path: Path) -> None:
    final = {state: make_job(tmp_path, 60, state) for state in State if state.final}
    done = swept(tmp_path, Rule(30 * DAY, keeps_failed=True))
    assert {one.state for one in done.removed} == {"SUCCEEDED", "CANCELLED"}
    assert done.kept == []
    kept = {State.FAILED, State.TIMED_OUT, State.LOST}
    assert set(all_ids(tmp_path)) == {final[state].id for state in kept}


def test_a_job_that_is_not_over_stays(tmp_path: Path) -> None:
    elsewhere = Identity(1, "1", "another boot", "another machine")
    job = make_job(tmp_path, 60, State.RUNNING, elsewhere)
    make_job(tmp_path, 1, State.RUNNING, elsewhere)  # too young to be spoken of
    (kept,) = swept(tmp_path).findings
    assert (kept.id, kept.kept) == (job.id, "it is RUNNING on another machine")
    assert os.path.isdir(job.path)


def test_a_lost_job_goes_by_its_last_sign_of_life_when_no_process_of_it_lives(
    tmp_path: Path,
) -> None:
    job = make_job(tmp_path, 60, State.RUNNING, dead_process())
    with living_process(**{MARKER: job.path}):
        (kept,) = swept(tmp_path).findings
        assert (kept.state, kept.kept.partition(":")[0]) == ("LOST", "processes of it still run")
    log = job.role("worker-0").stdout
    later = (NOW - timedelta(days=3)).timestamp()
    os.utime(log, (later, later))
    assert swept(tmp_path).findings == ()
    age(job.path, NOW - timedelta(days=40))
    assert [one.id for one in swept(tmp_path).removed] == [job.id]


def test_a_recorded_process_that_lives_keeps_its_job(tmp_path: Path) -> None:
    job = make_job(tmp_path, 60, State.LOST)
    with living_process() as pid:
        record = list_records(records_home=tmp_path)[0]
        write(job, record.replaced(roles=(RoleProcess("worker-0", None, Identity.of(pid)),)))
        (kept,) = swept(tmp_path).findings
        assert f"pai cancel --force {job.id}" in kept.kept
    assert len(swept(tmp_path).removed) == 1


def test_what_is_still_needed_stays(tmp_path: Path) -> None:
    job = make_job(tmp_path, 60)
    (kept,) = swept(tmp_path, needed="2 files wait").findings
    assert (kept.id, kept.kept) == (job.id, "2 files wait")
    assert os.path.exists(job.state)


@pytest.mark.parametrize("content", [b"{half", None, b'{"schema": 99}'])
def test_a_damaged_record_goes_only_when_that_is_asked_for(
    tmp_path: Path, content: bytes | None
) -> None:
    job = make_job(tmp_path, 60)
    if content is None:
        os.unlink(job.state)
    else:
        Path(job.state).write_bytes(content)
    rule = Rule(30 * DAY, takes_damaged=True)
    now = datetime.now(timezone.utc).timestamp()
    assert sweep(rule, now, lambda _: "", records_home=tmp_path).findings == ()
    age(job.path, NOW - timedelta(days=60))
    (kept,) = swept(tmp_path).findings
    assert kept.kept.endswith("; --damaged removes it")
    assert [one.id for one in swept(tmp_path, rule).removed] == [job.id]


def test_no_home_is_nothing_to_remove(tmp_path: Path) -> None:
    assert swept(tmp_path / "none") == Swept((), 0)
    assert not (tmp_path / "none").exists()


# ====== Runs ======


def make_run(
    home: Path, days: float, state: State, *jobs: JobDirectory, keeper: Identity | None = None
) -> RunDirectory:
    """Make the record of a run whose one step `jobs` did, and that ended `days` before NOW."""
    directory = RunDirectory(str(home), new_id())
    os.makedirs(directory.path)
    then = NOW - timedelta(days=days)
    steps = (Step("PAI;", "nightly", state, jobs=tuple(job.id for job in jobs)),)
    ended = text_of(then) if state.final else None
    write_run(directory, Run(directory.id, "nightly", state, steps, ended=ended, keeper=keeper))
    age(directory.path, then)
    return directory


def reasons(found: Swept) -> dict[str, str]:
    return {one.id: one.kept for one in found.findings}


def test_a_run_that_may_be_gone_on_from_keeps_its_jobs(tmp_path: Path) -> None:
    attempts = [make_job(tmp_path, 60, State.FAILED), make_job(tmp_path, 59)]
    run = make_run(tmp_path, 2, State.CANCELLED, *attempts)
    free = make_job(tmp_path, 60)
    make_run(tmp_path, 2, State.SUCCEEDED, free)
    reason = f"run {run.id} may go on from it"
    assert reasons(swept(tmp_path)) == {**dict.fromkeys(ids(attempts), reason), free.id: ""}
    assert set(all_ids(tmp_path)) == ids(attempts)


def test_old_runs_go_with_their_jobs(tmp_path: Path) -> None:
    gone = {}
    for state in (State.SUCCEEDED, State.CANCELLED, State.FAILED):
        job = make_job(tmp_path, 60)
        gone |= {make_run(tmp_path, 59, state, job).id: "", job.id: ""}
    young = make_run(tmp_path, 29, State.SUCCEEDED)
    dry = swept(tmp_path, dry_run=True)
    assert len(all_ids(tmp_path)) == 3
    done = swept(tmp_path)
    assert reasons(dry) == reasons(done) == gone
    assert [one.kind for one in done.findings] == ["run"] * 3 + ["job"] * 3
    assert [one.id for one in all_runs(tmp_path)] == [young.id]
    assert os.listdir(tmp_path / "trash") == []


def test_failed_runs_can_be_kept_and_keep_their_successes(tmp_path: Path) -> None:
    job = make_job(tmp_path, 60)
    kept = make_run(tmp_path, 59, State.FAILED, job)
    lost = make_run(tmp_path, 59, State.RUNNING, keeper=dead_process())
    gone = make_run(tmp_path, 59, State.CANCELLED)
    found = swept(tmp_path, Rule(30 * DAY, keeps_failed=True))
    assert reasons(found) == {gone.id: "", job.id: f"run {kept.id} may go on from it"}
    assert {one.id for one in all_runs(tmp_path)} == {kept.id, lost.id}
    assert {one.id for one in swept(tmp_path).removed} == {kept.id, lost.id, job.id}


def test_a_lost_run_whose_commands_have_succeeded_stays(tmp_path: Path) -> None:
    """Else its date would be run again."""
    job = make_job(tmp_path, 60)
    lost = make_run(tmp_path, 59, State.RUNNING, job, keeper=dead_process())
    found = reasons(swept(tmp_path))
    assert found[lost.id] == "all its commands have succeeded, and nothing else tells it"
    assert found[job.id] == f"run {lost.id} may go on from it"


def test_a_run_that_is_not_over_stays(tmp_path: Path) -> None:
    elsewhere = Identity(1, "1", "another boot", "another machine")
    running = make_job(tmp_path, 60, State.RUNNING, elsewhere)
    done = make_job(tmp_path, 60)
    there = make_run(tmp_path, 59, State.RUNNING, done, keeper=elsewhere)
    lost = make_run(tmp_path, 59, State.RUNNING, running, keeper=dead_process())
    assert reasons(swept(tmp_path)) == {
        there.id: "it is RUNNING on another machine",
        lost.id: f"its job {running.id} is RUNNING",
        running.id: "it is RUNNING on another machine",
        done.id: f"run {there.id} may go on from it",
    }


def test_a_damaged_run_goes_only_when_that_is_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, 60, State.SUCCEEDED)
    Path(run.record).write_bytes(b"{half")
    age(run.path, NOW - timedelta(days=60))
    (kept,) = swept(tmp_path).findings
    assert kept.kept.endswith("; --damaged removes it")
    assert [one.id for one in swept(tmp_path, Rule(30 * DAY, takes_damaged=True)).removed] == [
        run.id
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_nobody_may_write_go_too(tmp_path: Path) -> None:
    job = make_job(tmp_path, 60)
    deep = Path(job.code, "a", "b")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for folder in (deep, deep.parent):
        folder.chmod(0o500)
    age(job.path, NOW - timedelta(days=60))
    assert len(swept(tmp_path).removed) == 1
    assert os.listdir(tmp_path / "trash") == []


# ====== Interrupted, and with others ======

SWEEPS = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from pai_runner.jobs.retention import Rule, sweep
rule = Rule({30 * DAY})
sys.stdin.readline()
print("begun", flush=True)
done = sweep(rule, {NOW.timestamp()}, lambda _: "", records_home=sys.argv[1])
print(json.dumps([one.id for one in done.removed]))
"""


def start_sweep(home: Path) -> subprocess.Popen[str]:
    """Start a process that sweeps when it gets a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", SWEEPS, str(home)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_sweep_that_is_killed_leaves_whole_jobs_and_the_next_one_ends_it(
    tmp_path: Path,
) -> None:
    count = 150
    for _ in range(count):
        make_job(tmp_path, 60)
    marks = (1, 60, 149)
    for mark in marks:
        process = start_sweep(tmp_path)
        go(process)
        wait_until(lambda mark=mark: len(all_ids(tmp_path)) <= count - mark, step=0.0001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        records = list_records(records_home=tmp_path)
        assert {record.state for record in records} <= {State.SUCCEEDED}
        assert all(os.path.exists(job(tmp_path, one).role("worker-0").stdout) for one in records)
    left = len(all_ids(tmp_path))
    in_trash = len(os.listdir(tmp_path / "trash"))
    done = swept(tmp_path)
    assert (len(done.removed), done.leftover_bytes > 0) == (left, in_trash > 0)
    assert (all_ids(tmp_path), os.listdir(tmp_path / "trash")) == ([], [])


def job(home: Path, record: Record) -> JobDirectory:
    return JobDirectory(home, record.id)


def test_two_sweeps_share_the_work_and_readers_see_whole_jobs(tmp_path: Path) -> None:
    old = [make_job(tmp_path, 60) for _ in range(150)]
    young = make_job(tmp_path, 1)
    processes = [start_sweep(tmp_path) for _ in range(2)]
    for process in processes:
        go(process)
    states = set()
    while any(process.poll() is None for process in processes):
        states |= {record.state for record in list_records(records_home=tmp_path)}
    removed = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(removed[0] + removed[1]) == sorted(ids(old))
    assert states == {State.SUCCEEDED}
    assert all_ids(tmp_path) == [young.id]
    assert os.listdir(tmp_path / "trash") == []
