"""Large files: sent in parts while TensorFlow writes them, and visible when they are whole."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets_scripts import MOUNTS, Bucket, new_bucket
from checkpoint_scripts import Scripts
from fault_proxy import Fault, FaultProxy, fault_proxy
from file_systems import Place
from support import fork, wait_until

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

MIB = 1 << 20
PIECE = os.urandom(MIB)

_numbers = itertools.count(1)


def new_folder(kind: str, request: pytest.FixtureRequest) -> Bucket:
    """Return a folder that TensorFlow can use, in a new bucket."""
    from pai_runner.script.filesystem import register

    bucket = new_bucket(kind, f"writing-{next(_numbers)}", request)
    register([Place(f"{bucket.folder}/", kind, bucket.server.options)])
    return bucket


@pytest.fixture(params=["s3", "oss"])
def bucket(request: pytest.FixtureRequest, tf: Any) -> Bucket:
    return new_folder(request.param, request)


@pytest.fixture
def s3(request: pytest.FixtureRequest, tf: Any) -> Bucket:
    return new_folder("s3", request)


def requests(bucket: Bucket) -> list[str]:
    """Return those for files of the folder, with the path from the folder on."""
    place = f"/{bucket.folder.partition('://')[2]}/"
    lines = [str(one) for one in bucket.server.requests()]
    return [line.replace(place, "") for line in lines if place in line]


def parts(bucket: Bucket, name: str) -> list[str]:
    """Return the requests with parts of a file."""
    return [
        line
        for line in requests(bucket)
        if line.startswith(f"PUT {name}?") and "partNumber=" in line
    ]


def begun(tf: Any, bucket: Bucket, name: str, final: str = "") -> tuple[Any, int]:
    """Return a writer of which parts have been sent as `final`, and how many MiB it was given.

    What it is given is PIECE, again and again.
    """
    writer = tf.io.gfile.GFile(f"{bucket.folder}/{name}", "wb")
    count = 0

    def write_on() -> bool:
        nonlocal count
        for _ in range(8):
            writer.write(PIECE)
        count += 8
        return bool(parts(bucket, final or name))

    wait_until(write_on, 30, 0.1)
    return writer, count


def is_pieces(content: bytes, count: int) -> bool:
    return hashlib.md5(content).digest() == hashlib.md5(PIECE * count).digest()


# ====== While it is written ======


def test_parts_go_out_before_the_file_is_closed(tf: Any, bucket: Bucket) -> None:
    writer, count = begun(tf, bucket, "large")
    assert bucket.names() == set()
    assert bucket.pending(), "nothing of it is visible yet"
    assert tf.io.gfile.exists(f"{bucket.folder}/large"), "but for its own process"
    writer.write(b"the end")
    writer.close()
    assert bucket.read("large") == PIECE * count + b"the end"
    assert not bucket.pending()
    assert sum("uploads" in line for line in requests(bucket)) == 1, "it was sent once"


def test_a_file_below_two_parts_is_one_request(tf: Any, s3: Bucket) -> None:
    with tf.io.gfile.GFile(f"{s3.folder}/small", "wb") as writer:
        for _ in range(15):
            writer.write(PIECE)
    sent = [line for line in requests(s3) if line.startswith(("PUT", "POST"))]
    assert sent == ["PUT small"]
    assert is_pieces(s3.read("small"), 15)


def test_appending_to_a_large_file(tf: Any, s3: Bucket) -> None:
    path = f"{s3.folder}/log"
    for mode in ("wb", "ab"):
        with tf.io.gfile.GFile(path, mode) as writer:
            for _ in range(12):
                writer.write(PIECE)
    assert is_pieces(s3.read("log"), 24)
    assert len(parts(s3, "log")) == 3, "it is written anew, as a whole"
    assert not s3.pending()


def test_the_memory_of_a_file_of_300_mb_is_bounded(tf: Any, s3: Bucket) -> None:
    with tf.io.gfile.GFile(f"{s3.folder}/first", "wb") as writer:
        for _ in range(20):
            writer.write(PIECE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
    before = memory_mb("VmRSS")
    with tf.io.gfile.GFile(f"{s3.folder}/second", "wb") as writer:
        for _ in range(300):
            writer.write(PIECE)
    # The most that can be on its way is 16 parts, of 8 MiB.
    assert memory_mb("VmHWM") - before < 200
    assert len(parts(s3, "second")) == 38


def memory_mb(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) // 1024


# ====== Checkpoints ======


def test_a_large_checkpoint_is_complete_before_its_index(tf: Any, bucket: Bucket) -> None:
    values = np.random.default_rng(5).random((40, MIB // 4), "f")
    variable = tf.Variable(values)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=variable), bucket.folder, 3)
    manager.save()
    sent = requests(bucket)
    made = [line for line in sent if line.startswith(("PUT", "POST")) and "partN" not in line]
    begin, *after = [re.sub(r"\?.*", "", line) for line in made]
    data = "ckpt-1.data-00000-of-00001"
    assert begin == f"POST {data}"
    assert after == [f"POST {data}", "PUT ckpt-1.index", "PUT checkpoint", "PUT checkpoint"]
    last_part = max(number for number, line in enumerate(sent) if "partNumber=" in line)
    assert last_part < sent.index(made[1])
    variable.assign(tf.zeros_like(variable))
    tf.train.Checkpoint(value=variable).restore(
        tf.train.latest_checkpoint(bucket.folder)
    ).assert_consumed()
    assert (variable.numpy() == values).all()
    assert not bucket.pending()


def test_a_file_that_is_renamed_otherwise_than_foretold(tf: Any, s3: Bucket) -> None:
    temporary = "model.tempstate123"
    writer, count = begun(tf, s3, temporary, "model")
    writer.close()
    assert s3.names() == set()
    tf.io.gfile.rename(f"{s3.folder}/{temporary}", f"{s3.folder}/elsewhere")
    assert s3.names() == {"elsewhere"}
    assert is_pieces(s3.read("elsewhere"), count)
    assert not s3.pending()


# ====== A checkpoint's data, which passes through memory alone ======

DATA = "model.data-00000-of-00001"


def test_data_of_a_checkpoint_needs_no_disk(tf: Any, bucket: Bucket) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    writer, count = begun(tf, bucket, f"{DATA}.tempstate1", DATA)
    made = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in made if name.startswith(f"pai-{os.getpid()}-")]
    for _ in range(200):
        writer.write(PIECE)
    count += 200
    assert writer.tell() == count * MIB
    assert tf.io.gfile.stat(f"{bucket.folder}/{DATA}.tempstate1").length == count * MIB
    with pytest.raises(tf.errors.OpError, match="it is on its way"):
        tf.io.gfile.GFile(f"{bucket.folder}/{DATA}.tempstate1", "rb").read(10)
    writer.close()
    tf.io.gfile.rename(f"{bucket.folder}/{DATA}.tempstate1", f"{bucket.folder}/{DATA}")
    assert bucket.names() == {DATA}
    assert is_pieces(bucket.read(DATA), count)
    assert not bucket.pending()


def test_the_memory_that_data_passes_through_is_bounded(tf: Any, s3: Bucket) -> None:
    before = most = memory_passed_through()  # other tests have left files open
    digest = hashlib.md5()
    with tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "wb") as writer:
        for number in range(450):  # each piece is another
            piece = number.to_bytes(4, "big") + PIECE[: MIB - 7]
            writer.write(piece)
            digest.update(piece)
            most = max(most, memory_passed_through())
    assert 190 * MIB <= most - before <= 192 * MIB
    tf.io.gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/{DATA}")
    assert hashlib.md5(s3.read(DATA)).digest() == digest.digest()
    assert memory_passed_through() <= before


def test_data_that_is_read_while_it_is_written_is_all_kept(tf: Any, s3: Bucket) -> None:
    writer, count = begun(tf, s3, f"{DATA}.tempstate1", DATA)
    reader = tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "rb")
    assert reader.read(MIB) == PIECE
    for _ in range(300 - count):
        writer.write(PIECE)
    writer.flush()
    assert is_pieces(PIECE + reader.read(), 300)
    writer.close()
    with tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "ab") as more:
        more.write(PIECE)
        with pytest.raises(tf.errors.UnavailableError, match="it is being written"):
            tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "ab").write(b"x")
    tf.io.gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/elsewhere")
    assert is_pieces(s3.read("elsewhere"), 301)
    assert not s3.pending()


def test_data_of_a_checkpoint_that_is_begun_anew(tf: Any, s3: Bucket) -> None:
    first, _ = begun(tf, s3, f"{DATA}.tempstate1", DATA)
    second = tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "wb")
    for _ in range(17):
        second.write(b"x" * MIB)
    for _ in range(300):
        first.write(PIECE)
    first.close()
    second.close()
    tf.io.gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/{DATA}")
    assert s3.read(DATA) == b"x" * (17 * MIB)
    assert not s3.pending()


def memory_passed_through() -> int:
    """Return how much memory this process's files without names hold."""
    sizes: dict[int, int] = {}  # by inode: a mapping has a descriptor of its own
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread closed it
            if os.readlink(one).startswith("/memfd:"):
                sizes[one.stat().st_ino] = one.stat().st_blocks * 512
    return sum(sizes.values())


