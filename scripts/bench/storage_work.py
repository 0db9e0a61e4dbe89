"""One measurement of scripts/bench/storage.py, in a process of its own.

    storage_work.py NAME    with the task as a JSON object on standard input

It does the work NAME, one of the functions here or in `storage_peers`, and prints a JSON object:
`seconds` and `bytes` of what was measured, and what else the work tells. What is measured starts
when all is imported and made, if its function does not say otherwise. Paths are local or in a
bucket: the same script does both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from storage_data import BEFORE, BEHIND, DIGITS, RECORD, file_name
from storage_task import Result, Task, Watch, folder_digest, ready_disk

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class _Place:
    prefix: str
    protocol: str
    options: Mapping[str, str]


def tensorflow(task: Task) -> Any:
    """Return TensorFlow; with the task's file system, where its path is in a bucket."""
    import tensorflow as tf

    if task.options:
        from pai_runner.script.filesystem import register

        register([_Place(f"{task.protocol}://{task.bucket}/", task.protocol, task.options)])
    return tf


# ====== What is read ======


def checkpoint(task: Task) -> Result:
    """Write the checkpoint that others restore; `digest` is that of its variable."""
    tf = tensorflow(task)
    value = _variable(tf, task.bytes)
    tf.train.Checkpoint(value=value).save(task.path)
    return {"seconds": 0.0, "bytes": 0, "digest": _digest(value)}


