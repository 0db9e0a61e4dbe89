"""Scripts that write to and read from a bucket behind a proxy that fails at random.

A script ends with right bytes in the bucket, or fails and names the file; it never hangs, and no
bytes are ever there, or read, that nobody wrote. The faults come from seeded generators;
PAI_PROOF_COUNT says how many scripts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets_scripts import MOUNTS, SAVES, Bucket, misplaced, new_bucket, steps
from checkpoint_scripts import Ended, Scripts
from fault_proxy import Fault, FaultProxy, fault_proxy

pytestmark = [pytest.mark.slow, pytest.mark.proof_buckets]

# Each kind of script, on each kind of bucket.
COUNT = max(1, int(os.environ.get("PAI_PROOF_COUNT", "6")) // 6)
SAVING = [("oss", "manager"), ("s3", "saver"), ("s3", "manager"), ("oss", "saver")]
SMALL, LARGE = "300000", "1000000"  # floats of a variable

BRIEF = ("refuse", "cut_request", "cut_answer", "lose", "delay", "500", "503", "429")
# A stall costs a client's whole timeout: one in ten scripts has one.
STALLS = ("stall", "stall_answer")
SHARES = (0.03, 0.1, 0.3)

_numbers = itertools.count(1)


@pytest.fixture
def bucket(kind: str, request: pytest.FixtureRequest) -> Bucket:
    return new_bucket(kind, f"faults-{next(_numbers)}", request)


@pytest.fixture
def proxy(bucket: Bucket, tmp_path: Path) -> Iterator[FaultProxy]:
    with fault_proxy(bucket.server.url, tmp_path / "proxied", seed=1) as proxy:
        yield proxy


def faults_of(chance: random.Random, number: int) -> list[Fault]:
    share = chance.choice(SHARES)
    faults = [Fault(kind, share / len(BRIEF)) for kind in BRIEF]
    if number % 10 == 9:
        faults.insert(0, Fault(chance.choice(STALLS), 0.1, count=1, seconds=90))
    return faults


def explain(ended: Ended, bucket: Bucket) -> None:
    """Fail unless a script that failed says which file it was about."""
    assert ended.code > 0, f"{ended.code}: {ended.errors}"
    lines = [line for line in ended.errors.splitlines() if bucket.path in line]
    assert lines, f"no file is named: {ended.errors}"
    assert "Traceback" in ended.errors or any(line.startswith("pai: ") for line in lines)


# ====== Writing ======


@pytest.mark.tensorflow
@pytest.mark.parametrize(("kind", "style"), SAVING[:COUNT])
def test_a_checkpoint_is_whole_whatever_fails(
    scripts: Scripts, bucket: Bucket, proxy: FaultProxy, kind: str, style: str
) -> None:
    chance = random.Random(f"checkpoints {kind} {style}")
    last = 0
    for number in range(COUNT):
        proxy.set(*faults_of(chance, number))
        ended = bucket.run(
            scripts, SAVES[style], proxy.options(bucket.server.options), STEPS="3", WIDTH=SMALL
        )
        seen = steps(ended.output)
        if ended.code == 0:
            assert seen == list(range(seen[0], seen[0] + 4)), ended.output
        else:
            explain(ended, bucket)
        proxy.mend()
        whole = bucket.run(scripts, SAVES[style], STEPS="0", WIDTH=SMALL)
        assert whole.code == 0, whole.errors
        (found,) = steps(whole.output)
        least = seen[-1] if seen else last
        # A pointer whose answer was lost names one more.
        assert found == least if ended.code == 0 else found in (least, least + 1)
        last = found
        assert misplaced(bucket) == []


WRITES = (
    MOUNTS
    + """
chance = random.Random(os.environ["SEED"])

def say(word, name):
    with open("local/" + name, "rb") as file:
        print(json.dumps([word, name, hashlib.sha256(file.read()).hexdigest()]), flush=True)

def write(place, name, mode, pieces):
    with tf.io.gfile.GFile(place + "/" + name, mode) as file:
        for piece in pieces:
            file.write(piece)

def records(place, name, mode, pieces):
    with tf.io.TFRecordWriter(place + "/" + name) as writer:
        for piece in pieces:
            writer.write(piece)

def renamed(place, name, mode, pieces):
    write(place, name + ".before", "wb", pieces)
    tf.io.gfile.rename(place + "/" + name + ".before", place + "/" + name, overwrite=True)

shutil.rmtree("local", ignore_errors=True)
os.makedirs("local")
for _ in range(8):
    kind = chance.choice([write, write, records, renamed])
    name = kind.__name__ + chance.choice(["-1", "-2"])
    mode = chance.choice(["wb", "wb", "ab"])
    size = chance.choice([0, 10, 1000, 100_000, 100_000, 3_000_000])
    pieces = [chance.randbytes(size) for _ in range(chance.choice([1, 1, 3, 5]))]
    kind("local", name, mode, pieces)
    say("means", name)
    kind(folder, name, mode, pieces)
    say("wrote", name)
