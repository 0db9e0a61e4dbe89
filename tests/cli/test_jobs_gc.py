"""`pai jobs gc`: what it asks for, says and keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pai_runner.cli.main import main
from pai_runner.jobs.directory import JobDirectory, all_ids, create
from pai_runner.jobs.files import now_text
from pai_runner.jobs.record import Record, write
from pai_runner.jobs.runs import Run, Step, all_runs, create_run, write_run
from pai_runner.jobs.state import State
from pai_runner.storage.pending import Journal

Gc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gc:
    monkeypatch.setenv("PAI_HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        code: int | str | None
        try:
            code = main(["jobs", "gc", *arguments])
        except SystemExit as end:  # argparse's
            code = end.code
        told = capsys.readouterr()
        return int(code or 0), told.out, told.err

    return run


def make_job(home: Path, **spec: object) -> JobDirectory:
    """Make a job that ended in 2025, with what `spec` says as its plan."""
    directory = create(home)
    time = "2025-01-01T00:00:00.000Z"
    write(directory, Record(directory.id, "nightly", State.SUCCEEDED, started=time, ended=time))
    Path(directory.spec).write_text(json.dumps({"mounts": [], "pending": "", **spec}))
    return directory


def test_it_says_what_goes_and_how_much_that_is(gc: Gc, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    Path(job.path, "log").write_bytes(b"x" * 2_000_000)
    code, output, _ = gc("--older-than", "30d", "--dry-run")
    header, row, total = output.splitlines()
    assert (code, header.split()) == (0, ["would", "go", "kind", "name", "state", "age", "size"])
    assert row.split()[:4] == [job.id, "job", "nightly", "SUCCEEDED"]
    assert row.endswith("2 MB")
    assert total.split() == ["total", "2", "MB"]
    code, output, _ = gc("--older-than", "30d", "--json")
    told = json.loads(output)
    assert (code, told["dry_run"], told["kept"]) == (0, False, [])
    assert [one["id"] for one in told["removed"]] == [job.id]
    assert told["bytes"] == told["removed"][0]["bytes"] > 2_000_000
    assert gc("--older-than", "30d") == (0, "nothing to remove\n", "")


def test_what_a_killed_removal_left_goes_with_the_next(gc: Gc, tmp_path: Path) -> None:
    left = tmp_path / "trash" / "jobs-20250101-000000-abcdef"
    left.mkdir(parents=True)
    (left / "stdout").write_bytes(b"x" * 3000)
    assert "3 kB" in gc("--older-than", "1d", "--dry-run")[1]
    assert left.exists()
    assert "left by an interrupted removal" in gc("--older-than", "1d")[1]
    assert not left.exists()


def test_a_job_whose_checkpoints_wait_stays(gc: Gc, tmp_path: Path) -> None:
    pending = str(tmp_path / "stage" / "1-pending")
    job = make_job(tmp_path, pending=pending)
    journal = Journal.create(pending, "1")
    Path(journal.next_file()).write_bytes(b"ckpt")
    operation = journal.add("s3://bucket/ckpt", 4)
    code, output, errors = gc("--older-than", "30d")
    assert (code, output) == (0, "nothing to remove\n")
    assert f"job {job.id} stays: 1 file (4 bytes) waits in {pending}" in errors
    assert f"pai jobs resume-upload {job.id}" in errors
    journal.end(operation)
    journal.close()
    assert gc("--older-than", "30d")[0] == 0
    assert all_ids(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", "-left"])
def test_a_job_with_a_staged_folder_stays(gc: Gc, tmp_path: Path, suffix: str) -> None:
    job = make_job(tmp_path)
    root = tmp_path / "stage" / f"{job.id}-1"
    mount = {"prefix": "s3://b/d/", "mode": "stage", "folder": str(root / "files")}
    inner = {"prefix": "s3://b/d/e/", "mode": "stage", "folder": str(root / "files" / "e")}
    Path(job.spec).write_text(json.dumps({"mounts": [mount, inner, {"folder": ""}]}))
    folder = Path(f"{root}{suffix}")
    folder.mkdir(parents=True)
    _, output, _ = gc("--older-than", "30d", "--json")
    told = json.loads(output)
    assert (told["removed"], [one["id"] for one in told["kept"]]) == ([], [job.id])
    assert told["kept"][0]["reason"].startswith(f"{folder} holds")
    folder.rmdir()
    gc("--older-than", "30d")
    assert not os.path.exists(job.path)


@pytest.mark.parametrize(
    "spec", [{"mounts": ["x"]}, {"mounts": [{"folder": 3}]}, {"mounts": None}, ["mounts"], None]
)
def test_a_damaged_plan_does_not_end_it(gc: Gc, tmp_path: Path, spec: object) -> None:
    jobs = [make_job(tmp_path) for _ in range(2)]
    Path(jobs[1].spec).write_text(json.dumps(spec))
    assert gc("--older-than", "30d")[0] == 0
    assert all_ids(tmp_path) == []


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_what_cannot_be_deleted_is_told_when_the_rest_is_gone(
    gc: Gc, tmp_path: Path, words: list[str]
) -> None:
    trash = tmp_path / "trash"
    left = trash / "jobs-20250101-000000-b"
    left.mkdir(parents=True)
    strangers = [trash / name for name in ("a", "c")]
    for stranger in strangers:
        stranger.write_text("no folder")  # what nobody's removal put there
    job = make_job(tmp_path)
    code, output, errors = gc("--older-than", "30d", *words)
    assert code == 125
    assert job.id in output
    assert all(str(stranger) in errors for stranger in strangers)
    assert sorted(trash.iterdir()) == strangers
    assert all_ids(tmp_path) == []


def test_an_unfinished_run_keeps_its_jobs_and_a_run_goes_with_them(gc: Gc, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    directory = create_run()
    step = Step("PAI;", "nightly", State.SUCCEEDED, 0, jobs=(job.id,))
    steps = (step, Step("PAI;", "nightly", State.FAILED, 1))
    run = Run(directory.id, "nightly", State.FAILED, steps, ended=now_text())
    write_run(directory, run)
    code, output, errors = gc("--older-than", "30d")
    assert (code, output) == (0, "nothing to remove\n")
    assert f"job {job.id} stays: run {run.id} may go on from it" in errors
    write_run(directory, replace(run, ended="2025-01-01T00:00:00.000Z"))
    _, output, errors = gc("--older-than", "30d", "--keep-failed")
    assert (output, errors.count(run.id)) == ("nothing to remove\n", 1)
    _, output, _ = gc("--older-than", "30d")
    rows = [row.split()[:4] for row in output.splitlines()[1:-1]]
    assert rows == [
        [run.id, "run", "nightly", "FAILED"],
        [job.id, "job", "nightly", "SUCCEEDED"],
    ]
    assert (all_runs(), all_ids(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--older-than"),
        (["--older-than", "7"], "of what?"),
        (["--older-than", "soon"], "is not a duration"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_goes(
    gc: Gc, tmp_path: Path, words: list[str], says: str
) -> None:
    job = make_job(tmp_path)
    code, output, errors = gc(*words)
    assert (code, output) == (2, "")
    assert says in errors
    assert os.path.isdir(job.path)
