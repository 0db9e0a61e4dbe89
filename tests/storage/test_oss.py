"""The oss:// filesystem: names, what is there, and reading; on the double of OSS."""

from __future__ import annotations

import errno
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from urllib.request import urlopen

import fsspec
import pytest
from oss_content import BLOCK, KB, UGLY, content, write_and_fail
from oss_server import KEY_ID, SECRET, OSSServer

from pai_runner.storage.failures import Failure, failure_of
from pai_runner.storage.oss import OSSFileSystem, open_oss

# ====== Names ======


@pytest.mark.parametrize("name", UGLY)
def test_keys_are_literal(fs: OSSFileSystem, server: OSSServer, bucket: str, name: str) -> None:
    path = f"{bucket}/dir/{name}"
    fs.pipe_file(path, b"content")
    assert server.keys(bucket) == {f"dir/{name}": 7}
    assert fs.cat_file(f"oss://{path}") == b"content"
    assert fs.info(path)["name"] == path
    assert fs.find(f"{bucket}/dir") == [path]
    fs.cp_file(path, f"{path}2")
    assert server.read(bucket, f"dir/{name}2") == b"content"
    fs.rm_file(path)
    assert server.keys(bucket) == {f"dir/{name}2": 7}


def test_a_bucket_with_its_endpoint_is_the_bucket() -> None:
    strip = OSSFileSystem._strip_protocol
    assert strip("oss://b.oss-cn-hangzhou.aliyuncs.com/d.x/k.txt") == "b/d.x/k.txt"
    assert strip(["oss://b/d/", "/b//k"]) == ["b/d", "b//k"]
    assert strip("oss://") == ""


