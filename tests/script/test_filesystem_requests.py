"""How many requests the server sees."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_systems import FileSystems

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture
def folder(file_systems: FileSystems, tmp_path: Path) -> str:
    return file_systems.new_folder("s3", tmp_path)


def test_a_v1_save_is_four_uploads(tf: Any, file_systems: FileSystems, folder: str) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("weights", [300, 1000])
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(max_to_keep=None)
        saver.save(session, f"{folder}/model.ckpt", 0)
        for step in (1, 2, 3):
            with file_systems.server.counted() as counts:
                saver.save(session, f"{folder}/model.ckpt", step)
            assert counts == {"PUT": 4}
    last = [line.rpartition("/")[2] for line in file_systems.server.requests()[-4:]]
    assert last == [
        "model.ckpt-3.data-00000-of-00001", "model.ckpt-3.index", "checkpoint", "model.ckpt-3.meta",
    ]  # fmt: skip


def test_a_checkpoint_manager_save_is_four_uploads(
    tf: Any, file_systems: FileSystems, folder: str
) -> None:
    value = tf.Variable(np.zeros((300, 1000), "f"))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), folder, None)
    manager.save()
    for _ in range(3):
        with file_systems.server.counted() as counts:
            manager.save()
        assert counts == {"PUT": 4}
    names = [line.rpartition("/")[2] for line in file_systems.server.requests()[-4:]]
    assert names == ["ckpt-4.data-00000-of-00001", "ckpt-4.index", "checkpoint", "checkpoint"]


def test_keeping_the_last_checkpoints_costs_what_is_deleted(
    tf: Any, file_systems: FileSystems, folder: str
) -> None:
    value = tf.Variable(np.zeros(1000, "f"))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), folder, max_to_keep=1)
    manager.save()
    manager.save()
    with file_systems.server.counted() as counts:
        manager.save()
    assert counts["PUT"] == 4
    assert counts["DELETE"] == 2
    # For each of the two files: does it exist (one by a pattern, so a list), is it a file.
    assert counts["HEAD"] + counts["GET"] <= 3


def test_a_first_save_asks_little(tf: Any, file_systems: FileSystems, folder: str) -> None:
    checkpoint = tf.train.Checkpoint(value=tf.Variable(1.0))
    with file_systems.server.counted() as counts:
        checkpoint.write(f"{folder}/deep/below/ck")
    assert counts["PUT"] == 2
    assert counts["HEAD"] + counts["GET"] <= 2


def test_temporary_files_never_reach_the_bucket(
    tf: Any, file_systems: FileSystems, folder: str
) -> None:
    before = len(file_systems.server.requests())
    module = tf.Module()
    module.value = tf.Variable([1.0, 2.0])
    with file_systems.server.counted() as counts:
        tf.saved_model.save(module, f"{folder}/model")
    requests = file_systems.server.requests()[before:]
    assert not [line for line in requests if line.startswith("PUT") and "temp" in line]
    assert not [line for line in requests if line.startswith("PUT") and ".tmp" in line]
    assert counts["PUT"] == 4  # variables' data and index, saved_model.pb, fingerprint.pb
    assert counts["DELETE"] == 0


def test_small_reads_share_one_request(tf: Any, file_systems: FileSystems, folder: str) -> None:
    path = f"{folder}/records"
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(300):
            writer.write(os.urandom(10_000))
    dataset = tf.data.TFRecordDataset(path, buffer_size=256 * 1024)
    with file_systems.server.counted() as counts:
        assert sum(1 for _ in dataset) == 300
    assert counts == {"GET": 4}  # the first 256 KiB, then blocks of 1 MiB


def test_a_walk_asks_once_a_directory(tf: Any, file_systems: FileSystems, folder: str) -> None:
    for directory in "abc":
        for number in range(10):
            key = f"{folder.removeprefix('s3://box/')}/{directory}/{number}"
            file_systems.server.client().put_object(Bucket="box", Key=key, Body=b"")
    with file_systems.server.counted() as counts:
        assert sum(len(files) for _, _, files in tf.io.gfile.walk(folder)) == 30
    # HEAD and one key for the top, then one list for each directory.
    assert counts == {"HEAD": 1, "GET": 5}


def test_event_files_are_uploaded_when_closed(
    tf: Any, file_systems: FileSystems, folder: str
) -> None:
    counts: Counter[str]
    with file_systems.server.counted() as counts:
        writer = tf.summary.create_file_writer(f"{folder}/logs")
        with writer.as_default():
            for step in range(20):
                tf.summary.write("x", 1.0, step=step)
                writer.flush()
    assert counts["PUT"] == 0
    with file_systems.server.counted() as counts:
        writer.close()
    assert counts == {"PUT": 1}


def test_every_upload_is_progress(tf: Any, file_systems: FileSystems, folder: str) -> None:
    before = file_systems.changes
    for number in range(3):
        tf.io.write_file(f"{folder}/{number}", "x")
    tf.io.gfile.copy(f"{folder}/0", f"{folder}/copy")
    assert file_systems.changes == before + 4
