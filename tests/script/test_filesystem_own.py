"""What the file layer does of its own: where no local disk can be the oracle."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_systems import BUCKET, FileSystems
from support import fork, wait_until

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=["memory", "s3", "oss"])
def folder(request: pytest.FixtureRequest, file_systems: FileSystems, tmp_path: Path) -> str:
    return file_systems.new_folder(request.param, tmp_path)


@pytest.fixture
def s3_folder(file_systems: FileSystems, tmp_path: Path) -> str:
    return file_systems.new_folder("s3", tmp_path)


def key_of(path: str) -> str:
    return path.removeprefix(f"s3://{BUCKET}/")


def write(tf: Any, path: str, content: str = "content", mode: str = "w") -> None:
    with tf.io.gfile.GFile(path, mode) as stream:
        stream.write(content)


def read(tf: Any, path: str) -> str:
    return str(tf.io.gfile.GFile(path).read())


# ====== Where an object store differs ======


def test_writing_needs_no_folder(tf: Any, folder: str) -> None:
    write(tf, f"{folder}/never/made/file")
    assert tf.io.gfile.isdir(f"{folder}/never/made")
    tf.io.gfile.mkdir(f"{folder}/other/made")
    assert tf.io.gfile.isdir(f"{folder}/other")
    tf.io.gfile.rename(f"{folder}/never/made/file", f"{folder}/new/place")
    assert read(tf, f"{folder}/new/place") == "content"


def test_folders_alone_upload_nothing(tf: Any, file_systems: FileSystems, s3_folder: str) -> None:
    with file_systems.server.counted() as counts:
        tf.io.gfile.makedirs(f"{s3_folder}/a/b/c")
        tf.io.gfile.rmtree(f"{s3_folder}/a")
    assert counts["PUT"] == counts["DELETE"] == 0


def test_a_whole_bucket_is_never_deleted(tf: Any, folder: str) -> None:
    write(tf, f"{folder}/file")
    bucket = folder.rpartition("/")[0]
    for path in (bucket, f"{bucket}/", f"{folder}/..", bucket.partition("://")[0] + "://"):
        with pytest.raises(tf.errors.PermissionDeniedError, match="a whole bucket"):
            tf.io.gfile.rmtree(path)
        with pytest.raises(tf.errors.PermissionDeniedError, match="a whole bucket"):
            tf.io.gfile.rename(path, f"{folder}-moved")
    assert read(tf, f"{folder}/file") == "content"


def test_folder_markers_of_consoles_are_folders(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    client = file_systems.server.client()
    for name in ("", "empty/", "full/"):
        client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/{name}", Body=b"")
    client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/full/file", Body=b"x")
    gfile = tf.io.gfile
    assert gfile.isdir(s3_folder)
    assert gfile.isdir(f"{s3_folder}/empty")
    assert sorted(gfile.listdir(s3_folder)) == ["empty", "full"]
    assert gfile.listdir(f"{s3_folder}/empty") == []
    gfile.rename(f"{s3_folder}/full", f"{s3_folder}/moved")
    gfile.rmtree(f"{s3_folder}/empty")
    keys = file_systems.server.keys(BUCKET, f"{key_of(s3_folder)}/")
    assert [key.removeprefix(key_of(s3_folder)) for key in keys] == ["/", "/moved/file"]


def test_a_key_that_is_both_file_and_folder(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    client = file_systems.server.client()
    for name in ("x", "x/below"):
        client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/{name}", Body=b"1")
    assert tf.io.gfile.listdir(s3_folder) == ["x"]
    assert read(tf, f"{s3_folder}/x") == "1"
    assert read(tf, f"{s3_folder}/x/below") == "1"


def test_buckets_and_their_contents(tf: Any, folder: str) -> None:
    write(tf, f"{folder}/file")
    bucket, _, name = folder.rpartition("/")
    gfile = tf.io.gfile
    assert gfile.exists(bucket)
    assert gfile.isdir(f"{bucket}/")
    assert name in gfile.listdir(bucket)
    assert gfile.glob(f"{bucket}/{name}*") == [folder]
    gfile.makedirs(bucket)
    assert gfile.glob("s3://b*x/x") == []
    with pytest.raises(tf.errors.FailedPreconditionError):
        write(tf, bucket)


def test_what_others_write_is_seen(tf: Any, file_systems: FileSystems, s3_folder: str) -> None:
    client = file_systems.server.client()
    assert not tf.io.gfile.exists(f"{s3_folder}/new")
    client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/new", Body=b"1")
    assert tf.io.gfile.exists(f"{s3_folder}/new")
    assert read(tf, f"{s3_folder}/new") == "1"
    client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/new", Body=b"more")
    assert read(tf, f"{s3_folder}/new") == "more"
    assert tf.io.gfile.stat(f"{s3_folder}/new").length == 4


def test_a_file_that_is_moved_while_it_is_open_for_appending_is_not_lost(
    tf: Any, folder: str
) -> None:
    write(tf, f"{folder}/file")
    stream = tf.io.gfile.GFile(f"{folder}/file", "a")
    stream.write("")
    tf.io.gfile.rename(f"{folder}/file", f"{folder}/moved")
    stream.close()
    assert tf.io.gfile.listdir(folder) == ["moved"]
    assert read(tf, f"{folder}/moved") == "content"


def test_what_others_change_is_seen_after_a_moment(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    write(tf, f"{s3_folder}/file")
    assert tf.io.gfile.exists(f"{s3_folder}/file")
    client = file_systems.server.client()
    client.put_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/file", Body=b"more of it")
    wait_until(lambda: tf.io.gfile.stat(f"{s3_folder}/file").length == 10, 5)
    client.delete_object(Bucket=BUCKET, Key=f"{key_of(s3_folder)}/file")
    wait_until(lambda: not tf.io.gfile.exists(f"{s3_folder}/file"), 5)


def test_nothing_is_in_the_bucket_before_the_close(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    stream = tf.io.gfile.GFile(f"{s3_folder}/file", "w")
    stream.write("x" * 1_000_000)
    stream.flush()
    assert file_systems.server.keys(BUCKET, key_of(s3_folder)) == {}
    stream.close()
    assert file_systems.server.keys(BUCKET, key_of(s3_folder)) == {
        f"{key_of(s3_folder)}/file": 1_000_000
    }


def test_removing_an_empty_folder(tf: Any, folder: str) -> None:
    """TensorFlow removes one after merging a checkpoint's parts; no Python name does it."""
    from pai_runner.script.filesystem import _bridge

    assert _bridge is not None
    layer = _bridge._layer
    write(tf, f"{folder}/full/file")
    tf.io.gfile.makedirs(f"{folder}/empty")
    with pytest.raises(OSError, match="not empty"):
        layer.remove_directory(f"{folder}/full")
    with pytest.raises(NotADirectoryError):
        layer.remove_directory(f"{folder}/full/file")
    with pytest.raises(FileNotFoundError):
        layer.remove_directory(f"{folder}/none")
    with pytest.raises(PermissionError):
        layer.remove_directory(folder.rpartition("/")[0])
    tf.io.gfile.remove(f"{folder}/full/file")
    for name in ("empty", "full"):
        layer.remove_directory(f"{folder}/{name}")
        assert not tf.io.gfile.exists(f"{folder}/{name}")


