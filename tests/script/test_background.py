"""Checkpoints that are uploaded in the background."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets_scripts import MOUNTS, Bucket, left_locally, misplaced, new_bucket
from checkpoint_scripts import Ended, Scripts
from fault_proxy import Fault, fault_proxy
from gate import Gate, gate_before

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

_numbers = itertools.count(1)

HELP = (
    MOUNTS
    + """
import glob, tempfile
tempfile.tempdir = None  # TMPDIR is this script's own
from pai_runner.script.filesystem import drain
step, value = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([100_000]))
saved = tf.train.Checkpoint(step=step, value=value)
manager = tf.train.CheckpointManager(saved, folder, max_to_keep=1, step_counter=step)

def save():
    step.assign_add(1)
    value.assign_add(tf.ones_like(value))
    manager.save(checkpoint_number=step)
    say("saved", int(step))

def restored():
    step.assign(0)
    value.assign(tf.zeros_like(value))
    saved.restore(tf.train.latest_checkpoint(folder)).assert_consumed()
    assert (value.numpy() == int(step)).all()
    return int(step)

def say(*words):
    print(json.dumps(words), flush=True)

def wait():
    open("go").close()
"""
)


@pytest.fixture
def scripts(forker: subprocess.Popen[str], tmp_path: Path) -> Iterator[Scripts]:
    os.mkfifo(tmp_path / "go")
    made = Scripts(forker, tmp_path)
    yield made
    made.give_up()


@pytest.fixture(params=["s3"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return new_bucket(request.param, f"behind-{next(_numbers)}", request)


@pytest.fixture
def gate(bucket: Bucket) -> Iterator[Gate]:
    with gate_before(bucket.server.url) as gate:
        yield gate


def start(scripts: Scripts, bucket: Bucket, gate: Gate, script: str, **environment: str) -> int:
    options = gate.options(bucket.server.options)
    environment = {"PAI_ASYNC_CHECKPOINT": "1", **environment}
    return bucket.start(scripts, HELP + script, options, **environment)


def go(scripts: Scripts) -> None:
    """Let a script that waits go on."""
    (scripts.folder / "go").write_text("")


def said(ended: Ended) -> dict[str, list[object]]:
    """Return what a script said by its first word."""
    assert ended.output, ended.errors
    return {line[0]: line[1:] for line in map(json.loads, ended.output.splitlines())}


def changes(gate: Gate, bucket: Bucket) -> list[str]:
    """Return what was written and removed in the folder, in order."""
    prefix = bucket.folder.partition(":/")[2] + "/"
    return [one.replace(prefix, "") for one in gate.changes]


# ====== While it waits ======


@pytest.mark.parametrize("bucket", ["s3", "oss"], indirect=True)
def test_a_save_returns_before_the_upload_and_the_process_sees_it(
    scripts: Scripts, bucket: Bucket, gate: Gate
) -> None:
    script = """
