"""A script that ends with everything open: writers, an iterator, summary writers, threads.

Arguments: the folder, and the options of its mount as JSON. What it leaves in the folder is
compared with what it leaves in a local one.
"""

from __future__ import annotations

import json
import os
import sys

import tensorflow as tf
from file_systems import Place

folder, options = sys.argv[1], json.loads(sys.argv[2])
if "://" in folder:
    from pai_runner.script.filesystem import register

    register([Place(folder, folder.partition("://")[0], options)])

with tf.io.TFRecordWriter(f"{folder}/input") as closed:
    for _ in range(20_000):
        closed.write(os.urandom(100))

flushed = tf.io.gfile.GFile(f"{folder}/flushed.txt", "w")
flushed.write("flushed ")
flushed.flush()
flushed.write("and not")

appended = tf.io.gfile.GFile(f"{folder}/appended.txt", "a")
appended.write("never flushed")

records = tf.io.TFRecordWriter(f"{folder}/records")
for number in range(1000):
    records.write(f"record {number}".encode())

zipped = tf.io.TFRecordWriter(f"{folder}/zipped", "GZIP")
for number in range(1000):
    zipped.write(f"record {number}".encode())

kept_alive = [tf.io.gfile.GFile(f"{folder}/in-a-cycle.txt", "w")]
kept_alive[0].write("cycle")
kept_alive.append(kept_alive)  # type: ignore[arg-type]

with tf.Graph().as_default():
    old_summaries = tf.compat.v1.summary.FileWriter(f"{folder}/old")
    event = tf.compat.v1.Summary(value=[{"tag": "x", "simple_value": 1.0}])
    for step in range(5):
        old_summaries.add_summary(event, step)
    old_summaries.flush()

new_summaries = tf.summary.create_file_writer(f"{folder}/new")
new_summaries.set_as_default()
for step in range(3):
    tf.summary.write("x", 1.0, step=step)

dataset = tf.data.TFRecordDataset([f"{folder}/input"] * 50, num_parallel_reads=4).repeat()
iterator = iter(dataset.map(tf.strings.length, num_parallel_calls=4).prefetch(64))
lengths = [int(next(iterator)) for _ in range(100)]
print("read", sum(lengths))
