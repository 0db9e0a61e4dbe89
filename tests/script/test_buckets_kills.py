"""Scripts killed at any moment while they save to a bucket, and scripts that end with all open.

Whenever a script is killed, a new process restores the newest complete checkpoint, which is the
last that was saved, or the one under way. The moments come from a seeded generator;
PAI_PROOF_COUNT says how many kills.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from buckets_scripts import MOUNTS, SAVES, Bucket, left_locally, misplaced, new_bucket, steps
from checkpoint_scripts import Scripts

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.proof_buckets]

COUNT = int(os.environ.get("PAI_PROOF_COUNT", "2"))

# So many floats has each of two variables: 2.4 MB, and 24 MB, which go up in parts.
SMALL, LARGE = 300_000, 3_000_000
KILLED = [
    ("s3", "saver", LARGE),
    ("oss", "manager", SMALL),
    ("oss", "saver", SMALL),
    ("s3", "manager", SMALL),
    ("oss", "manager", LARGE),
    ("s3", "saver", SMALL),
    ("s3", "manager", LARGE),
    ("oss", "saver", LARGE),
]

_numbers = itertools.count(1)


@pytest.fixture
def bucket(kind: str, request: pytest.FixtureRequest) -> Bucket:
    return new_bucket(kind, f"kills-{next(_numbers)}", request)


# ====== Killed ======


@pytest.mark.parametrize(("kind", "style", "width"), KILLED[:COUNT])
def test_whenever_it_is_killed_the_newest_checkpoint_is_whole(
    scripts: Scripts, bucket: Bucket, kind: str, style: str, width: int
) -> None:
    chance = random.Random(f"{kind} {style} {width} {os.environ.get('PAI_PROOF_SEED', '')}")
    last = 0
    for _ in range(max(1, COUNT // len(KILLED))):
        pid = bucket.start(scripts, SAVES[style], STEPS="1000000", WIDTH=str(width))
        scripts.wait_for("from")
        time.sleep(chance.uniform(0.0, 1.5))
        os.kill(pid, signal.SIGKILL)
        ended = scripts.end()
        assert ended.code == -signal.SIGKILL, ended.errors
        seen = steps(ended.output)
        # One more was saved if it was killed before it could say so.
        assert seen[0] in (last, last + 1), ended.errors
        last = seen[-1]
        assert misplaced(bucket) == []
    ended = bucket.run(scripts, SAVES[style], STEPS="1", WIDTH=str(width))
    assert ended.code == 0, ended.errors
    assert steps(ended.output)[0] in (last, last + 1)
    assert misplaced(bucket) == []


# ====== At the end of the process ======

PROGRAM = Path(__file__).parents[1] / "buckets_leave_open.py"


@pytest.mark.parametrize("seed", range(max(1, COUNT // 10)))
def test_what_is_under_way_at_the_end_is_left_whole(
    seed: int, scripts: Scripts, request: pytest.FixtureRequest
) -> None:
    bucket = new_bucket(("oss", "s3")[seed % 2], f"exits-{seed}", request)
    ended = bucket.run(scripts, PROGRAM.read_text(encoding="utf-8"), SEED=str(seed))
    # The script's own code, and no line of ours: nothing was lost.
    assert ended.code in (0, 7), ended.errors
    assert "pai:" not in ended.errors
    expected = json.loads(ended.output)
    assert len(expected) == 12
    for name, (size, digest) in expected.items():
        content = bucket.read(name)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest), name
    assert bucket.pending() == set()
    assert left_locally(scripts.folder) == []
    # Whatever the thread was at: the newest state is whole.
    saves = Bucket(f"{bucket.folder}/saved", bucket.server)
    whole = saves.run(scripts, RESTORES)
    assert whole.code == 0, whole.errors
    assert steps(whole.output)[0] > 0


RESTORES = (
    MOUNTS
    + """
step, one = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([500_000]))
saved = tf.train.Checkpoint(step=step, one=one)
saved.restore(tf.train.latest_checkpoint(folder)).assert_consumed()
assert (one.numpy() == int(step)).all()
print("from", int(step))
"""
)