def test_data_of_a_checkpoint_becomes_what_was_foretold_only(tf: Any, s3: Bucket) -> None:
    with tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "wb") as writer:
        for _ in range(200):
            writer.write(PIECE)
    gfile = tf.io.gfile
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"it can only become .*{DATA}"):
        gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/elsewhere")
    gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/{DATA}")
    assert is_pieces(s3.read(DATA), 200)


def test_short_data_of_a_checkpoint_is_any_file(tf: Any, s3: Bucket) -> None:
    with tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "wb") as writer:
        writer.write(b"short")
    gfile = tf.io.gfile
    assert gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "rb").read() == b"short"
    gfile.rename(f"{s3.folder}/{DATA}.tempstate1", f"{s3.folder}/elsewhere")
    assert s3.read("elsewhere") == b"short"


# ====== What is not finished ======


def test_a_file_that_is_removed_while_it_grows(tf: Any, bucket: Bucket) -> None:
    writer, _ = begun(tf, bucket, "unwanted")
    tf.io.gfile.remove(f"{bucket.folder}/unwanted")
    assert not bucket.pending()
    for _ in range(17):
        writer.write(PIECE)
    writer.close()
    assert bucket.names() == set()
    assert not bucket.pending()


def test_a_file_that_is_begun_anew_while_it_grows(tf: Any, s3: Bucket) -> None:
    first, _ = begun(tf, s3, "twice")
    second = tf.io.gfile.GFile(f"{s3.folder}/twice", "wb")
    for _ in range(17):
        second.write(b"x" * MIB)
    second.close()
    first.close()
    assert s3.read("twice") == b"x" * (17 * MIB)
    assert not s3.pending()


