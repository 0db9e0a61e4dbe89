"""Jobs that save in the background, from the command to the bucket and back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate, gate_before
from support import ROLE, Pai, Places, wait_until

pytestmark = pytest.mark.slow

SAVES = """
import os
import sys
import tensorflow as tf
step, value = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([100_000]))
saved = tf.train.Checkpoint(step=step, value=value)
folder = os.environ["PAI_CHECKPOINT_DIR"]
manager = tf.train.CheckpointManager(saved, folder, max_to_keep=2, step_counter=step)
if manager.latest_checkpoint:
    saved.restore(manager.latest_checkpoint).assert_consumed()
assert (value.numpy() == int(step)).all()
print("from", int(step), flush=True)
for _ in range(int(sys.argv[1])):
    step.assign_add(1)
    value.assign_add(tf.ones_like(value))
    manager.save(checkpoint_number=step)
print("saved", int(step), flush=True)
if len(sys.argv) > 2:
    import signal
    signal.pause()
"""


@pytest.fixture(params=["s3"])
def where(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gate(where: str, places: Places) -> Iterator[Gate]:
    server = places.server if where == "s3" else places.oss_server
    with gate_before(server.url) as gate:
        yield gate


def words(pai: Pai, places: Places, where: str, gate: Gate, flags: str) -> list[str]:
    script = pai.folder / "script.py"
    script.write_text(SAVES, encoding="utf-8")
    location = f"{places.s3}?endpoint_url={gate.url}"
    if where == "oss":
        location = f"{places.oss}?host={gate.url}&role_arn={ROLE}"
    return [
        "-name",
        "tensorflow2150",
        f"-Dscript={script}",
        f"-DcheckpointDir={location}",
        "-DasyncCheckpoint=true",
        f"-DuserDefinedParameters={flags}",
    ]


def job_of(pai: Pai) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pai("jobs", "--json").stdout)[0]
    return found


def pending(pai: Pai) -> list[Path]:
    return sorted(pai.home.glob("stage/*"))


def test_a_killed_job_is_finished_by_the_command_it_names(
    where: str, pai: Pai, places: Places, gate: Gate
) -> None:
    gate.close()
    running = pai.start(*words(pai, places, where, gate, "1 wait"))
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["from 0\n", "saved 1\n"]
    assert not places.names(where)
    (role,) = job_of(pai)["roles"]
    script = role["process"]["pid"]
    os.kill(script, signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    gate.open()
    assert running.returncode == 137, errors
    job = job_of(pai)
    assert job["reason"] == "killed by signal"
    (folder,) = pending(pai)
    assert f"3 files (401 kB) wait in {folder}" in str(job["message"])
    done = pai("jobs", "resume-upload", str(job["id"]))
    assert done.returncode == 0, done.stderr
    assert not pending(pai)
    again = pai(*words(pai, places, where, gate, "0"))
    assert again.stdout == "from 1\nsaved 1\n", again.stderr


@pytest.mark.parametrize("where", ["oss"], indirect=True)
def test_a_job_whose_server_refuses_fails_and_is_finished_later(
    where: str, pai: Pai, places: Places, gate: Gate
) -> None:
    # As PAI's own role has it: it may use the bucket's objects, and not ask about the bucket.
    places.oss_server.set(deny_bucket_info=True, deny_list_parts=True)
    gate.refuses = True
    failed = pai(*words(pai, places, where, gate, "1"))
    gate.refuses = False
    assert failed.returncode == 1, failed.stderr
    job = job_of(pai)
    assert (job["state"], job["reason"]) == ("FAILED", "script failed")
    named = f"{places.oss}ckpt-1.data-00000-of-00001: not uploaded: "
    assert named in failed.stderr
    assert named in str(job["message"])
    assert f"`pai jobs resume-upload {job['id']}`" in failed.stderr
    done = pai("jobs", "resume-upload", str(job["id"]))
    assert done.returncode == 0, done.stderr
    assert places.names(where) == {"checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"}


def test_an_interrupted_job_uploads_within_its_grace(
    where: str, pai: Pai, places: Places, gate: Gate
) -> None:
    gate.close()
    running = pai.start(*words(pai, places, where, gate, "1 wait"))
    assert running.stdout is not None
    assert [running.stdout.readline() for _ in range(2)] == ["from 0\n", "saved 1\n"]
    running.send_signal(signal.SIGTERM)
    wait_until(lambda: job_of(pai)["state"] == "STOPPING", 60)
    gate.open()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert {"checkpoint", "ckpt-1.index"} <= places.names(where)
    assert not pending(pai)
    assert "resume-upload" not in str(job_of(pai)["message"])