save()
drain()
say("uploaded")
wait()
save()
gfile = tf.io.gfile
say("latest", tf.train.latest_checkpoint(folder), gfile.stat(folder + "/ckpt-2.index").length)
say("names", sorted(gfile.listdir(folder)), gfile.exists(folder + "/ckpt-1.index"))
say("found", sorted(os.path.basename(one) for one in gfile.glob(folder + "/ckpt-*")))
say("restored", restored())
wait()
save()
(journal,) = glob.glob(os.environ["TMPDIR"] + "/pai-*/journal.jsonl")
say("journal", [json.loads(line) for line in open(journal)])
"""
    start(scripts, bucket, gate, script)
    scripts.wait_for("uploaded")
    gate.close()
    before = bucket.names()
    go(scripts)
    scripts.wait_for("restored")
    assert bucket.names() == before, "nothing was uploaded, nothing was removed"
    go(scripts)
    gate.open()
    ended = scripts.end()
    assert ended.code == 0, ended.errors
    seen = said(ended)
    files = ["ckpt-2.data-00000-of-00001", "ckpt-2.index"]
    assert seen["latest"][0] == f"{bucket.folder}/ckpt-2"
    assert seen["names"] == [["checkpoint", *files], False]
    assert seen["found"] == [files]
    assert seen["restored"] == [2]
    # The third began only when all of the second was done, and its deletions came last.
    lines = seen["journal"][0]
    assert isinstance(lines, list)
    (third,) = [one for one in lines if "ckpt-3.data" in one.get("path", "")]
    earlier = {one["number"] for one in lines[: lines.index(third)] if "path" in one}
    assert earlier == {one["done"] for one in lines[: lines.index(third)] if "done" in one}
    done = changes(gate, bucket)
    second = done[done.index("PUT ckpt-2.data-00000-of-00001") :]
    assert second[: second.index("PUT ckpt-3.data-00000-of-00001")] == [
        "PUT ckpt-2.data-00000-of-00001",
        "PUT ckpt-2.index",
        "PUT checkpoint",
        "DELETE ckpt-1.index",
        "DELETE ckpt-1.data-00000-of-00001",
        "PUT checkpoint",
    ]
    assert misplaced(bucket) == []
    assert not left_locally(scripts.folder)


def test_a_v1_saver_is_uploaded_in_its_order(scripts: Scripts, bucket: Bucket, gate: Gate) -> None:
    script = """
graph = Graph()
saver = tf1.train.Saver(max_to_keep=1)
session = graph.begin()
for _ in range(2):
    session.run(graph.train)
    saver.save(session, folder + "/model.ckpt", global_step=graph.step)
"""
    options = gate.options(bucket.server.options)
    ended = bucket.run(scripts, MOUNTS + script, options, PAI_ASYNC_CHECKPOINT="true")
    assert ended.code == 0, ended.errors
    one, two = "model.ckpt-1.", "model.ckpt-2."
    data, kinds = "data-00000-of-00001", ("meta", "index", "data-00000-of-00001")
    assert changes(gate, bucket) == [
        *(f"PUT {name}" for name in (one + data, f"{one}index", "checkpoint", f"{one}meta")),
        *(f"PUT {name}" for name in (two + data, f"{two}index", "checkpoint")),
        *(f"DELETE {one}{kind}" for kind in kinds),
        f"PUT {two}meta",
    ]


def test_all_else_waits_but_for_events(scripts: Scripts, bucket: Bucket, gate: Gate) -> None:
    script = """
wait()
save()
writer = tf.summary.create_file_writer(folder + "/logs")
with writer.as_default():
    tf.summary.write("x", 1.0, step=0)
    writer.close()
say("logged")
tf.saved_model.save(saved, folder + "/model")
say("exported")
wait()
"""
    start(scripts, bucket, gate, script)
    gate.close("ckpt-1")
    go(scripts)
    scripts.wait_for("logged")
    assert [name.split("/")[0] for name in bucket.names()] == ["logs"]
    gate.open()
    scripts.wait_for("exported")
    model = {f"model/{name}" for name in ("saved_model.pb", "variables/variables.index")}
    assert model <= bucket.names()
    go(scripts)
    ended = scripts.end()
    assert ended.code == 0, ended.errors
    done = changes(gate, bucket)
    assert done.index("PUT checkpoint") < done.index("PUT model/variables/variables.index")


def test_a_forked_child_leaves_it_to_the_parent(
    scripts: Scripts, bucket: Bucket, gate: Gate
) -> None:
    script = """
wait()
save()
child = os.fork()
if child == 0:
    say("child", tf.io.gfile.exists(folder + "/ckpt-1.index"))
    os._exit(0)
