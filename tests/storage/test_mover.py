"""The mover as a process: copies in, copies back, takes over, and says what it could not do."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mover_process import Job, Place, S3Place, staged, write
from support import wait_until

MIB = 1024 * 1024


# ====== In and back ======


@pytest.mark.slow
def test_what_is_there_is_copied_in_and_what_is_new_back(job: Job, place: Place) -> None:
    large = os.urandom(33 * MIB)
    place.put("a/b 100%.txt", b"hello")
    place.put("empty", b"")
    place.put("large", large)
    place.put("made/on/purpose/", b"")
    with job.mover() as mover:
        assert mover.staged() == {"files": 3, "bytes": 5 + len(large)}
        folder = job.folder()
        assert (folder / "a" / "b 100%.txt").read_bytes() == b"hello"
        assert (folder / "empty").read_bytes() == b""
        assert (folder / "large").read_bytes() == large
        assert (folder / "made" / "on" / "purpose").is_dir()
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "new").write_bytes(b"n")
        (folder / "deep" / "中文").mkdir(parents=True)
        (folder / "deep" / "中文" / "larger").write_bytes(large[1:])
        (folder / "empty").unlink()
        finished = mover.finish()
    assert finished == {
        "files": 2,
        "bytes": len(large),
        "deleted": 1,
        "conflicts": [],
        "not_copied": [],
        "error": "",
    }
    assert place.names() == {
        "a/b 100%.txt",
        "large",
        "made/on/purpose/",
        "new",
        "deep/中文/larger",
    }
    assert place.read("deep/中文/larger") == large[1:]
    assert list((job.root / "stage").iterdir()) == []


def test_what_is_written_meanwhile_is_copied_before_the_end(job: Job, place: Place) -> None:
    with staged(job) as (_, folder):
        (folder / "one").write_bytes(b"1")
        wait_until(lambda: place.names() == {"one"})
        (folder / "one").write_bytes(b"12")
        wait_until(lambda: place.read("one") == b"12")
        (folder / "one").unlink()
        wait_until(lambda: place.names() == set())


def test_a_file_that_is_open_for_writing_is_left_for_later(job: Job, place: Place) -> None:
    with staged(job) as (mover, folder):
        with (
            (folder / "log").open("wb") as stream,
            (folder / "events.out.tfevents.1").open("wb") as events,
        ):
            stream.write(b"half")
            stream.flush()
            events.write(b"record")
            events.flush()
            # Passes go on; the summaries of a running job are wanted at once.
            wait_until(lambda: place.names() == {"events.out.tfevents.1"})
            (folder / "later").write_bytes(b"")
            wait_until(lambda: "later" in place.names())
            assert "log" not in place.names()
        wait_until(lambda: "log" in place.names())
        mover.finish()
    assert place.read("events.out.tfevents.1") == b"record"


def test_untouched_files_are_not_written(s3_place: S3Place, tmp_path: Path) -> None:
    s3_place.put("a", b"1")
    s3_place.put("b", b"2")
    job = Job(tmp_path, "job", [s3_place])
    with staged(job) as (mover, folder), s3_place.server.counted() as counts:
        (folder / "b").write_bytes(b"3")
        mover.finish()
    assert counts["PUT"] == 1
    assert s3_place.read("a") == b"1"


def test_temporary_names_links_and_special_files(job: Job, place: Place, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"linked")
    with staged(job) as (mover, folder):
        (folder / "x.data-00000-of-00001.tempstate123").write_bytes(b"t")
        (folder / "link").symlink_to(tmp_path / "outside" / "file")
        (folder / "folder-link").symlink_to(tmp_path / "outside")
        os.mkfifo(folder / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
        mover.finish()
    assert place.names() == {"link"}
    assert place.read("link") == b"linked"
    assert job.log.count("fifo: it is not a regular file") == 1
    assert not job.folder().exists()


def test_a_name_that_is_no_text_is_named_and_kept(job: Job, place: Place) -> None:
    with staged(job) as (mover, folder):
        (Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))).write_bytes(b"1")
        finished = mover.finish()
    assert [line.partition(": ")[2] for line in finished["not_copied"]] == ["its name is not UTF-8"]
    assert place.names() == set()
    assert job.folder().exists()


@pytest.mark.slow
def test_many_small_files(place: Place, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(500):
            pool.submit(place.put, f"{number % 20}/{number}", b"x" * number)
    job = Job(tmp_path, "job", [place])
    with job.mover() as mover:
        assert mover.staged()["files"] == 500
        sizes = {int(path.name): path.stat().st_size for path in job.folder().glob("*/*")}
    assert sizes == {number: number for number in range(500)}


def test_a_directory_that_changes_meanwhile(job: Job, place: Place) -> None:
    is_over = threading.Event()

    def write_on() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            place.put("growing", b"x" * number)

    place.put("still", b"1")
    place.put("growing", b"x")
    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with job.mover() as mover:
            mover.staged()
            assert (job.folder() / "still").read_bytes() == b"1"
            assert set((job.folder() / "growing").read_bytes()) == {ord("x")}
            assert mover.finish()["files"] == 0
    finally:
        is_over.set()
        writer.join()


def test_a_location_in_another_is_a_folder_of_it(place: Place, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [place])
    with staged(job) as (mover, folder):
        mover.finish()
    assert not folder.exists()
    plan = json.loads((job.home / "spec.json").read_text())
    inner = {**plan["mounts"][0], "prefix": f"{place.prefix}sub/", "folder": f"{folder}/sub/"}
    nested = Job(tmp_path, "job", [place], mounts=[inner])
    with staged(nested) as (mover, folder):
        (folder / "sub" / "x").write_bytes(b"1")
        assert mover.finish()["files"] == 1
    assert place.names() == {"sub/x"}


# ====== Order ======


def test_a_pointer_waits_for_what_it_names(job: Job, place: Place) -> None:
    with staged(job) as (mover, folder):
        index = folder / "model-1.index"
        with index.open("wb") as stream:  # as the merge of parts writes it
            write(folder, "model-1.data-00000-of-00001", b"data")
            write(folder, "checkpoint", b'model_checkpoint_path: "model-1"\n')
            wait_until(lambda: "model-1.data-00000-of-00001" in place.names())
            (folder / "other").write_bytes(b"")
            wait_until(lambda: "other" in place.names())
            assert "checkpoint" not in place.names()
            stream.write(b"index")
        wait_until(lambda: {"checkpoint", "model-1.index"} <= place.names())
        mover.finish()


def test_old_checkpoints_are_removed_as_the_script_removes_them(job: Job, place: Place) -> None:
    place.put("model-1.data-00000-of-00001", b"d")
    place.put("model-1.index", b"i")
    place.put("checkpoint", b'model_checkpoint_path: "model-1"\n')
    with staged(job) as (_, folder):
        write(folder, "model-2.data-00000-of-00001", b"d2")
        write(folder, "model-2.index", b"i2")
        write(folder, "checkpoint", b'model_checkpoint_path: "model-2"\n')
        (folder / "model-1.index").unlink()
        (folder / "model-1.data-00000-of-00001").unlink()
        wait_until(
            lambda: place.names() == {"model-2.data-00000-of-00001", "model-2.index", "checkpoint"}
        )
    assert place.read("checkpoint") == b'model_checkpoint_path: "model-2"\n'


@pytest.mark.parametrize("how", ["clean", "killed"])
def test_what_a_killed_script_was_writing_is_not_copied(
    job: Job, place: Place, how: str, tmp_path: Path
) -> None:
    slow = Job(tmp_path, "job", job.places, {"PAI_STAGE_SECONDS": "600"})
    magic = bytes.fromhex("57fb808b247547db")
    with staged(slow) as (mover, folder):
        (folder / "results.csv").write_bytes(b"half a li")
        (folder / "model-1.index").write_bytes(b"blocks" + magic)
        (folder / "model-2.index").write_bytes(b"blo")
        write(folder, "model-1.data-00000-of-00001", b"data")
        (folder / "events.out.tfevents.1").write_bytes(b"record")
        write(folder, "checkpoint", b'model_checkpoint_path: "model-1"\n')
        finished = mover.finish(how)
    doubtful = {"results.csv", "model-2.index"} if how == "killed" else set()
    everything = {path.name for path in folder.iterdir()} if how == "killed" else place.names()
    assert place.names() == everything - doubtful
    named = {line.removeprefix(place.prefix).partition(":")[0] for line in finished["not_copied"]}
    assert named == doubtful
    assert folder.exists() == bool(doubtful)
    assert all(name in slow.log for name in doubtful)


# ====== Taking over ======


def test_a_mover_that_died_is_followed_by_another(job: Job, place: Place) -> None:
    place.put("a", b"1")
    with staged(job) as (mover, folder):
        (folder / "b").write_bytes(b"2")
        wait_until(lambda: "b" in place.names())
        mover.kill()
    (folder / "b").write_bytes(b"3")
    (folder / "c").write_bytes(b"4")
    with staged(job, "attach") as (mover, _):
        finished = mover.finish()
    assert (finished["files"], finished["conflicts"]) == (2, [])
    assert place.read("b") == b"3"
    assert place.names() == {"a", "b", "c"}


def test_an_upload_whose_end_nobody_noted_is_no_conflict(job: Job, place: Place) -> None:
    with staged(job) as (mover, folder):
        (folder / "x").write_bytes(b"first")
        wait_until(lambda: "x" in place.names())
        manifest = folder.parent / "manifest.jsonl"
        wait_until(lambda: b'"version"' in manifest.read_bytes())
        mover.kill()
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + lines[1][:20])  # killed while it wrote the second
    (folder / "x").write_bytes(b"second")
    with staged(job, "attach") as (mover, _):
        assert mover.finish()["conflicts"] == []
    assert place.read("x") == b"second"


def test_an_interrupted_jobs_folder_serves_the_next(s3_place: S3Place, tmp_path: Path) -> None:
    for name in ("kept", "changed here", "changed there", "removed here", "removed there"):
        s3_place.put(name, name.encode())
    first = Job(tmp_path, "first", [s3_place])
    with staged(first) as (mover, folder):
        inode = (folder / "kept").stat().st_ino
        mover.kill()
        (folder / "changed here").write_bytes(b"never copied")
        (folder / "new").mkdir()
        (folder / "new" / "x").write_bytes(b"never copied")
        (folder / "removed here").unlink()
        (folder / "removed here").symlink_to("/etc")
    s3_place.put("changed there", b"later")
    s3_place.delete("removed there")
    first.abandon()
    second = Job(tmp_path, "second", [s3_place])
    with second.mover() as mover:
        assert mover.staged()["files"] == 3
        folder = second.folder()
        assert (folder / "kept").stat().st_ino == inode
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "kept": b"kept",
            "changed here": b"changed here",
            "changed there": b"later",
            "removed here": b"removed here",
        }
        assert not first.folder().exists()
        assert mover.finish()["files"] == 0
    # What the bucket never had is where its owner finds it.
    left = first.folder().parent.with_name("first-0-left")
    assert {path.name: path.read_bytes() for path in left.rglob("*") if path.is_file()} == {
        "changed here": b"never copied",
        "x": b"never copied",
    }
    assert f"{left} has what an interrupted job wrote" in second.log


def test_a_pointer_in_a_folder_that_was_taken_over(job: Job, place: Place, tmp_path: Path) -> None:
    with staged(job) as (mover, folder):
        write(folder, "m-1.index", b"i")
        write(folder, "checkpoint", f'model_checkpoint_path: "{folder}/m-1"\n'.encode())
        noted = b'"name": "checkpoint", "content"'
        manifest = folder.parent / "manifest.jsonl"
        wait_until(lambda: manifest.read_bytes().count(noted) == 2)
        mover.kill()
    job.abandon()
    with staged(Job(tmp_path, "second", [place])) as (mover, _):
        pointer = tmp_path / "stage" / "second-0" / "files" / "checkpoint"
        assert pointer.read_bytes() == b'model_checkpoint_path: "m-1"\n'
        assert not (tmp_path / "stage" / "job-0-left").exists()
        mover.finish()


def test_a_folder_in_use_is_left_alone(s3_place: S3Place, tmp_path: Path) -> None:
    s3_place.put("x", b"1")
    first, second = Job(tmp_path, "first", [s3_place]), Job(tmp_path, "second", [s3_place])
    with staged(first) as (mover, folder):
        first.abandon()
        with second.mover() as other:  # the lock says that a mover works there
            assert other.staged()["files"] == 1
        mover.kill()
        with (folder / "x").open("ab"):  # something has outlived the mover
            third = Job(tmp_path, "third", [s3_place])
            with third.mover() as other:
                assert other.staged()["files"] == 1
    assert folder.exists()


@pytest.mark.slow
def test_a_large_download_goes_on_where_it_was(s3_place: S3Place, tmp_path: Path) -> None:
    content = os.urandom(80 * MIB)
    s3_place.put("large", content)
    job = Job(tmp_path, "first", [s3_place])
    parts = job.folder().parent / "parts"
    with job.mover() as mover:
        wait_until(lambda: any(part.stat().st_size for part in parts.glob("*")), 60, 0.001)
        mover.kill()
    done = sum(part.stat().st_size for part in parts.glob("*"))
    assert 0 < done < len(content)
    with job.mover() as mover:
        assert mover.staged() == {"files": 1, "bytes": len(content) - done}
        assert (job.folder() / "large").read_bytes() == content
