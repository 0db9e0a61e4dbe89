"""The oss:// filesystem: writing, copies and removals; on the double of OSS."""

from __future__ import annotations

import gzip
from pathlib import Path

import oss2
import pytest
from fsspec.callbacks import Callback
from oss_content import BLOCK, KB, UGLY, content, fail_in_transaction, write_and_fail
from oss_server import KEY_ID, SECRET, OSSServer

from pai_runner.storage.oss import OSSFileSystem

# ====== Writing ======


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
def test_writes_of_every_length(
    fs: OSSFileSystem, server: OSSServer, bucket: str, size: int
) -> None:
    data = content(size)
    with server.counted() as counts, fs.open(f"{bucket}/x", "wb", block_size=BLOCK) as stream:
        for start in range(0, size, 30 * KB):
            stream.write(data[start : start + 30 * KB])
        assert stream.tell() == size
        assert server.keys(bucket) == {}
    assert server.read(bucket, "x") == data
    if size < BLOCK:
        assert counts == {"PUT": 1}
    # What is written is no appendable object: it can be copied.
    fs.cp_file(f"{bucket}/x", f"{bucket}/y")
    assert server.read(bucket, "y") == data


def test_one_long_write_becomes_many_parts(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    with server.counted() as counts, fs.open(f"{bucket}/x", "wb", block_size=BLOCK) as stream:
        stream.write(content(10 * BLOCK + 1))
    assert counts == {"POST": 2, "PUT": 11}
    assert server.read(bucket, "x") == content(10 * BLOCK + 1)


@pytest.mark.parametrize("size", [10, 5 * BLOCK])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_publishes_nothing(
    fs: OSSFileSystem, server: OSSServer, bucket: str, size: int, error: type[BaseException]
) -> None:
    fs.pipe_file(f"{bucket}/x", b"before")
    with pytest.raises(error):
        write_and_fail(fs.open(f"{bucket}/x", "wb", block_size=BLOCK), content(size), error())
    with pytest.raises(error):
        write_and_fail(fs.open(f"{bucket}/x", "w", block_size=BLOCK), "x" * size, error())
    stream = fs.open(f"{bucket}/x", "wb", block_size=BLOCK)
    stream.write(content(size))
    stream.discard()
    assert server.read(bucket, "x") == b"before"
    assert server.uploads(bucket) == []


def test_text(fs: OSSFileSystem, bucket: str) -> None:
    with fs.open(f"{bucket}/x", "w", encoding="utf-8") as stream:
        stream.write("一\n二\n")
    with fs.open(f"{bucket}/x", encoding="utf-8", mode="r") as stream:
        assert stream.readlines() == ["一\n", "二\n"]


def test_compression(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    path = f"{bucket}/x.gz"
    for mode in ("w", "wb", "ab", "x"):
        for compression in ("gzip", "infer"):
            with pytest.raises(NotImplementedError, match=r"through gzip\.open"):
                fs.open(path, mode, compression=compression)
    with fs.open(path, "wb") as below, gzip.open(below, "wt") as stream:
        stream.write("text")
    with (
        pytest.raises(RuntimeError),
        fs.open(path, "wb") as below,
        gzip.open(below, "wb") as stream,
    ):
        write_and_fail(stream, content(KB), RuntimeError())
    with fs.open(path, "r", compression="infer") as stream:
        assert stream.read() == "text"
    with fs.open(f"{bucket}/plain", "w", compression="infer") as stream:
        stream.write("text")
    assert server.read(bucket, "plain") == b"text"


@pytest.mark.parametrize("before", [0, 10, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("added", [0, 10, 2 * BLOCK])
def test_append(fs: OSSFileSystem, server: OSSServer, bucket: str, before: int, added: int) -> None:
    fs.copy_part = 2 * BLOCK
    fs.pipe_file(f"{bucket}/x", content(before))
    with fs.open(f"{bucket}/x", "ab", block_size=BLOCK) as stream:
        assert stream.tell() == before
        stream.write(content(added, seed=1))
    assert server.read(bucket, "x") == content(before) + content(added, seed=1)
    with fs.open(f"{bucket}/new", "ab") as stream:
        stream.write(b"1")
    assert server.read(bucket, "new") == b"1"


def test_what_must_not_exist(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    first = fs.open(f"{bucket}/x", "xb")
    second = fs.open(f"{bucket}/x", "xb", block_size=BLOCK)
    first.write(b"first")
    second.write(content(2 * BLOCK))
    first.close()
    with pytest.raises(FileExistsError):
        second.close()
    assert server.read(bucket, "x") == b"first"
    assert server.uploads(bucket) == []
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/x", b"", mode="create")


@pytest.mark.slow
def test_a_new_file_whose_answer_is_lost(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    """It is written again, and then is there: its content tells whose it is."""
    server.set(lose_puts=1)
    fs.pipe_file(f"{bucket}/x", b"mine", mode="create")
    server.set(lose_puts=1)
    with fs.open(f"{bucket}/y", "xb") as stream:
        stream.write(b"mine")
    assert server.keys(bucket) == {"x": 4, "y": 4}
    server.set(fail=1)
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/x", b"them", mode="create")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/x", b"mine", mode="create")
    assert server.read(bucket, "x") == b"mine"


def test_a_transaction(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    with fs.transaction:
        for name, size in (("short", 5), ("long", 3 * BLOCK)):
            with fs.open(f"{bucket}/{name}", "wb", block_size=BLOCK) as stream:
                stream.write(content(size))
        assert server.keys(bucket) == {}
    assert server.keys(bucket) == {"short": 5, "long": 3 * BLOCK}
    stream = fs.open(f"{bucket}/never", "wb", autocommit=False, block_size=BLOCK)
    with pytest.raises(RuntimeError):
        write_and_fail(stream, content(3 * BLOCK), RuntimeError())
    with pytest.raises(RuntimeError):
        fail_in_transaction(fs, f"{bucket}/never", RuntimeError())
    assert "never" not in server.keys(bucket)
    assert server.uploads(bucket) == []


@pytest.mark.slow
def test_an_upload_whose_part_fails(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    stream = fs.open(f"{bucket}/x", "wb", block_size=BLOCK)
    stream.write(content(BLOCK))
    server.set(corrupt_writes=1000)
    with pytest.raises(OSError, match="damaged"):
        stream.write(content(10 * BLOCK))
    stream.close()
    assert (server.keys(bucket), server.uploads(bucket)) == ({}, [])


def test_an_upload_whose_last_answer_is_lost(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    """It is asked for again, and then is no longer there: the object tells that it was made."""
    stream = fs.open(f"{bucket}/x", "wb", block_size=BLOCK)
    stream.write(content(3 * BLOCK))
    server.set(lose=1)
    stream.close()
    assert server.read(bucket, "x") == content(3 * BLOCK)


@pytest.mark.slow
def test_long_files_both_ways(
    fs: OSSFileSystem, server: OSSServer, bucket: str, tmp_path: Path
) -> None:
    data = content(17 * KB * KB)
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(data)
    sent, came = Callback(), Callback()
    with server.counted() as counts:
        fs.put_file(str(source), f"{bucket}/x", callback=sent)
    assert counts == {"POST": 2, "PUT": 3}
    with server.counted() as counts:
        fs.get_file(f"{bucket}/x", str(target), callback=came)
    assert counts == {"HEAD": 1, "GET": 3}
    assert target.read_bytes() == data
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert (sent.size, sent.value, came.size, came.value) == (len(data),) * 4
    fs.pipe_file(f"{bucket}/y", data)
    assert fs.info(f"{bucket}/y")["CRC64"] == fs.info(f"{bucket}/x")["CRC64"]


def test_short_files_both_ways(
    fs: OSSFileSystem, server: OSSServer, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"content")
    with server.counted() as counts:
        fs.put_file(str(tmp_path / "x"), f"{bucket}/x")
    assert counts == {"PUT": 1}
    fs.get_file(f"{bucket}/x", str(tmp_path / "y"))
    assert (tmp_path / "y").read_bytes() == b"content"
    with (tmp_path / "z").open("wb") as stream:
        fs.get_file(f"{bucket}/x", stream)
    assert (tmp_path / "z").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        fs.get_file(f"{bucket}/missing", str(tmp_path / "missing"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y", "z"]


def test_the_longest_local_name(fs: OSSFileSystem, bucket: str, tmp_path: Path) -> None:
    name = "n" * 255
    fs.pipe_file(f"{bucket}/{name}", b"content")
    fs.get_file(f"{bucket}/{name}", str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ====== Copies and removals ======


def test_copies(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    second = server.make_bucket(f"{bucket}-2")
    fs.pipe_file(f"{bucket}/x", content(KB))
    with server.counted() as counts:
        fs.cp_file(f"{bucket}/x", f"{second}/y")
    assert counts == {"COPY": 1}
    assert server.read(second, "y") == content(KB)
    with pytest.raises(FileNotFoundError):
        fs.cp_file(f"{bucket}/missing", f"{bucket}/y")
    with pytest.raises(FileNotFoundError, match="there is no bucket `no-such-bucket`"):
        fs.cp_file(f"{bucket}/x", "no-such-bucket/y")
    with pytest.raises(FileNotFoundError, match="there is no bucket `no-such-bucket`"):
        fs.cp_file("no-such-bucket/x", f"{bucket}/y")
    fs.mv(f"{bucket}/x", f"{bucket}/z")
    assert server.keys(bucket) == {"z": KB}


def test_a_copy_that_is_too_large_for_one(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    second = server.make_bucket(f"{bucket}-2")
    server.set(copy_limit=2 * BLOCK)
    fs.copy_part = 2 * BLOCK
    fs.pipe_file(f"{bucket}/a b?", content(5 * BLOCK + 3))
    with server.counted() as counts:
        fs.cp_file(f"{bucket}/a b?", f"{second}/y")
    assert server.read(second, "y") == content(5 * BLOCK + 3)
    assert counts == {"COPY": 4, "HEAD": 1, "POST": 2}


def test_a_copy_of_an_appendable_object(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    oss2.Bucket(oss2.Auth(KEY_ID, SECRET), server.url, bucket).append_object("x", 0, b"123")
    fs.cp_file(f"{bucket}/x", f"{bucket}/y")
    assert server.read(bucket, "y") == b"123"
    with fs.open(f"{bucket}/x", "ab") as stream:
        stream.write(b"45")
    assert server.read(bucket, "x") == b"12345"


def test_a_directory_is_moved(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    for name in ("d/x", "d/e/y", "d2/z"):
        fs.pipe_file(f"{bucket}/{name}", b"1")
    fs.mv(f"{bucket}/d", f"{bucket}/n", recursive=True)
    assert set(server.keys(bucket)) == {"n/x", "n/e/y", "d2/z"}


def test_removals(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    with pytest.raises(FileNotFoundError):
        fs.rm_file(f"{bucket}/missing")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{bucket}/missing")
    for name in ("d/x", "d/", "d/e/y", "d2"):
        fs.pipe_file(f"{bucket}/{name}", b"")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{bucket}/d")
    with pytest.raises(NotADirectoryError):
        fs.rmdir(f"{bucket}/d2")
    with pytest.raises(FileNotFoundError):
        fs.rmdir(f"{bucket}/missing")
    for path in (bucket, f"oss://{bucket}/"):
        with pytest.raises(PermissionError, match="a whole bucket is not removed"):
            fs.rm(path, recursive=True)
    with server.counted() as counts:
        fs.rm(f"{bucket}/d", recursive=True)
    assert counts["DELETE"] == 1
    assert set(server.keys(bucket)) == {"d2"}


def test_removals_of_any_key(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    """XML carries some keys not at all, and some as another key."""
    for name in UGLY:
        fs.pipe_file(f"{bucket}/d/{name}", b"")
    fs.pipe_file(f"{bucket}/e/cr\rx", b"")
    fs.pipe_file(f"{bucket}/e/cr\nx", b"")
    assert set(fs.find(f"{bucket}/d")) == {f"{bucket}/d/{name}" for name in UGLY}
    listed = {name.rpartition("/")[2] for name in fs.ls(f"{bucket}/d", detail=False)}
    assert {"cr\rx", "c\x01x", "not\ufffex"} < listed
    with server.counted() as counts:
        fs.rm([f"{bucket}/d", f"{bucket}/e/cr\rx"], recursive=True)
    assert counts["DELETE"] == 5
    assert server.keys(bucket) == {"e/cr\nx": 0}


def test_a_removal_that_leaves_something(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    for name in ("x", "y"):
        fs.pipe_file(f"{bucket}/d/{name}", b"")
    server.set(retained="d/x")
    with pytest.raises(OSError, match=f"{bucket}: not deleted: `d/x`$"):
        fs.rm(f"{bucket}/d", recursive=True)
    assert server.keys(bucket) == {"d/x": 0}


def test_directories_cost_nothing(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    with server.counted() as counts:
        fs.makedirs(f"{bucket}/a/b", exist_ok=True)
        fs.mkdir(f"{bucket}/c")
    assert counts == {}
    assert server.keys(bucket) == {}


def test_touch(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/x", b"1")
    fs.touch(f"{bucket}/x")
    fs.touch(f"{bucket}/new", truncate=False)
    assert server.keys(bucket) == {"x": 0, "new": 0}
    with pytest.raises(NotImplementedError):
        fs.touch(f"{bucket}/x", truncate=False)
