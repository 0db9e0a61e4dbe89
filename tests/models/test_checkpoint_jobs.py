"""Checkpoints of a job: told to end, it goes on in the bucket from where it was.

A save is four uploads, in the order that makes it whole at every moment, and what is restored is
read once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Pai, Places

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

TRAINS = """
import os, signal
import tensorflow as tf
from pai_runner import checkpoint
step = tf.train.get_or_create_global_step()
weights = tf.get_variable("weights", [1000], initializer=tf.zeros_initializer())
with tf.control_dependencies([tf.assign_add(weights, tf.ones([1000]))]):
    train = tf.assign_add(step, 1)
saver = checkpoint.Saver(save_on_exit=True)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    print("from", saver.restore(session), session.run(weights)[0])
    for _ in range(3):
        saver.save(session, session.run(train))
    session.run(train)
    os.kill(os.getpid(), signal.SIGTERM)
    print("never")
"""


def test_a_job_goes_on_in_the_bucket(pai: Pai, places: Places, tmp_path: Path) -> None:
    script = tmp_path / "trains.py"
    script.write_text(TRAINS, encoding="utf-8")
    for seen in ("from None 0.0\n", "from 4 4.0\n"):
        ran = pai("-name", "tensorflow1120", f"-Dscript={script}", f"-DcheckpointDir={places.s3}")
        assert ran.returncode == 143, ran.stderr
        assert ran.stdout == seen
    assert {"checkpoint", "model.ckpt-8.index"} <= places.names("s3")
    below = places.s3.removeprefix("s3:/")
    requests = [line.rpartition(below) for line in places.server.requests() if below in line]
    written = [name for kind, _, name in requests if kind.startswith("PUT") and name]
    assert written == [
        name
        for step in range(1, 9)
        for name in (
            f"model.ckpt-{step}.data-00000-of-00001",
            f"model.ckpt-{step}.index",
            f"model.ckpt-{step}.meta",
            "checkpoint",
        )
    ]
    read = [name for kind, _, name in requests if kind.startswith("GET") and ".data-" in name]
    assert read == ["model.ckpt-4.data-00000-of-00001"]
