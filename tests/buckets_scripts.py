"""Scripts that work in a bucket, and how what they leave there is judged.

Each runs in a process of its own (checkpoint_scripts), which finds the bucket's folder in FOLDER
and the options of its mount in OPTIONS.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoint_scripts import Ended, Scripts
from moto_server import S3Server
from oss_server import OSSServer

# Longer than all that a client tries, one after the other, with a server that is silent.
SECONDS = 240.0

MOUNTS = """
import hashlib, json, random, shutil, time
from file_systems import Place
from pai_runner.script.filesystem import register
folder = os.environ["FOLDER"]
register([Place(folder + "/", folder.partition("://")[0], json.loads(os.environ["OPTIONS"]))])
"""

# A script says from which step it goes on, and which steps it has saved. Each value of a state is
# the number of its step, so that a state of two steps is noticed (`Graph.check`).
SAVES = {
    "saver": MOUNTS
    + """
graph = Graph(width=int(os.environ["WIDTH"]))
saver = tf1.train.Saver(max_to_keep=2)
session = graph.begin()
latest = tf.train.latest_checkpoint(folder)
if latest:
    saver.restore(session, latest)
    kept = tf.train.get_checkpoint_state(folder).all_model_checkpoint_paths
    saver.recover_last_checkpoints(kept)
print("from", graph.check(session), flush=True)
for _ in range(int(os.environ["STEPS"])):
    session.run(graph.train)
    saver.save(session, folder + "/model.ckpt", global_step=graph.step)
    print("saved", graph.check(session), flush=True)
""",
    "manager": MOUNTS
    + """
step, width = tf.Variable(0, dtype=tf.int64), int(os.environ["WIDTH"])
one, two = tf.Variable(tf.zeros([width])), tf.Variable(tf.zeros([width]))
saved = tf.train.Checkpoint(step=step, one=one, two=two)
manager = tf.train.CheckpointManager(saved, folder, max_to_keep=2, step_counter=step)
latest = tf.train.latest_checkpoint(folder)
assert latest == manager.latest_checkpoint, (latest, manager.latest_checkpoint)
if latest:
    saved.restore(latest).assert_consumed()
assert (one.numpy() == int(step)).all() and (two.numpy() == int(step)).all()
print("from", int(step), flush=True)
for _ in range(int(os.environ["STEPS"])):
    for variable in (step, one, two):
        variable.assign_add(tf.ones_like(variable))
    manager.save(checkpoint_number=step)
    print("saved", int(step), flush=True)
""",
}


@dataclass(frozen=True)
class Bucket:
    """A folder of a bucket, `s3://bucket/dir`, and its server."""

    folder: str
    server: S3Server | OSSServer

    @property
    def path(self) -> str:
        """The folder as error messages name it, with or without its protocol."""
        return self.folder.partition("://")[2]

    @property
    def _bucket(self) -> str:
        return self.folder.split("/")[2]

    def names(self) -> set[str]:
        """Return the files below the folder, by their path in it."""
        keys = self.server.keys(self._bucket, "dir/")
        return {key.removeprefix("dir/") for key in keys}

    def read(self, name: str) -> bytes:
        return self.server.read(self._bucket, f"dir/{name}")

    def all_keys(self) -> set[str]:
        return set(self.server.keys(self._bucket))

    def pending(self) -> set[str]:
        """Return the names of the files whose uploads in parts have not ended."""
        if isinstance(self.server, OSSServer):
            keys = self.server.uploads(self._bucket)
        else:
            answer = self.server.client().list_multipart_uploads(Bucket=self._bucket)
            keys = [one["Key"] for one in answer.get("Uploads", ())]
        return {key.removeprefix("dir/") for key in keys}

    def run(
        self,
        scripts: Scripts,
        script: str,
        options: Mapping[str, str] | None = None,
        **environment: str,
    ) -> Ended:
        """Return how a script ended; one that does not within SECONDS is killed (code -9)."""
        pid = self.start(scripts, script, options, **environment)
        timer = threading.Timer(SECONDS, os.kill, (pid, signal.SIGKILL))
        timer.start()
        try:
            return scripts.end()
        finally:
            timer.cancel()

    def start(
        self,
        scripts: Scripts,
        script: str,
        options: Mapping[str, str] | None = None,
        **environment: str,
    ) -> int:
        """Start a script, with other `options` than those of the server where given."""
        options = self.server.options if options is None else options
        known = {"FOLDER": self.folder, "OPTIONS": json.dumps(dict(options))}
        (scripts.folder / "staged").mkdir(exist_ok=True)
        return scripts.start(script, **known, TMPDIR=str(scripts.folder / "staged"), **environment)


def put(server: S3Server | OSSServer, bucket: str, key: str, data: bytes) -> None:
    """Write an object with a client that shares nothing with the filesystems."""
    if isinstance(server, S3Server):
        server.client().put_object(Bucket=bucket, Key=key, Body=data)
        return
    import oss2

    options = server.options
    auth = oss2.Auth(options["access_key_id"], options["access_key_secret"])
    oss2.Bucket(auth, options["host"], bucket).put_object(key, data)


def new_bucket(kind: str, name: str, request: pytest.FixtureRequest) -> Bucket:
    """Return a folder in a new bucket of the server of `kind`: s3 or oss."""
    server = request.getfixturevalue(f"{kind}_server")
    return Bucket(f"{kind}://{server.make_bucket(name)}/dir", server)


def steps(output: str) -> list[int]:
    """Return the step that a script went on from, then those that it saved."""
    return [int(line.split()[1]) for line in output.splitlines()]


_CHECKPOINT_FILE = re.compile(
    r"(?P<prefix>(model\.ckpt|ckpt)-\d+)\.(?P<kind>index|meta|data-00000-of-00001)"
)


def misplaced(bucket: Bucket) -> list[str]:
    """Return what is wrong with the files that scripts of SAVES leave, whenever they are killed.

    Each is of a checkpoint, or the one that names the newest. What an index stands for is there,
    and so is what `checkpoint` names last; data without an index may be left over, and uploads
    in parts that have not ended, of such files, too.
    """
    names = bucket.names()
    found = []
    for name in names - {"checkpoint"}:
        matched = _CHECKPOINT_FILE.fullmatch(name)
        if matched is None:
            found.append(f"{name} should not be there")
        elif matched["kind"] == "index" and f"{matched['prefix']}.data-00000-of-00001" not in names:
            found.append(f"{name} has no data")
    found += [f"{key} should not be there" for key in _others(bucket.all_keys(), "dir/")]
    found += [
        f"an upload of {name} is pending"
        for name in bucket.pending() - {"checkpoint"}
        if not _CHECKPOINT_FILE.fullmatch(name)
    ]
    return found


def _others(keys: Iterable[str], prefix: str) -> list[str]:
    return [key for key in keys if not key.startswith(prefix)]


def left_locally(folder: Path) -> list[Any]:
    """Return the staged files that a script has left behind."""
    return list((folder / "staged").glob("pai-*"))
