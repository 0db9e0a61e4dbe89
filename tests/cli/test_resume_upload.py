"""`pai jobs resume-upload`: what a job left is uploaded, in order, or kept."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from gate import Gate, gate_before
from oss_server import OTHER_KEY_ID, OTHER_SECRET
from support import ROLE, Pai, Places, wait_until

from pai_runner.cli.main import main
from pai_runner.command import make_job, parse_arguments
from pai_runner.jobs.directory import create
from pai_runner.jobs.record import Record, write
from pai_runner.jobs.state import State
from pai_runner.run.options import Options
from pai_runner.run.planner import make_plan
from pai_runner.storage.checksums import crc64
from pai_runner.storage.pending import Journal, Operation, Waiting, tidy, waiting_in

FILES = ["ckpt-2.data-00000-of-00001", "ckpt-2.index", "checkpoint"]
LEFT = Waiting(3, 20_000_014, 1)


def save(pending: str, prefix: str) -> None:
    """Do what a process does that saves a checkpoint in the background, but for its upload."""
    folder = f"{prefix}run"
    journal = Journal.create(pending, "1")

    def upload(name: str, content: bytes, knows_crc: bool = True) -> Operation:
        Path(journal.next_file()).write_bytes(content)
        crc = crc64(content) if knows_crc else None
        return journal.add(f"{folder}/{name}", len(content), crc)

    journal.end(upload("ckpt-1.index", b"of before"))
    upload("ckpt-2.data-00000-of-00001", b"x" * 20_000_000, knows_crc=False)
    upload("ckpt-2.index", b"index 2")
    upload("checkpoint", b"names 2")
    journal.add(f"{folder}/ckpt-1.index", None)
    journal.close()


# As a script: the same in the process of a job.
SAVES = f"""
import os, signal, sys
sys.path += {[str(Path(__file__).parent), *sys.path]!r}
import test_resume_upload
test_resume_upload.save(os.environ["PAI_PENDING_DIR"], os.environ["PAI_BUCKETS"])
"""


@pytest.fixture
def gate(places: Places) -> Iterator[Gate]:
    with gate_before(places.server.url) as gate:
        yield gate


@pytest.fixture
def leave(pai: Pai, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, Path]]:
    """Return what makes the record of a job that failed and left a checkpoint.

    It returns its id, and the folder in which the checkpoint waits.
    """
    for name, value in pai.environment.items():
        monkeypatch.setenv(name, value)

    def leave(location: str) -> tuple[str, Path]:
        script = pai.folder / "script.py"
        script.write_text("pass", encoding="utf-8")
        words = ["-name", "tensorflow", f"-Dscript={script}", f"-Dbuckets={location}"]
        job, directory = make_job(parse_arguments(words)), create(pai.home)
        code = Path(directory.code)
        plan = make_plan(job, directory, Options(devices="cpu"), pai.folder, code).plan
        Path(directory.spec).write_text(json.dumps(plan.to_json()), encoding="utf-8")
        write(directory, Record(directory.id, "left", State.FAILED, exit_code=1))
        save(plan.pending, plan.mounts[0].prefix)
        return directory.id, Path(plan.pending)

    return leave


Leave = Callable[[str], tuple[str, Path]]


def run_job(pai: Pai, location: str, end: str = "") -> tuple[str, Path, int]:
    """Run a job that leaves a checkpoint; return its id, where that waits, and the exit code."""
    script = pai.folder / "saves.py"
    script.write_text(SAVES + end, encoding="utf-8")
    ran = pai("-name", "tensorflow", f"-Dscript={script}", f"-Dbuckets={location}")
    job = ran.stderr.split("job ")[1].split()[0]
    return job, pai.home / "stage" / f"{job}-pending", ran.returncode


def resume(pai: Pai, job: str, *words: str) -> CompletedProcess[str]:
    return pai("jobs", "resume-upload", job, *words)


@dataclass
class Here:
    """The same in this process, whose environment is that of `leave`."""

    captured: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def through(self, gate: Gate) -> None:
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)

    def resume(self, job: str, *words: str) -> CompletedProcess[str]:
        self.captured.readouterr()
        code = main(["jobs", "resume-upload", job, *words])
        output, errors = self.captured.readouterr()
        return CompletedProcess((), code, output, errors)


@pytest.fixture
def here(leave: Leave, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(capsys, monkeypatch)


def status(pai: Pai, job: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(pai("status", job, "--json").stdout)
    return found


def put(places: Places, name: str, content: bytes) -> None:
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    places.server.client().put_object(Bucket=bucket, Key=f"{prefix}run/{name}", Body=content)


@pytest.mark.slow
def test_what_a_killed_job_left_is_uploaded_in_order(pai: Pai, places: Places, gate: Gate) -> None:
    put(places, "ckpt-1.index", b"old")
    through = pai.with_settings(AWS_ENDPOINT_URL=gate.url)
    job, folder, code = run_job(through, places.s3, "os.kill(os.getpid(), signal.SIGKILL)")
    assert code == 137
    told = status(pai, job)
    assert told["reason"] == "killed by signal"
    assert f"3 files (20 MB) and 1 deletion wait in {folder}" in str(told["message"])
    assert f"`pai jobs resume-upload {job}`" in str(told["message"])
    assert told["waiting"] == {"folder": str(folder), **asdict(LEFT)}
    assert f"pai jobs resume-upload {job}" in pai("status", job).stdout
    done = resume(through, job, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "id": job,
        "uploaded": [f"{places.s3}run/{name}" for name in FILES],
        "removed": [f"{places.s3}run/ckpt-1.index"],
        "held_back": [],
    }
    names = [one.rpartition("/")[2] for one in gate.changes if not one.startswith("POST")]
    assert list(dict.fromkeys(names)) == [*FILES, "ckpt-1.index"]
    assert places.names("s3") == {f"run/{name}" for name in FILES}
    assert not folder.exists()
    assert status(pai, job)["waiting"] is None
    again = resume(pai, job)
    assert again.returncode == 0
    assert f"nothing of job {job} waits" in again.stderr


def test_a_role_is_assumed_as_for_the_job(leave: Leave, here: Here, places: Places) -> None:
    job, _ = leave(f"{places.oss}?host={places.oss_server.url}&role_arn={ROLE}")
    calls = len(places.oss_server.calls_of_sts())
    done = here.resume(job)
    assert done.returncode == 0, done.stderr
    assert places.names("oss") == {f"run/{name}" for name in FILES}
    (call,) = places.oss_server.calls_of_sts()[calls:]
    assert call["session_name"] == f"pai-{job}"


def test_keys_of_the_command_are_given_once_more(leave: Leave, here: Here, places: Places) -> None:
    location = f"{places.oss}?id={OTHER_KEY_ID}&key={OTHER_SECRET}&host={places.oss_server.url}"
    job, folder = leave(location)
    assert OTHER_SECRET not in next(folder.glob("*/journal.jsonl")).read_text()
    refused = here.resume(job)
    assert refused.returncode == 125
    assert f"the keys of {places.oss} are not on record" in refused.stderr
    assert "--location" in refused.stderr
    done = here.resume(job, "--location", location)
    assert done.returncode == 0, done.stderr
    assert OTHER_SECRET not in done.stderr
    assert places.oss_server.requests()[-1].access_key_id == OTHER_KEY_ID


def test_one_that_is_killed_is_repeated(
    leave: Leave, here: Here, pai: Pai, places: Places, gate: Gate
) -> None:
    through = pai.with_settings(AWS_ENDPOINT_URL=gate.url)
    job, folder = leave(places.s3)
    here.through(gate)
    gate.close("ckpt-2.index")
    first = through.start("jobs", "resume-upload", job)
    wait_until(lambda: f"run/{FILES[0]}" in places.names("s3"), 60)
    second = here.resume(job)
    assert second.returncode == 75, second.stderr
    assert "still lives" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.communicate()
    gate.open()
    uploads = sum(FILES[0] in one for one in gate.changes)
    done = here.resume(job)
    assert done.returncode == 0, done.stderr
    assert places.names("s3") == {f"run/{name}" for name in FILES}
    assert sum(FILES[0] in one for one in gate.changes) == uploads, "it was uploaded before"
    assert not folder.exists()


def test_one_whose_server_refuses_says_so(
    leave: Leave, here: Here, places: Places, gate: Gate
) -> None:
    here.through(gate)
    job, folder = leave(places.s3)
    gate.refuses = True
    failed = here.resume(job)
    assert failed.returncode == 125
    assert f"{places.s3}run/{FILES[0]}: not uploaded: " in failed.stderr
    assert "run the same command again" in failed.stderr
    assert waiting_in(str(folder)) == LEFT


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_file_that_is_damaged_stops_it(
    damage: str, leave: Leave, here: Here, places: Places
) -> None:
    job, folder = leave(places.s3)
    (index,) = folder.glob("*/000003")
    if damage == "gone":
        index.unlink()
    else:
        index.write_bytes(b"inde" if damage == "cut" else b"index 3")
    refused = here.resume(job)
    assert refused.returncode == 125
    assert f"{index} ({places.s3}run/ckpt-2.index): " in refused.stderr
    assert not places.names("s3")
    assert waiting_in(str(folder)) == LEFT


def test_another_job_that_went_on_is_not_undone(leave: Leave, here: Here, places: Places) -> None:
    put(places, "checkpoint", b"names 1")
    job, folder = leave(places.s3)
    # In whole seconds, as a server tells the time.
    (journal,) = folder.glob("*/journal.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if "time_ns" in line:
            line["time_ns"] -= 60 * 10**9
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    put(places, "checkpoint", b"names 5")
    held = here.resume(job, "--json")
    assert held.returncode == 125
    assert json.loads(held.stdout)["held_back"] == [f"{places.s3}run"]
    assert "--force" in held.stderr
    assert places.names("s3") == {"run/checkpoint"}
    # What this job itself has written there is no other's.
    put(places, "checkpoint", b"names 2")
    own = here.resume(job)
    assert own.returncode == 0, own.stderr
    assert places.names("s3") == {f"run/{name}" for name in FILES}


def test_force_overwrites_it(leave: Leave, here: Here, places: Places) -> None:
    job, _ = leave(places.s3)
    put(places, "checkpoint", b"names 5")
    done = here.resume(job, "--force")
    assert done.returncode == 0, done.stderr
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    assert places.server.read(bucket, f"{prefix}run/checkpoint") == b"names 2"


def test_a_job_that_runs_uploads_by_itself(pai: Pai, places: Places) -> None:
    script = pai.folder / "waits.py"
    script.write_text("import time; print('up', flush=True); time.sleep(600)", encoding="utf-8")
    running = pai.start("-name", "tensorflow", f"-Dscript={script}", f"-Dbuckets={places.s3}")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    (job,) = (pai.home / "jobs").iterdir()
    refused = resume(pai, job.name)
    assert refused.returncode == 75
    assert f"pai cancel {job.name}" in refused.stderr


@pytest.mark.slow
def test_a_success_that_left_files_is_none(pai: Pai, places: Places) -> None:
    job, folder, code = run_job(pai, places.s3)
    assert code == 1
    told = status(pai, job)
    assert (told["state"], told["reason"]) == ("FAILED", "not uploaded")
    assert str(told["message"]).startswith("the script succeeded, but 3 files (20 MB) and 1 ")
    assert folder.exists()


def test_wrong_words(pai: Pai) -> None:
    missing = resume(pai, "20200101")
    assert missing.returncode == 2
    assert "there is no job" in missing.stderr
    assert pai("jobs", "resume-upload").returncode == 2
    assert "checkpoints" in pai("jobs", "resume-upload", "--help").stdout.replace("\n", " ")


# ====== The journal ======


def test_a_line_that_was_not_written_whole_was_not_promised(tmp_path: Path) -> None:
    journal = Journal.create(str(tmp_path), "one")
    first = journal.add("s3://b/x", None)
    journal.close()
    with (tmp_path / "one" / "journal.jsonl").open("a") as file:
        file.write('{"number": 2, "pa')
    assert waiting_in(str(tmp_path)) == Waiting(removals=1)
    again = Journal(str(tmp_path / "one"))
    assert again.contents.waiting == [first]
    second = again.add("s3://b/y", None)
    again.end(first)
    again.close()
    assert second.number == 2
    assert Journal(str(tmp_path / "one")).contents.waiting == [second]


def test_only_folders_in_which_nothing_waits_go(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    waits, done = Journal.create(root, "waits"), Journal.create(root, "done")
    waits.add("s3://b/x", None)
    done.end(done.add("s3://b/y", None))
    for journal in (waits, done):
        journal.close()
    tidy(root)
    assert os.listdir(root) == ["waits"]


def test_a_damaged_journal_is_told_and_kept(leave: Leave, here: Here, places: Places) -> None:
    job, folder = leave(places.s3)
    (journal,) = folder.glob("*/journal.jsonl")
    text = journal.read_text()
    journal.write_text("\n" + text)
    refused = here.resume(job)
    assert refused.returncode == 125
    assert "line 1 of the journal is damaged" in refused.stderr
    assert str(journal.parent) in refused.stderr
    assert journal.exists()
