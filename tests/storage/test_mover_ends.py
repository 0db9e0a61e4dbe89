"""The mover's ends and beginnings: jobs side by side, movers that die, scripts that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from moto_server import S3Server
from mover_process import Job, S3Place, staged
from support import wait_until

MANY = 300


@pytest.fixture
def place(s3_location: str, s3_server: S3Server) -> S3Place:
    return S3Place(s3_location, s3_server)


def below(place: S3Place, name: str) -> S3Place:
    return S3Place(f"{place.prefix}{name}/", place.server)


def fill(folder: Path) -> set[str]:
    """Write many files, which take a while to copy and to remove; return their names."""
    names = {str(number) for number in range(MANY)}
    for name in names:
        (folder / name).write_bytes(name.encode())
    return names


# ====== Plans that cannot be ======


def mount(place: S3Place, folder: str, prefix: str = "") -> Mapping[str, Any]:
    return {
        "prefix": prefix or place.prefix,
        "protocol": place.protocol,
        "purpose": "checkpointDir",
        "options": dict(place.options),
        "mode": "stage",
        "folder": folder,
    }


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ("{root}/precious", ""),
        ("{root}/stage/job-0/files/../../../precious", ""),
        ("{root}/stage/job-0//files", ""),
        ("relative/files", ""),
        ("/files", ""),
        ("{root}/stage/job-0/files", "{prefix}../x/"),
        ("{root}/stage/job-0/files", "{prefix}./"),
        ("{root}/stage/job-0/files", "{prefix}/x/"),
    ],
)
def test_a_plan_that_leads_elsewhere(
    place: S3Place, tmp_path: Path, folder: str, prefix: str
) -> None:
    precious = tmp_path / "precious" / "x"
    precious.parent.mkdir()
    precious.write_bytes(b"1")
    folder = folder.replace("{root}", str(tmp_path))
    wrong = mount(place, folder, prefix.replace("{prefix}", place.prefix))
    inner = mount(place, f"{tmp_path}/stage/job-0/files")
    with Job(tmp_path, "job", [], mounts=[inner, wrong]).mover() as mover:
        failed = mover.report()
        assert mover.process.wait(30) == 125
    assert "cannot be" in failed["failed"], failed
    assert precious.read_bytes() == b"1"
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize("inner", ["x/", "x/y/"])
def test_a_location_in_another_that_is_a_file(place: S3Place, tmp_path: Path, inner: str) -> None:
    place.put("x", b"1")
    job = Job(tmp_path, "job", [place])
    mounts = [mount(place, f"{job.folder()}/{inner}", f"{place.prefix}{inner}")]
    with Job(tmp_path, "job", [place], mounts=mounts).mover() as mover:
        failed = mover.report()
    assert failed["failed"].startswith(f"{place.prefix}{inner} cannot be staged"), failed


# ====== The end ======


def test_a_conflict_in_one_location_keeps_only_its_folder(place: S3Place, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [below(place, "a"), below(place, "b")])
    with staged(job) as (mover, folder):
        names = fill(folder)
        place.put("b/x", b"of another")
        (job.folder(1) / "x").write_bytes(b"mine")
        mover.order("finish clean")
        finished = mover.report()["finished"]
        # From here on the mover may be killed.
        assert not (job.folder(1).parent / "about.json").exists()
        assert mover.process.wait(30) == 0
    assert finished["conflicts"] == [f"{place.prefix}b/x"]
    assert place.names() == {"b/x", *(f"a/{name}" for name in names)}
    assert not folder.parent.exists()
    assert (job.folder(1) / "x").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_removed_leaves_the_others_to_go(
    place: S3Place, tmp_path: Path
) -> None:
    job = Job(tmp_path, "job", [below(place, "a"), below(place, "b")])
    with staged(job) as (mover, folder):
        (tmp_path / "stage" / ".removed-job-0" / "in the way").mkdir(parents=True)
        mover.finish()
    assert f"{folder.parent} cannot be removed: Directory not empty" in job.log
    assert not job.folder(1).exists()


def test_a_log_that_cannot_be_written_ends_nothing(place: S3Place, tmp_path: Path) -> None:
    for number, environment in enumerate(({}, {"PAI_PROGRESS": "tty"})):
        job = Job(tmp_path, f"job-{number}", [place], environment)
        job.home.mkdir(parents=True)
        (job.home / "mover.log").symlink_to("/dev/full")
        with staged(job) as (mover, folder):
            (folder / f"new {number}").write_bytes(b"1")
            assert mover.finish()["files"] == 1


def test_a_job_that_begins_while_another_ends(place: S3Place, tmp_path: Path) -> None:
    first, second = Job(tmp_path, "first", [place]), Job(tmp_path, "second", [place])
    with staged(first) as (mover, folder):
        names = fill(folder)
        mover.order("finish clean")
        assert mover.report()["finished"]["error"] == ""
        with staged(second) as (other, _):
            assert {path.name for path in second.folder().iterdir()} == names
            assert mover.process.wait(30) == 0
            assert other.finish()["files"] == 0
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["staging", "running", "finishing", "removing"])
def test_a_mover_that_dies(place: S3Place, tmp_path: Path, phase: str) -> None:
    job = Job(tmp_path, "job", [place], {"PAI_STAGE_SECONDS": "0.1"})
    names = {str(number) for number in range(MANY)}
    if phase == "staging":
        for name in names:
            place.put(name, name.encode())
        with job.mover() as mover:
            wait_until(lambda: job.folder().is_dir() and any(job.folder().iterdir()), 30, 0.001)
            mover.kill()
        with job.mover() as mover:
            mover.staged()
            assert {path.name for path in job.folder().iterdir()} == names
            assert mover.finish()["files"] == 0
    else:
        with staged(job) as (mover, folder):
            fill(folder)
            if phase != "running":
                mover.order("finish clean")
            if phase == "removing":
                mover.report()
            else:
                wait_until(place.names, 30, 0.001)
            mover.kill()
        if phase != "removing":
            with staged(job, "attach") as (mover, _):
                finished = mover.finish()
                assert (finished["conflicts"], finished["error"]) == ([], "")
    assert {name: place.read(name) for name in place.names()} == {
        name: name.encode() for name in names
    }
    job_after = Job(tmp_path, "after", [place])
    if (job.folder().parent / "about.json").exists():
        job.abandon()
    with staged(job_after) as (mover, folder):
        assert {path.name for path in folder.iterdir()} == names
        mover.finish()
    assert list((tmp_path / "stage").iterdir()) == []


# ====== Scripts that are stopped ======


def test_a_look_finds_what_is_closed_before_a_kill(place: S3Place, tmp_path: Path) -> None:
    job = Job(tmp_path, "job", [place], {"PAI_STAGE_SECONDS": "600"})
    with staged(job) as (mover, folder):
        with (folder / "open").open("wb") as stream:
            for name in ("closed", "open"):
                (folder / name).touch()
                os.utime(folder / name, (1, 1))
            mover.order("look")
            wait_until(lambda: "closed" in place.names())
            stream.write(b"half")
        finished = mover.finish("killed")
    assert place.names() == {"closed"}
    reason = "it may be incomplete: nobody saw it closed before the script was killed"
    assert finished["not_copied"] == [f"{place.prefix}open: {reason}"]


def test_a_signal_interrupts_nothing(place: S3Place, tmp_path: Path) -> None:
    with staged(Job(tmp_path, "job", [place])) as (mover, _):
        status = Path(f"/proc/{mover.process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        bit = 1 << (signal.SIGTERM - 1)
        assert not int(fields["SigCgt"], 16) & bit  # a thread waits for it; there is no handler
        mover.process.terminate()
        assert mover.process.wait(10) == 125


# ====== TensorFlow ======

SAVES = """
import os, sys
import tensorflow as tf
tf.compat.v1.disable_eager_execution()
folder = sys.argv[1]
variable = tf.compat.v1.get_variable("v", shape=[], dtype=tf.float32)
saver = tf.compat.v1.train.Saver()
with tf.compat.v1.Session() as session:
    session.run(variable.assign(7.0))
    for step in (1, 2):
        saver.save(session, os.path.join(folder, "model.ckpt"), global_step=step)
"""
RESTORES = """
import sys
import tensorflow as tf
latest = tf.train.latest_checkpoint(sys.argv[1])
assert latest == sys.argv[1] + "/model.ckpt-2", latest
assert tf.train.load_checkpoint(latest).get_tensor("v") == 7.0
"""


@pytest.mark.slow
def test_a_savers_checkpoint_is_found_by_the_next_job(place: S3Place, tmp_path: Path) -> None:
    first, second = Job(tmp_path, "first", [place]), Job(tmp_path, "second", [place])
    with staged(first) as (mover, folder):
        subprocess.run([sys.executable, "-c", SAVES, str(folder)], check=True)
        assert str(folder) in (folder / "checkpoint").read_text()
        mover.finish()
    pointer = place.read("checkpoint").decode()
    assert 'model_checkpoint_path: "model.ckpt-2"' in pointer
    assert str(tmp_path) not in pointer
    with staged(second) as (mover, folder):
        subprocess.run([sys.executable, "-c", RESTORES, str(folder)], check=True)
        assert mover.finish()["files"] == 0
