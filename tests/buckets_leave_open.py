"""A script that ends in the middle of all: reads ahead, uploads in parts, saves, a forked child.

It finds the folder in FOLDER and the options of its mount as JSON in OPTIONS; SEED varies how it
ends. It prints, as JSON, size and digest of what must be in the folder afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading

import tensorflow as tf
from file_systems import Place

from pai_runner.script.filesystem import register

MEGABYTE = 1 << 20
RECORDS, RECORD = 1000, 10_000

folder, options = os.environ["FOLDER"], json.loads(os.environ["OPTIONS"])
chance = random.Random(os.environ["SEED"])
register([Place(f"{folder}/", folder.partition("://")[0], options)])
expected: dict[str, tuple[int, str]] = {}


def say(name: str, data: bytes) -> None:
    expected[name] = len(data), hashlib.sha256(data).hexdigest()


def in_thread(work: object) -> None:
    threading.Thread(target=work, daemon=True).start()  # type: ignore[arg-type]


# ====== What is read ======

with tf.io.TFRecordWriter(f"{folder}/input") as closed:
    for _ in range(RECORDS):
        closed.write(chance.randbytes(RECORD))

# Left open with blocks on their way, and four threads of tf.data in the middle of reads.
files = tf.data.Dataset.from_tensors(f"{folder}/input").repeat()
reads = files.interleave(tf.data.TFRecordDataset, cycle_length=6, num_parallel_calls=4)
iterator = iter(reads.map(tf.strings.length, num_parallel_calls=4).prefetch(256))
assert all(int(next(iterator)) == RECORD for _ in range(50))
readers = [tf.io.gfile.GFile(f"{folder}/input", "rb") for _ in range(8)]
for reader in readers:
    reader.read(1000)


def read_for_ever() -> None:
    while True:
        with tf.io.gfile.GFile(f"{folder}/input", "rb") as stream:
            while stream.read(chance.randrange(1, MEGABYTE)):
                pass


def save_for_ever() -> None:
    """Save states that are whole or not there: the main thread waits for the first."""
    step, one = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([500_000]))
    saved = tf.train.Checkpoint(step=step, one=one)
    manager = tf.train.CheckpointManager(saved, f"{folder}/saved", max_to_keep=2)
    while True:
        step.assign_add(1)
        one.assign_add(tf.ones_like(one))
        manager.save()
        has_saved.set()


# ====== What is written ======

has_saved = threading.Event()
in_thread(save_for_ever)
has_saved.wait()
for _ in range(3):
    in_thread(read_for_ever)

large = tf.io.gfile.GFile(f"{folder}/large", "wb")  # goes up in parts
content = chance.randbytes(16 * MEGABYTE)
for start in range(0, len(content), MEGABYTE):
    large.write(content[start : start + MEGABYTE])
say("large", content)

for number in range(10):
    small = tf.io.gfile.GFile(f"{folder}/small-{number}", "wb")
    content = chance.randbytes(chance.choice((0, 10, 300_000)))
    small.write(content)
    say(f"small-{number}", content)
    globals()[f"kept_{number}"] = small

# ====== A forked child ======

child = os.fork()
if child == 0:
    with tf.io.gfile.GFile(f"{folder}/of-child", "wb") as stream:
        stream.write(tf.io.gfile.GFile(f"{folder}/input", "rb").read(5 * MEGABYTE))
    # As multiprocessing ends its children. By sys.exit a child would write what its parent's
    # writers hold in memory once more, on a local disk, too.
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
say("of-child", tf.io.gfile.GFile(f"{folder}/input", "rb").read(5 * MEGABYTE))

print(json.dumps(expected), flush=True)
if chance.random() < 0.3:
    raise SystemExit(7)