def test_a_forked_child_leaves_the_upload_to_its_parent(tf: Any, s3: Bucket) -> None:
    writer, count = begun(tf, s3, "of the parent")
    process = fork()
    if process == 0:
        try:
            with tf.io.gfile.GFile(f"{s3.folder}/of the child", "wb") as own:
                for _ in range(17):
                    own.write(PIECE)
            os._exit(0)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    writer.close()
    assert is_pieces(s3.read("of the parent"), count)
    assert is_pieces(s3.read("of the child"), 17)
    assert not s3.pending()


def test_a_child_that_exits_writes_nothing_of_its_parent(tf: Any, s3: Bucket) -> None:
    with tf.io.gfile.GFile(f"{s3.folder}/once", "wb") as writer:
        writer.write(b"held by stdio")
        process = fork()
        if process == 0:
            ctypes.CDLL(None).fflush(None)  # as exit(3) does with every stream
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert s3.read("once") == b"held by stdio"


# ====== Failures ======


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, tf: Any, tmp_path: Path
) -> Iterator[tuple[Bucket, FaultProxy]]:
    """A folder that TensorFlow reaches through a proxy."""
    from pai_runner.script.filesystem import register

    bucket = new_bucket("s3", f"writing-{next(_numbers)}", request)
    with fault_proxy(bucket.server.url, tmp_path / "requests") as proxy:
        register([Place(f"{bucket.folder}/", "s3", proxy.options(bucket.server.options))])
        yield bucket, proxy


def test_parts_that_fail_are_sent_again_with_the_whole(
    tf: Any, proxied: tuple[Bucket, FaultProxy], capfd: pytest.CaptureFixture[str]
) -> None:
    s3, proxy = proxied
    # As often as a part is tried, and no more: the whole finds a server that works.
    proxy.set(Fault("500", methods=("PUT",), path="partNumber=2&", count=3))
    writer, count = begun(tf, s3, "large")
    writer.close()
    assert is_pieces(s3.read("large"), count)
    assert not s3.pending()
    assert "it will be tried again as a whole" in capfd.readouterr().err