# ====== Reading ======


@pytest.mark.slow
def test_a_read_of_more_than_a_hundred_mebibytes(
    tf: Any, file_systems: FileSystems, tmp_path: Path
) -> None:
    folder = file_systems.new_folder("memory", tmp_path)
    value = np.random.default_rng(0).random((30, 1024, 1024), np.float32)  # 120 MiB
    path = tf.train.Checkpoint(value=tf.Variable(value)).write(f"{folder}/large")
    restored = tf.Variable(np.zeros_like(value))
    tf.train.Checkpoint(value=restored).read(path).assert_consumed()
    np.testing.assert_array_equal(restored.numpy(), value)


def test_many_threads_read_one_file(tf: Any, folder: str) -> None:
    content = np.random.default_rng(1).bytes(20_000_000)  # more than two blocks
    with tf.io.gfile.GFile(f"{folder}/data", "wb") as stream:
        stream.write(content)
    stream = tf.io.gfile.GFile(f"{folder}/data", "rb")
    lock = threading.Lock()

    def is_right(start: int) -> bool:
        own = tf.io.gfile.GFile(f"{folder}/data", "rb") if start % 2 else stream
        with lock if own is stream else threading.Lock():
            own.seek(start)
            return bool(own.read(70_001) == content[start : start + 70_001])

    starts = [*range(0, 20_000_000, 1_700_003), 8 * 2**20 - 5, 16 * 2**20 - 1, 19_990_000]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, starts))