os.waitpid(child, 0)
say("parent", tf.io.gfile.exists(folder + "/ckpt-1.index"))
"""
    start(scripts, bucket, gate, script)
    gate.close()
    go(scripts)
    scripts.wait_for("parent")
    gate.open()
    ended = scripts.end()
    assert ended.code == 0, ended.errors
    assert said(ended) == {"saved": [1], "child": [False], "parent": [True]}
    assert "ckpt-1.index" in bucket.names()


# ====== The end ======


@pytest.mark.parametrize("how", ["exception", "SIGTERM", "SIGTERM within a save"])
def test_the_process_ends_when_all_is_uploaded(
    scripts: Scripts, bucket: Bucket, gate: Gate, how: str
) -> None:
    last = {"exception": "raise SystemExit(7)", "SIGTERM": "signal.pause()"}
    script = f"""
wait()
save()
say("all")
{last.get(how, "save()")}
"""
    pid = start(scripts, bucket, gate, script)
    gate.close()
    go(scripts)
    scripts.wait_for("all")
    if how.startswith("SIGTERM"):
        os.kill(pid, signal.SIGTERM)
    assert not bucket.names()
    gate.open()
    ended = scripts.end()
    assert ended.code == (7 if how == "exception" else -signal.SIGTERM), ended.errors
    assert {"checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"} <= bucket.names()
    assert not list((scripts.folder / "staged").glob("pai-*pending*"))


def test_sigterm_does_not_disturb_the_end_of_the_process(
    scripts: Scripts, bucket: Bucket, gate: Gate
) -> None:
    script = """
wait()
file = tf.io.gfile.GFile(folder + "/open.txt", "w")
file.write("all of it")
"""
    pid = start(scripts, bucket, gate, script)
    gate.close()
    go(scripts)
    assert gate.holds.wait(60), "the exit handlers upload what is open"
    os.kill(pid, signal.SIGTERM)
    gate.open()
    ended = scripts.end()
    assert ended.code == 0, ended.errors
    assert bucket.read("open.txt") == b"all of it"


def test_what_cannot_be_uploaded_fails_the_process_and_stays(
    scripts: Scripts, bucket: Bucket, tmp_path: Path
) -> None:
    with fault_proxy(bucket.server.url, tmp_path / "proxied") as proxy:
        proxy.set(Fault("503", methods=("PUT",)))
        options = proxy.options(bucket.server.options)
        bucket.start(
            scripts,
            HELP + "save()",
            options,
            PAI_ASYNC_CHECKPOINT="1",
            PAI_JOB_ID="the-job",
            PAI_RETRY_SECONDS="0.2",
        )
        ended = scripts.end()
    assert ended.code == 1, ended.errors
    data = f"{bucket.folder}/ckpt-1.data-00000-of-00001"
    assert f"pai: {data}: " in ended.errors
    assert "it is tried again" in ended.errors
    assert f"pai: {data}: not uploaded: " in ended.errors
    assert "`pai jobs resume-upload the-job`" in ended.errors
    assert not bucket.names()
    (folder,) = (scripts.folder / "staged").glob("pai-*pending*")
    assert str(folder) in ended.errors
    # Of two `checkpoint` files in a row the last is kept.
    names = {path.name for path in folder.iterdir()}
    assert names == {"000001", "000002", "000004", "journal.jsonl"}
    assert options["secret"] not in (folder / "journal.jsonl").read_text()


def test_the_next_save_fails_when_the_last_was_not_uploaded(
    scripts: Scripts, bucket: Bucket, gate: Gate
) -> None:
    script = """
save()
try:
    save()
except tf.errors.OpError as error:
    say("failed", type(error).__name__, str(error))
    wait()
save()
"""
    gate.refuses = True
    gate.held = "ckpt-1.data"
    start(scripts, bucket, gate, script)
    scripts.wait_for("failed")
    assert not bucket.names(), "nothing overtakes what failed"
    gate.refuses = False
    go(scripts)
    ended = scripts.end()
    assert ended.code == 0, ended.errors
    kind, text = said(ended)["failed"]
    assert kind == "PermissionDeniedError"
    assert f"{bucket.folder}/ckpt-1.data-00000-of-00001: not uploaded: " in str(text)
    assert "ckpt-3.index" in bucket.names()