def test_a_file_that_cannot_be_sent_is_not_there(
    tf: Any, proxied: tuple[Bucket, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, proxy = proxied
    monkeypatch.setenv("PAI_RETRY_SECONDS", "1")
    proxy.set(Fault("503", methods=("PUT",)))
    writer = tf.io.gfile.GFile(f"{s3.folder}/large", "wb")
    for _ in range(24):
        writer.write(PIECE)
    with pytest.raises(tf.errors.UnavailableError, match="503"):
        writer.close()
    assert s3.names() == set()
    assert not s3.pending()
    assert not tf.io.gfile.exists(f"{s3.folder}/large")


def test_data_that_cannot_be_sent_stops_its_writer(
    tf: Any, proxied: tuple[Bucket, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, proxy = proxied
    monkeypatch.setenv("PAI_RETRY_SECONDS", "1")
    proxy.set(Fault("500", methods=("PUT",)))
    writer = tf.io.gfile.GFile(f"{s3.folder}/{DATA}.tempstate1", "wb")
    before = most = memory_passed_through()

    def write() -> None:
        nonlocal most
        for _ in range(600):
            writer.write(PIECE)
            most = max(most, memory_passed_through())

    with pytest.raises(tf.errors.UnavailableError, match="500"):
        write()
    assert most - before < 250 * MIB
    with pytest.raises(tf.errors.OpError):
        writer.close()
    assert memory_passed_through() <= before
    assert s3.names() == set()
    assert not s3.pending()


# ====== Other processes ======


LEAVES = (
    MOUNTS
    + """
import boto3
from support import wait_until
options = json.loads(os.environ["OPTIONS"])
client = boto3.client(
    "s3", endpoint_url=options["endpoint_url"], region_name=options["region"],
    aws_access_key_id=options["key"], aws_secret_access_key=options["secret"],
)
writers = [tf.io.gfile.GFile(f"{folder}/{name}", "wb") for name in ("open", "other.tempstate7")]
for writer in writers:
    for _ in range(2):
        writer.write(bytes(8 << 20))
bucket = folder.split("/")[2]
wait_until(lambda: len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())) == 2, 60)
"""
)


def test_what_is_open_at_the_end_of_the_process(s3: Bucket, scripts: Scripts) -> None:
    ended = s3.run(scripts, LEAVES)
    assert ended.code == 0, ended.errors
    assert "pai:" not in ended.errors
    assert s3.names() == {"open"}
    assert s3.read("open") == bytes(16 * MIB)
    assert not s3.pending()


# The worker is the process that was started, the parameter server its child.
CLUSTER = (
    MOUNTS
    + """
import socket
def address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
cluster = {"ps": [address()], "worker": [address()]}
ended, ends = os.pipe()
child = os.fork()
job = "worker" if child else "ps"
# As scripts do: after they were started.
os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": job, "index": 0}})
server = tf1.train.Server(tf1.train.ClusterSpec(cluster), job_name=job, task_index=0)
if job == "ps":
    os.close(ends)
    os.read(ended, 1)
    raise SystemExit
tf1.disable_eager_execution()
with tf1.device("/job:ps/task:0"):
    large = tf1.get_variable("large", [24, 1 << 18], initializer=tf1.random_uniform_initializer())
with tf1.device("/job:worker/task:0"):
    small = tf1.get_variable("small", [1000], initializer=tf1.random_uniform_initializer())
saver = tf1.train.Saver(sharded=True)
with tf1.Session(server.target) as session:
    session.run(tf1.global_variables_initializer())
    saved = session.run([large, small])
    saver.save(session, folder + "/model.ckpt", 1)
    session.run([large.assign(large * 0), small.assign(small * 0)])
    saver.restore(session, tf1.train.latest_checkpoint(folder))
    restored = session.run([large, small])
assert all((one == other).all() for one, other in zip(saved, restored))
os.close(ends)
assert os.waitpid(child, 0)[1] == 0
"""
)


def test_two_processes_save_one_checkpoint(s3: Bucket, scripts: Scripts) -> None:
    ended = s3.run(scripts, CLUSTER, no_proxy="127.0.0.1")
    assert ended.code == 0, ended.errors
    prefix = "model.ckpt-1"
    assert s3.names() == {
        "checkpoint", f"{prefix}.index", f"{prefix}.meta",
        f"{prefix}.data-00000-of-00002", f"{prefix}.data-00001-of-00002",
    }  # fmt: skip
    assert not s3.pending()
    assert parts(s3, f"{prefix}.part-00000-of-00002.data-00000-of-00001")