def _variable(tf: Any, size: int) -> Any:
    """Return a variable of `size` bytes, the same in each process."""
    return tf.Variable(tf.random.stateless_uniform([max(size // 4, 1)], seed=[7, 11]))


def _digest(value: Any) -> str:
    return sha256(value.numpy()).hexdigest()


def tfrecord(task: Task) -> Result:
    """Read a file of records with TFRecordDataset's default buffer; `right`: all, in order."""
    return _read_records(task, lambda tf: tf.data.TFRecordDataset(task.path), task.bytes // RECORD)


def record_files(task: Task) -> Result:
    """Read the first `files` files of a directory as records, `threads` at once (0: in turn)."""

    def dataset(tf: Any) -> Any:
        return tf.data.TFRecordDataset(
            _paths(task), num_parallel_reads=task.threads if task.threads else None
        )

    return _read_records(task, dataset, task.files)


def whole_files(task: Task) -> Result:
    """Read the first `files` files of a directory by tf.io.read_file in Dataset.map."""

    def dataset(tf: Any) -> Any:
        paths = tf.data.Dataset.from_tensor_slices(_paths(task))
        calls = tf.data.AUTOTUNE if task.threads < 0 else task.threads or None
        files = paths.map(tf.io.read_file, num_parallel_calls=calls)
        frame = BEFORE + BEHIND
        return files.map(
            lambda text: tf.strings.substr(text, BEFORE, tf.strings.length(text) - frame)
        )

    return _read_records(task, dataset, task.files)


def _paths(task: Task) -> list[str]:
    return [file_name(task.path, number) for number in range(task.files)]


def _read_records(task: Task, dataset: Callable[[Any], Any], count: int) -> Result:
    tf = tensorflow(task)

    def described(record: Any) -> Any:
        number = tf.strings.to_number(tf.strings.substr(record, 0, DIGITS), tf.int64)
        return number, tf.strings.length(record)

    described_records = dataset(tf).map(described).batch(256)
    numbers: list[int] = []
    size = 0
    with Watch() as watch:
        for some, lengths in described_records:
            numbers += some.numpy().tolist()
            size += int(lengths.numpy().sum())
    if task.threads:  # files that are read at once come in any order
        numbers.sort()
    is_right = numbers == list(range(count)) and size == count * RECORD
    return watch.result(size, right=is_right)


def restore(task: Task) -> Result:
    """Restore a checkpoint of one variable of `bytes`; `digest` is that of its value."""
    tf = tensorflow(task)
    value = tf.Variable(tf.zeros([max(task.bytes // 4, 1)]))
    checkpoint = tf.train.Checkpoint(value=value)
    with Watch() as watch:
        checkpoint.read(task.path).assert_existing_objects_matched()
    return watch.result(task.bytes, digest=_digest(value))


# ====== What is written ======


def save(task: Task) -> Result:
    """Save a checkpoint of one variable of `bytes`.

    It is measured until the call returns: a training loop stalls as long. `digest` is that of the
    local data file.
    """
    tf = tensorflow(task)
    checkpoint = tf.train.Checkpoint(value=_variable(tf, task.bytes))
    ready_disk(task.bytes)
    with Watch() as watch:
        prefix = checkpoint.save(f"{task.path}/ck")
    return watch.result(task.bytes, digest=_file_digest(f"{prefix}.data-00000-of-00001"))


def records(task: Task) -> Result:
    """Write records of 1 kB; `writing_seconds` is without what close takes."""
    tf = tensorflow(task)
    record = bytes(range(250)) * 4
    count = max(task.bytes // len(record), 1)
    writer = tf.io.TFRecordWriter(task.path)
    with Watch() as watch:
        start = time.perf_counter()
        for _ in range(count):
            writer.write(record)
        writing = time.perf_counter() - start
        writer.close()
    return watch.result(
        count * len(record), writing_seconds=writing, digest=_file_digest(task.path)
    )


def _file_digest(path: str) -> str | None:
    """Return the SHA-256 of a local file, or None for one in a bucket: its server tells."""
    if "://" in path:
        return None
    with open(path, "rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


# ====== Copies ======


def stage(task: Task) -> Result:
    """Copy a directory to a local folder by the mover; its start is measured, too."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "servers")]
    from mover_process import Job

    place = _Place(task.path, task.protocol, task.options)
    job = Job(Path(task.folder), "bench", [place])
    with Watch() as watch, job.mover() as mover:
        report = mover.report(seconds=900)
    if "staged" not in report:
        raise RuntimeError(f"{report}\n{job.log}")
    return watch.result(report["staged"]["bytes"], **folder_digest(str(job.folder())))


# ====== Requests ======


def saving_requests(task: Task) -> Result:
    """Count the server's requests for saves of a small model; `first …` is in a new directory."""
    tf = tensorflow(task)
    v1 = tf.compat.v1
    found: dict[str, int] = {}
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("weights", [300, 1000])
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(max_to_keep=None)
        for step, name in enumerate(("first Saver.save", "Saver.save")):
            save = partial(saver.save, session, f"{task.path}/v1/model.ckpt", step)
            found[name] = _counted(task, save)
    checkpoint = tf.train.Checkpoint(value=tf.Variable(tf.zeros([300, 1000])))
    manager = tf.train.CheckpointManager(checkpoint, f"{task.path}/manager", None)
    for name in ("first CheckpointManager.save", "CheckpointManager.save"):
        found[name] = _counted(task, manager.save)
    model = tf.Module()
    model.value = tf.Variable(tf.zeros([300, 1000]))
    found["tf.saved_model.save"] = _counted(
        task, lambda: tf.saved_model.save(model, f"{task.path}/model")
    )
    return {"seconds": 0.0, "bytes": 0, "requests": found}


def loading_requests(task: Task) -> Result:
    """Count the server's requests for a load of what `saving_requests` saved."""
    tf = tensorflow(task)
    count = _counted(task, lambda: tf.saved_model.load(f"{task.path}/model"))
    return {"seconds": 0.0, "bytes": 0, "requests": {"tf.saved_model.load": count}}


def _counted(task: Task, action: Callable[[], Any]) -> int:
    from object_server import ObjectServer

    server = ObjectServer(*task.ports)
    server.reset()
    action()
    return sum(server.counts()[0].values())


# ====== The program ======


def main() -> None:
    import storage_peers

    name = sys.argv[1]
    work = globals().get(name) or getattr(storage_peers, name)
    print(json.dumps(work(Task(**json.load(sys.stdin)))), flush=True)


if __name__ == "__main__":
    main()