"""
)


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_what_was_closed_is_there_and_nothing_that_was_not_meant(
    scripts: Scripts, bucket: Bucket, proxy: FaultProxy, kind: str
) -> None:
    chance = random.Random(f"writes {kind}")
    options = proxy.options(bucket.server.options)
    for number in range(COUNT):
        where = Bucket(f"{bucket.folder}/{number}", bucket.server)
        proxy.set(*faults_of(chance, number))
        ended = where.run(scripts, WRITES, options, SEED=f"{kind} {number}")
        said = [json.loads(line) for line in ended.output.splitlines()]
        if ended.code:
            explain(ended, where)
            assert said[-1][0] == "means", "the last that was meant was not written"
        start = f"{number}/"
        names = {name[len(start) :] for name in bucket.names() if name.startswith(start)}
        for name in {name for _, name, _ in said}:
            mine = [(word, digest) for word, told, digest in said if told == name]
            # What was meant after the last that was written may be there as well.
            written = [place for place, (word, _) in enumerate(mine) if word == "wrote"]
            possible = [digest for _, digest in mine[written[-1] if written else 0 :]]
            if name in names or written:
                content = bucket.read(f"{number}/{name}")
                assert hashlib.sha256(content).hexdigest() in possible, name
        meant = {name for _, name, _ in said}
        assert {name.removesuffix(".before") for name in names} <= meant


# ====== Reading ======

HELP_TO_READ = (
    MOUNTS
    + """
def of_records():
    digest = hashlib.sha256()
    for record in tf.data.TFRecordDataset(folder + "/records"):
        digest.update(record.numpy())
    return digest.hexdigest()

def of_lines():
    lines = tf.data.TextLineDataset([folder + "/lines"] * 2, num_parallel_reads=2)
    return sorted(hashlib.sha256(line.numpy()).hexdigest() for line in lines)

def of_file():
    with tf.io.gfile.GFile(folder + "/records", "rb") as file:
        digest = hashlib.sha256(file.read(1000))
        while piece := file.read(700_000):
            digest.update(piece)
    return digest.hexdigest()

def of_whole():
    return hashlib.sha256(tf.io.read_file(folder + "/records").numpy()).hexdigest()

def of_variable():
    reader = tf.train.load_checkpoint(folder + "/saved")
    name = [name for name in reader.get_variable_to_shape_map() if name.startswith("value")][0]
    return hashlib.sha256(reader.get_tensor(name).tobytes()).hexdigest()

def of_many():
    names = tf.data.Dataset.list_files(folder + "/many/*", shuffle=False)
    read = names.map(tf.io.read_file, num_parallel_calls=8, deterministic=True)
    return [hashlib.sha256(one.numpy()).hexdigest() for one in read]

READS = [of_records, of_lines, of_file, of_whole, of_variable, of_many]
"""
)

PREPARES = (
    HELP_TO_READ
    + """
chance = random.Random(1)
with tf.io.TFRecordWriter(folder + "/records") as writer:
    for _ in range(1000):
        writer.write(chance.randbytes(chance.randrange(30_000)))
with tf.io.gfile.GFile(folder + "/lines", "w") as file:
    for number in range(1000):
        file.write("line %d %s\\n" % (number, "x" * chance.randrange(10_000)))
value = tf.Variable(tf.random.stateless_uniform([int(os.environ["WIDTH"])], [1, 2]))
tf.train.Checkpoint(value=value).write(folder + "/saved")
for number in range(20):
    with tf.io.gfile.GFile(folder + "/many/%d" % number, "wb") as file:
        file.write(chance.randbytes(50_000))
for read in READS:
    print(json.dumps([read.__name__, read()]))
"""
)

READS_OVER = (
    HELP_TO_READ
    + """
chance = random.Random(os.environ["SEED"])
for _ in range(6):
    read = chance.choice(READS)
    try:
        print(json.dumps([read.__name__, read(), ""]), flush=True)
    except (tf.errors.OpError, RuntimeError) as error:
        print(json.dumps([read.__name__, None, str(error)]), flush=True)
"""
)


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_what_is_read_is_right_or_an_error(
    scripts: Scripts, bucket: Bucket, proxy: FaultProxy, kind: str
) -> None:
    chance = random.Random(f"reads {kind}")
    prepared = bucket.run(scripts, PREPARES, WIDTH=LARGE)
    assert prepared.code == 0, prepared.errors
    right = dict(json.loads(line) for line in prepared.output.splitlines())
    assert len(right) == 6
    for number in range(COUNT):
        proxy.set(*faults_of(chance, number))
        options = proxy.options(bucket.server.options)
        ended = bucket.run(scripts, READS_OVER, options, SEED=f"{kind} {number}")
        assert ended.code == 0, ended.errors
        read = [json.loads(line) for line in ended.output.splitlines()]
        assert len(read) == 6
        for name, found, error in read:
            if error:
                assert bucket.path in error, f"{name}: the file is not named: {error}"
            else:
                assert found == right[name], f"{name}: wrong bytes"