def test_a_key_may_end_with_a_slash(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    """Such an object shows an empty directory, and is no entry of it."""
    fs.pipe_file(f"{bucket}/dir/", b"")
    assert server.keys(bucket) == {"dir/": 0}
    assert fs.isdir(f"{bucket}/dir")
    assert fs.ls(f"{bucket}/dir") == []
    assert fs.ls(bucket, detail=False) == [f"{bucket}/dir"]
    fs.rmdir(f"{bucket}/dir")
    assert not fs.exists(f"{bucket}/dir")


# ====== What is there ======


def test_info_is_exact_and_costs_one_request(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    fs.pipe_file(f"{bucket}/d/x.txt", b"12345")
    with server.counted() as counts:
        info = fs.info(f"{bucket}/d/x.txt")
    assert counts == {"HEAD": 1}
    assert (info["size"], info["type"], info["ContentType"]) == (5, "file", "text/plain")
    assert info["ETag"] == "827CCB0EEA8A706C4C34A16891F84E7B"
    age = datetime.now(timezone.utc) - info["LastModified"]
    assert -2 < age.total_seconds() < 60
    assert fs.modified(f"{bucket}/d/x.txt") == info["LastModified"]
    with server.counted() as counts:
        assert fs.info(f"{bucket}/d")["type"] == "directory"
    assert counts == {"HEAD": 1, "GET": 1}


def test_what_calls_cost(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    path = f"{bucket}/d/x"
    costs = [
        (lambda: fs.pipe_file(path, b"1"), {"PUT": 1}),
        (lambda: fs.cat_file(path), {"GET": 1}),
        (lambda: fs.cat_file(path, 0, 1), {"GET": 1}),
        (lambda: fs.exists(path), {"HEAD": 1}),
        (lambda: fs.exists(f"{path}2"), {"HEAD": 1, "GET": 1}),
        (lambda: fs.exists(bucket), {"GET": 1}),
        (lambda: fs.ls(f"{bucket}/d"), {"GET": 1}),
        (lambda: fs.cp_file(path, f"{path}3"), {"COPY": 1}),
        (lambda: fs.rm_file(path), {"HEAD": 1, "DELETE": 1}),
    ]
    for action, expected in costs:
        with server.counted() as counts:
            action()
        assert counts == expected


def test_nothing_is_remembered(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    """Another process writes to the same bucket."""
    other = open_oss(server.options)
    path = f"{bucket}/d/x"
    assert not fs.exists(path)
    other.pipe_file(path, b"1")
    assert fs.exists(path)
    assert fs.ls(f"{bucket}/d", detail=False) == [path]
    assert fs.size(path) == 1
    other.pipe_file(path, b"22")
    assert fs.size(path) == 2
    other.rm_file(path)
    assert not fs.exists(f"{bucket}/d")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{bucket}/d")


def test_no_listing_option_is_needed_nor_harmful(server: OSSServer, bucket: str) -> None:
    for options in ({"use_listings_cache": False}, {"listings_expiry_time": 0}, {}):
        fs = fsspec.filesystem(
            "oss", endpoint=server.url, key=KEY_ID, secret=SECRET, skip_instance_cache=True
        )
        fs = OSSFileSystem(endpoint=server.url, key=KEY_ID, secret=SECRET, **options)
        fs.pipe_file(f"{bucket}/d/x", b"1")
        assert fs.ls(f"{bucket}/d")[0]["size"] == 1


@pytest.mark.slow
def test_long_lists_come_page_by_page(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    names = [f"{bucket}/d/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: fs.pipe_file(name, b""), names))
    with server.counted() as counts:
        assert fs.ls(f"{bucket}/d", detail=False) == names
    assert counts == {"GET": 2}
    assert fs.find(bucket) == names
    with server.counted() as counts:
        fs.rm(f"{bucket}/d", recursive=True)
    assert counts["DELETE"] == 2
    assert server.keys(bucket) == {}


def test_directories_of_a_tree(fs: OSSFileSystem, bucket: str) -> None:
    for name in ("a/x", "a/b/y", "a/b/c/z", "ab"):
        fs.pipe_file(f"{bucket}/{name}", b"")
    assert fs.ls(f"{bucket}/a", detail=False) == [f"{bucket}/a/b", f"{bucket}/a/x"]
    assert fs.ls(f"{bucket}/ab", detail=False) == [f"{bucket}/ab"]
    assert fs.find(f"{bucket}/a", maxdepth=1) == [f"{bucket}/a/x"]
    assert fs.find(f"{bucket}/a", maxdepth=2, withdirs=True) == [
        f"{bucket}/a",
        f"{bucket}/a/b",
        f"{bucket}/a/b/c",
        f"{bucket}/a/b/y",
        f"{bucket}/a/x",
    ]
    assert fs.glob(f"{bucket}/a/**/z") == [f"{bucket}/a/b/c/z"]
    assert fs.du(f"{bucket}/a") == 0
    assert [len(files) for _, _, files in fs.walk(f"{bucket}/a")] == [1, 1, 1]


def test_a_role_that_may_not_ask_about_the_bucket(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    """PAI's own role may get, list, put and delete, and abort uploads."""
    server.set(deny_bucket_info=True, deny_list_parts=True)
    path = f"{bucket}/d/x"
    assert not fs.exists(path)
    with fs.open(path, "wb", block_size=BLOCK) as stream:
        stream.write(content(3 * BLOCK))
    assert fs.exists(path)
    assert fs.exists(bucket)
    fs.mv(path, f"{bucket}/e/x")
    assert fs.find(bucket) == [f"{bucket}/e/x"]
    with pytest.raises(RuntimeError):
        write_and_fail(fs.open(path, "wb", block_size=BLOCK), content(3 * BLOCK), RuntimeError())
    assert server.uploads(bucket) == []


def test_buckets(fs: OSSFileSystem, bucket: str) -> None:
    assert bucket in fs.ls("", detail=False)
    assert fs.info("")["type"] == "directory"
    assert not fs.exists("no-such-bucket-at-all")
    assert not fs.exists("No Name/x")
    with pytest.raises(FileNotFoundError, match="no bucket `no-such-bucket-at-all`"):
        fs.cat_file("no-such-bucket-at-all/x")
    with pytest.raises(FileNotFoundError, match=f"{bucket}/x: there is no such object"):
        fs.cat_file(f"{bucket}/x")


# ====== Reading ======


@pytest.mark.parametrize("end", [None, 0, 1, 10, 99, 100, 101, 5000, -1, -10, -100, -101])
@pytest.mark.parametrize("start", [None, 0, 1, 10, 99, 100, 101, 5000, -1, -10, -100, -101])
def test_ranges_are_those_of_python(
    fs: OSSFileSystem, hundred: str, start: int | None, end: int | None
) -> None:
    assert fs.cat_file(hundred, start, end) == content(100)[start:end]


@pytest.fixture(scope="module")
def hundred(oss_server: OSSServer) -> str:
    """An object of a hundred bytes."""
    oss_server.make_bucket("hundred")
    options = {"endpoint": oss_server.url, "key": KEY_ID, "secret": SECRET}
    OSSFileSystem(**options).pipe_file("hundred/x", content(100))
    return "hundred/x"


def test_a_server_that_knows_no_ranges(fs: OSSFileSystem, server: OSSServer, hundred: str) -> None:
    server.set(ignore_ranges=True)
    assert fs.cat_file(hundred, 10, 20) == content(100)[10:20]


def test_ranges_of_an_empty_file(fs: OSSFileSystem, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/x", b"")
    for start, end in ((0, None), (0, 10), (5, 10), (-5, None), (None, -1)):
        assert fs.cat_file(f"{bucket}/x", start, end) == b""
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{bucket}/missing", 5, 5)


def test_many_ranges_at_once(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/x", content(1000))
    starts = list(range(0, 1000, 100))
    with server.counted() as counts:
        read = fs.cat_ranges([f"{bucket}/x"] * 10, starts, [start + 50 for start in starts])
    assert counts == {"GET": 10}
    assert read == [content(1000)[start : start + 50] for start in starts]
    mixed = fs.cat_ranges([f"{bucket}/x", f"{bucket}/missing"], 0, 5)
    assert mixed[0] == content(1000)[:5]
    assert isinstance(mixed[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([f"{bucket}/missing"], 0, 5, on_error="raise")


@pytest.mark.parametrize(
    "cache", ["readahead", "blockcache", "background", "none", "bytes", "all", "first"]
)
def test_every_cache_reads_right(fs: OSSFileSystem, bucket: str, cache: str) -> None:
    data = content(10 * KB)
    fs.pipe_file(f"{bucket}/x", data)
    chance = random.Random(1)
    with fs.open(f"{bucket}/x", cache_type=cache, block_size=KB) as stream:
        for _ in range(60):
            start, count = chance.randrange(11 * KB), chance.randrange(3 * KB)
            stream.seek(start)
            assert stream.read(count) == data[start : start + count]


def test_a_file_that_changes_while_it_is_read(fs: OSSFileSystem, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/x", content(10 * KB))
    with fs.open(f"{bucket}/x", cache_type="none") as stream:
        assert stream.read(KB) == content(KB)
        fs.pipe_file(f"{bucket}/x", content(10 * KB, seed=1))
        with pytest.raises(OSError, match="changed meanwhile") as caught:
            stream.read(KB)
    assert caught.value.errno == errno.ESTALE


def test_a_directory_is_not_opened(fs: OSSFileSystem, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/d/x", b"")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{bucket}/d")
    with pytest.raises(IsADirectoryError):
        fs.open(bucket, "wb")
    with pytest.raises(IsADirectoryError):
        fs.modified(f"{bucket}/d")


@pytest.mark.slow
def test_a_body_that_ends_early_is_read_again(
    fs: OSSFileSystem, server: OSSServer, bucket: str
) -> None:
    fs.pipe_file(f"{bucket}/x", content(100 * KB))
    server.set(truncate=2)
    assert fs.cat_file(f"{bucket}/x") == content(100 * KB)
    server.set(truncate=100)
    with pytest.raises(ConnectionError) as caught:
        fs.cat_file(f"{bucket}/x", 10, 90 * KB)
    assert failure_of(caught.value) is Failure.UNAVAILABLE


@pytest.mark.slow
def test_damage_is_seen(fs: OSSFileSystem, server: OSSServer, bucket: str, tmp_path: Path) -> None:
    path = f"{bucket}/x"
    server.set(corrupt_writes=1)
    fs.pipe_file(path, content(KB))  # and mended
    server.set(corrupt_reads=1)
    assert fs.cat_file(path) == content(KB)
    server.set(corrupt_reads=100)
    with pytest.raises(OSError, match="damaged on its way: the CRC64 is") as caught:
        fs.cat_file(path)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="damaged"):
        fs.get_file(path, str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
    server.set(corrupt_reads=0, corrupt_writes=100)
    with pytest.raises(OSError, match="damaged"):
        fs.pipe_file(path, content(KB))
    with pytest.raises(OSError, match="damaged"), fs.open(path, "wb", block_size=BLOCK) as stream:
        stream.write(content(3 * BLOCK))
    assert server.uploads(bucket) == []


def test_signed_addresses(server: OSSServer, bucket: str) -> None:
    for region in (None, "cn-hangzhou"):
        fs = OSSFileSystem(endpoint=server.url, key=KEY_ID, secret=SECRET, region=region)
        fs.pipe_file(f"{bucket}/d/a b", b"content")
        with urlopen(fs.sign(f"{bucket}/d/a b", 60)) as answer:
            assert answer.read() == b"content"