def test_a_file_mapped_into_memory(tf: Any, folder: str) -> None:
    values = np.arange(1000, dtype=np.float32)
    with tf.io.gfile.GFile(f"{folder}/constant", "wb") as stream:
        stream.write(values.tobytes())
    write(tf, f"{folder}/empty", "")

    def mapped(name: str) -> Any:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            return session.run(
                tf.raw_ops.ImmutableConst(
                    dtype=tf.float32, shape=[1000], memory_region_name=f"{folder}/{name}"
                )
            )

    np.testing.assert_array_equal(mapped("constant"), values)
    with pytest.raises(tf.errors.NotFoundError):
        mapped("none")
    with pytest.raises(tf.errors.InvalidArgumentError):
        mapped("empty")


@pytest.mark.slow
def test_a_large_file_goes_up_in_parts(tf: Any, file_systems: FileSystems, s3_folder: str) -> None:
    piece = os.urandom(11_000_000)
    with tf.io.gfile.GFile(f"{s3_folder}/large", "wb") as stream:
        for _ in range(10):
            stream.write(piece)
    assert file_systems.server.keys(BUCKET, key_of(s3_folder)) == {
        f"{key_of(s3_folder)}/large": 110_000_000
    }
    stream = tf.io.gfile.GFile(f"{s3_folder}/large", "rb")
    stream.seek(109_000_000)
    assert stream.read() == piece[10_000_000:]
    assert "Uploads" not in file_systems.server.client().list_multipart_uploads(Bucket=BUCKET)


# ====== Processes ======


def in_child(action: Callable[[], bool]) -> int:
    """Run `action` in a forked child; return its exit status: 0 when it gave True."""
    process = fork()
    if process == 0:
        try:
            os._exit(0 if action() else 3)
        finally:
            os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_forked_child_reads_and_writes(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    write(tf, f"{s3_folder}/before", "from the parent")
    reader = tf.io.gfile.GFile(f"{s3_folder}/before")
    assert reader.read(4) == "from"
    writer = tf.io.gfile.GFile(f"{s3_folder}/of the parent", "w")
    writer.write("parent")
    writer.flush()

    def action() -> bool:
        write(tf, f"{s3_folder}/of the child", "child")
        return (
            read(tf, f"{s3_folder}/before") == "from the parent"
            and reader.read() == " the parent"
            and not tf.io.gfile.exists(f"{s3_folder}/of the parent")
        )

    assert in_child(action) == 0
    assert read(tf, f"{s3_folder}/of the child") == "child"
    writer.write(" only")
    writer.close()
    assert read(tf, f"{s3_folder}/of the parent") == "parent only"


def test_a_child_that_ends_normally_leaves_the_parents_files(
    tf: Any, file_systems: FileSystems, s3_folder: str
) -> None:
    writer = tf.io.gfile.GFile(f"{s3_folder}/file", "w")
    writer.write("one")

    def action() -> bool:
        from pai_runner.script.filesystem import _bridge

        assert _bridge is not None
        writer.close()  # an inherited one: the parent's to finish
        write(tf, f"{s3_folder}/child")
        _bridge._close()
        return True

    assert in_child(action) == 0
    assert set(file_systems.server.keys(BUCKET, key_of(s3_folder))) == {
        f"{key_of(s3_folder)}/child"
    }
    writer.write(" two")
    writer.close()
    assert read(tf, f"{s3_folder}/file") == "one two"
