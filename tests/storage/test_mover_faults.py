"""The mover when something goes wrong: what it refuses, what it says, and what it leaves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_server import Faults, fault_server
from mover_process import Job, Place, S3Place, staged, write
from support import wait_until

MIB = 1024 * 1024


# ====== Conflicts ======


def test_what_another_wrote_meanwhile_is_not_overwritten(job: Job, place: Place) -> None:
    place.put("both", b"old")
    place.put("theirs", b"old")
    place.put("removed", b"old")
    with staged(job) as (mover, folder):
        place.put("both", b"of another")
        place.put("new", b"of another")
        place.put("theirs", b"of another")
        place.put("removed", b"of another")
        (folder / "both").write_bytes(b"mine")
        (folder / "new").write_bytes(b"mine")
        (folder / "removed").unlink()
        (folder / "fine").write_bytes(b"mine")
        wait_until(lambda: job.log.count("and not overwritten or removed") == 3)
        finished = mover.finish()
    assert finished["conflicts"] == [f"{place.prefix}{name}" for name in ("both", "new", "removed")]
    assert finished["files"] == 1
    for name in ("both", "new", "theirs", "removed"):
        assert place.read(name) == b"of another"
    assert place.read("fine") == b"mine"
    assert (folder / "both").read_bytes() == b"mine"
    assert job.log.count("both: changed in the bucket meanwhile, and not overwritten") == 1


def test_a_conflict_below_a_saved_model_holds_its_entry_back(job: Job, place: Place) -> None:
    with staged(job) as (mover, folder):
        place.put("export/variables/variables.index", b"of another")
        write(folder, "export/variables/variables.data-00000-of-00001", b"d")
        write(folder, "export/variables/variables.index", b"i")
        write(folder, "export/saved_model.pb", b"pb")
        finished = mover.finish()
    assert "export/saved_model.pb" not in place.names()
    assert finished["conflicts"] == [f"{place.prefix}export/variables/variables.index"]
    assert any("saved_model.pb" in line for line in finished["not_copied"])


def test_what_a_job_kept_is_not_taken_by_the_next(job: Job, place: Place, tmp_path: Path) -> None:
    with staged(job) as (mover, folder):
        place.put("x", b"of another")
        (folder / "x").write_bytes(b"mine")
        mover.finish()
    later = Job(tmp_path, "later", [place])
    with staged(later) as (mover, later_folder):
        assert (later_folder / "x").read_bytes() == b"of another"
        mover.finish()
    assert (folder / "x").read_bytes() == b"mine"


# ====== What goes wrong ======


@pytest.mark.parametrize(
    "name", ["a//b", "a/../b", "./a", "x" * 256, "both", "a/./"], ids=lambda name: name[:8]
)
def test_a_key_that_cannot_be_a_file(s3_place: S3Place, tmp_path: Path, name: str) -> None:
    s3_place.put(name, b"1")
    if name == "both":
        s3_place.put("both/x", b"2")
    with Job(tmp_path, "job", [s3_place]).mover() as mover:
        failed = mover.report()
    assert failed["exit_code"] == 125
    assert f"{s3_place.prefix}{name}".rstrip("/") in failed["failed"]
    assert "mount=stream" in failed["hint"]


def test_a_time_that_is_none(job: Job, tmp_path: Path) -> None:
    wrong = Job(tmp_path, "job", job.places, {"PAI_STAGE_SECONDS": "often"})
    with wrong.mover() as mover:
        assert mover.report()["failed"] == "PAI_STAGE_SECONDS=often is no time"


def test_a_missing_bucket(s3_place: S3Place, tmp_path: Path) -> None:
    missing = S3Place("s3://no-such-bucket/dir/", s3_place.server)
    with Job(tmp_path, "job", [missing]).mover() as mover:
        assert "there is no bucket `no-such-bucket`" in mover.report()["failed"]
        assert mover.process.wait(30) == 125


def on_a_small_disk(folder: Path) -> list[str]:
    """Return the words before a command that give it a disk of 4 MiB at `folder`."""
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", mount, "sh", str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"]).returncode:
        pytest.skip("no mount namespace here")
    return words


@pytest.mark.parametrize("size", [5 * MIB, 4 * MIB - 4096])
def test_a_disk_that_is_too_small(s3_place: S3Place, tmp_path: Path, size: int) -> None:
    words = on_a_small_disk(tmp_path / "stage")
    s3_place.put("x", b"x" * size)
    job = Job(tmp_path, "job", [s3_place], words=words)
    with job.mover() as mover:
        failed = mover.report()
    assert "are to be copied there, and" in failed["failed"]
    assert "PAI_STAGE_DIR" in failed["hint"]


@pytest.fixture
def faults() -> Iterator[Faults]:
    with fault_server() as made:
        yield made


@dataclass(frozen=True)
class FaultyPlace:
    """A place on a server that fails as it is told."""

    options: dict[str, str]
    prefix: str = "s3://b/d/"
    protocol: str = "s3"

    def names(self) -> set[str]:
        raise NotImplementedError

    read = put = delete = names  # type: ignore[assignment]


@pytest.mark.slow
def test_a_server_that_fails_for_a_while(faults: Faults, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [FaultyPlace(faults.options)])
    with staged(job) as (mover, folder):
        faults.refused = {"PUT"}
        (folder / "x").write_bytes(b"1")
        wait_until(lambda: "x: " in job.log)
        before = len(faults.requests)
        wait_until(lambda: len(faults.requests) > before + 4)
        assert job.log.count("x: ") == 1
        assert faults.options["key"] not in job.log
        faults.mend()
        wait_until(lambda: "/b/d/x" in faults.objects)
        mover.finish()


def test_a_server_that_denies_reading(faults: Faults, tmp_path: Path) -> None:
    faults.refused = {"GET"}
    with Job(tmp_path, "job", [FaultyPlace(faults.options)]).mover() as mover:
        failed = mover.report()
    assert "access denied" in failed["failed"]
    assert faults.options["key"] not in json.dumps(failed)


def test_a_server_that_refuses_at_the_end(faults: Faults, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [FaultyPlace(faults.options)])
    with staged(job) as (mover, folder):
        faults.refused = {"PUT"}
        write(folder, "model-1.index", b"1")
        write(folder, "x", b"1")
        finished = mover.finish()
    assert "s3://b/d/x: " in finished["error"]
    assert [line.split(": ")[0] for line in finished["not_copied"]] == [
        "s3://b/d/model-1.index",
        "s3://b/d/x",
    ]
    assert (folder / "x").exists()
    assert str(folder) in job.log


def test_a_folder_that_the_script_removed_removes_nothing(job: Job, place: Place) -> None:
    place.put("x", b"1")
    with staged(job) as (mover, folder):
        shutil.rmtree(folder)
        finished = mover.finish()
    assert "is gone" in finished["error"]
    assert place.names() == {"x"}


# ====== Orders ======


@pytest.mark.parametrize("how", ["stop", "hang up", "SIGTERM"])
def test_it_gives_up_when_told(job: Job, how: str) -> None:
    with staged(job) as (mover, folder):
        (folder / "x").write_bytes(b"1")
        if how == "stop":
            mover.order("stop")
        elif how == "hang up":
            mover.hang_up()
        else:
            mover.process.terminate()
        assert mover.process.wait(10) == 125
    assert folder.exists()


def test_it_outlives_the_terminals_signals(job: Job) -> None:
    with staged(job) as (mover, _):
        for number in (signal.SIGINT, signal.SIGHUP):
            mover.process.send_signal(number)
        mover.finish()


@pytest.mark.slow
def test_an_upload_that_is_given_up_leaves_nothing(s3_place: S3Place, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [s3_place])
    bucket = s3_place.prefix.split("/")[2]

    def uploads() -> list[object]:
        answer = s3_place.server.client().list_multipart_uploads(Bucket=bucket)
        found: list[object] = answer.get("Uploads", [])
        return found

    with staged(job) as (mover, folder):
        (folder / "large").write_bytes(bytes(200 * MIB))
        wait_until(uploads, 30, 0.01)
        mover.order("stop")
        mover.process.wait(20)
    assert s3_place.names() == set()
    assert uploads() == []


def test_a_terminal_gets_a_bar(s3_place: S3Place, tmp_path: Path) -> None:
    s3_place.put("x", b"x" * 1000)
    job = Job(tmp_path, "job", [s3_place], {"PAI_PROGRESS": "tty", "COLUMNS": "100"})
    with staged(job) as (mover, _):
        mover.finish()
    assert "\x1b[" in job.log
    assert "staging s3://" in job.log


def test_quiet_times_are_quiet(job: Job, place: Place) -> None:
    with staged(job) as (_, folder):
        (folder / "x").write_bytes(b"1")
        wait_until(lambda: "x" in place.names())
    assert job.log.splitlines() == [
        f"pai: staging {place.prefix}: 0 bytes",
        f"pai: staged {place.prefix}: 0 files, 0 bytes",
    ]
