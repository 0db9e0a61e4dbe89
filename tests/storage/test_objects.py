"""The bytes of objects, on every kind of store, and behind a proxy that fails."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy, fault_proxy
from moto_server import S3Server
from oss_server import OSSServer
from support import fork

from pai_runner.errors import SetupError
from pai_runner.storage.objects import Objects, mapped, open_objects, part_size
from pai_runner.storage.uploads import upload_file

MIB = 1024 * 1024
UGLY = "a b/ü 中文?x=1&y#%41'\"+~/file"

_numbers = itertools.count(1)


@dataclass
class Shelf:
    """A bucket of its own, reached directly and through the proxy."""

    kind: str
    server: Any
    proxy: FaultProxy
    bucket: str

    @property
    def objects(self) -> Objects:
        return open_objects(self.kind, self.server.options)

    @property
    def far_objects(self) -> Objects:
        return open_objects(self.kind, self.proxy.options(self.server.options))

    def path(self, key: str) -> str:
        return f"{self.bucket}/{key}"

    def fail(self, *faults: Fault) -> int:
        """Set the proxy's faults; return how many requests it has seen."""
        self.proxy.set(*faults)
        return len(self.proxy.requests())

    def since(self, count: int) -> list[str]:
        """Return the requests since, `METHOD fault`."""
        found = self.proxy.requests()[count:]
        return [f"{one.method} {one.fault}".strip() for one in found]


@pytest.fixture(scope="module")
def proxies(
    s3_server: S3Server, oss_server: OSSServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, FaultProxy]]:
    folder = tmp_path_factory.mktemp("proxies")
    with (
        fault_proxy(s3_server.url, folder / "s3") as s3,
        fault_proxy(oss_server.url, folder / "oss") as oss,
    ):
        yield {"s3": s3, "oss": oss}


@pytest.fixture(params=["s3", "oss"])
def shelf(
    request: pytest.FixtureRequest,
    proxies: dict[str, FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shelf]:
    monkeypatch.setenv("PAI_ALLOWED_HOSTS", "http://127.0.0.1")
    monkeypatch.setenv("PAI_RETRY_SECONDS", "1")
    kind = request.param
    server = request.getfixturevalue(f"{kind}_server")
    bucket = server.make_bucket(f"objects-{next(_numbers)}")
    yield Shelf(kind, server, proxies[kind], bucket)
    proxies[kind].mend()


def read(objects: Objects, path: str, start: int, count: int, etag: str | None = None) -> bytes:
    into = bytearray(count)
    got, _ = objects.read_into(path, start, memoryview(into), etag)
    return bytes(into[:got])


# ====== Reading and writing ======


@pytest.mark.parametrize("key", ["x", UGLY, "a//b/../c", "dir/"])
def test_what_is_put_is_read(shelf: Shelf, key: str) -> None:
    objects, path, data = shelf.objects, shelf.path(key), os.urandom(300_001)
    etag = objects.put(path, data)
    into = bytearray(400_000)
    count, described = objects.read_into(path, 0, memoryview(into))
    assert into[:count] == data
    assert (described.size, described.etag) == (len(data), etag)
    assert described.modified_ns > 1.7e18
    assert objects.describe(path) == described
    assert read(objects, path, 100, 50) == data[100:150]
    assert read(objects, path, len(data) - 3, 50) == data[-3:]
    assert read(objects, path, len(data), 50) == b""
    assert read(objects, path, len(data) + 9, 50) == b""
    assert objects.read_into(path, 5, memoryview(bytearray()))[1] == described


def test_an_empty_object(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    shelf.objects.put(shelf.path("empty"), b"")
    assert read(shelf.objects, shelf.path("empty"), 0, 10) == b""
    upload_file(shelf.objects, shelf.path("other"), str(tmp_path / "empty"), 0)
    assert shelf.objects.describe(shelf.path("other")).size == 0


def test_what_is_missing(shelf: Shelf) -> None:
    for path in (shelf.path("nothing"), "no-such-bucket-at-all/x"):
        with pytest.raises(FileNotFoundError):
            read(shelf.objects, path, 0, 10)
        with pytest.raises(FileNotFoundError):
            shelf.objects.describe(path)
    with pytest.raises(FileNotFoundError, match="there is no bucket `no-such-bucket-at-all`"):
        shelf.objects.put("no-such-bucket-at-all/x", b"")


def test_directories(shelf: Shelf) -> None:
    shelf.objects.put(shelf.path("a/b c/d"), b"x")
    assert shelf.objects.has_below(shelf.path("a"))
    assert shelf.objects.has_below(shelf.path("a/b c"))
    assert not shelf.objects.has_below(shelf.path("a/b"))


def test_a_range_of_another_version_is_refused(shelf: Shelf) -> None:
    objects, path = shelf.objects, shelf.path("x")
    etag = objects.put(path, b"one")
    objects.put(path, b"two")
    with pytest.raises(OSError, match="it was changed meanwhile") as caught:
        read(objects, path, 0, 3, etag)
    assert caught.value.errno == errno.ESTALE


# ====== Parts ======


def test_parts_become_one_object_and_another_process_may_go_on(shelf: Shelf) -> None:
    objects, path = shelf.objects, shelf.path(UGLY)
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 1), b"end"]
    begun = objects.upload(path)
    begun.send(3, memoryview(parts[2]))
    begun.send(1, parts[0])
    upload = open_objects(shelf.kind, shelf.server.options).resume(path, begun.id, begun.parts)
    upload.send(2, bytearray(parts[1]))
    with pytest.raises(FileNotFoundError):
        objects.describe(path)
    etag = upload.complete()
    assert objects.describe(path).etag == etag
    assert read(objects, path, 0, 20 * MIB) == b"".join(parts)


def test_an_upload_that_is_given_up_leaves_nothing(shelf: Shelf) -> None:
    upload = shelf.objects.upload(shelf.path("x"))
    upload.send(1, b"x")
    upload.abort()
    upload.abort()
    with pytest.raises(OSError):
        upload.send(2, b"y")
    with pytest.raises(FileNotFoundError):
        shelf.objects.describe(shelf.path("x"))


def test_large_files_go_in_parts_and_small_ones_in_one_request(
    shelf: Shelf, tmp_path: Path
) -> None:
    for size in (1, 16 * MIB - 1, 16 * MIB + 7):
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data + b"what comes later is not sent")
        sent: list[int] = []
        with shelf.server.counted() as counts:
            upload_file(
                shelf.objects, shelf.path("x"), str(tmp_path / "file"), size, sent=sent.append
            )
        assert read(shelf.objects, shelf.path("x"), 0, size + 1) == data
        assert sum(sent) == size
        assert counts["PUT"] == (1 if size < 16 * MIB else -(-size // (8 * MIB)))


def test_parts_suffice_for_any_size() -> None:
    for size in (0, 10, 80 * 10**9, 5 * 10**12):
        part = part_size(size)
        assert part >= 8 * MIB
        assert part * 10_000 >= size
        assert part % 4096 == 0


def test_a_piece_of_a_local_file_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 64)
    with mapped(str(tmp_path / "file"), 4096, 10) as view:
        assert bytes(view) == bytes(range(10))
    with mapped(str(tmp_path / "file"), 16384) as view:
        assert bytes(view) == b""


# ====== Failures ======


def test_a_read_that_breaks_goes_on_where_it_stopped(shelf: Shelf) -> None:
    data = os.urandom(6 * MIB)
    shelf.objects.put(shelf.path("x"), data)
    before = shelf.fail(Fault("cut_answer", methods=("GET",), count=2))
    assert read(shelf.far_objects, shelf.path("x"), 0, len(data)) == data
    assert shelf.since(before) == ["GET cut_answer", "GET cut_answer", "GET"]


@pytest.mark.parametrize("kind", ["500", "503", "429", "lose", "refuse", "cut_request"])
def test_what_may_succeed_later_is_repeated(shelf: Shelf, kind: str) -> None:
    fault = Fault(kind, count=1, methods=("PUT",))
    before = shelf.fail(fault)
    shelf.far_objects.put(shelf.path("x"), b"content")
    assert shelf.since(before) == [f"PUT {kind}", "PUT"]
    upload = shelf.far_objects.upload(shelf.path("y"))
    shelf.fail(fault)
    upload.send(1, b"part")
    upload.complete()
    assert read(shelf.objects, shelf.path("x"), 0, 10) == b"content"
    assert read(shelf.objects, shelf.path("y"), 0, 10) == b"part"


def test_answers_that_are_lost_are_found_out(shelf: Shelf) -> None:
    shelf.fail(Fault("lose", count=1, methods=("PUT",)))
    shelf.far_objects.put(shelf.path("x"), b"content")
    upload = shelf.far_objects.upload(shelf.path("y"))
    upload.send(1, b"part")
    shelf.fail(Fault("lose", count=1, methods=("POST",)))
    etag = upload.complete()
    assert shelf.objects.describe(shelf.path("y")).etag == etag
    shelf.fail(Fault("lose", count=1, methods=("POST",)))
    begun = shelf.far_objects.upload(shelf.path("z"))
    shelf.fail(Fault("lose", count=1, methods=("DELETE",)))
    begun.abort()


def test_a_server_that_fails_for_good_says_what_was_tried(shelf: Shelf) -> None:
    before = shelf.fail(Fault("500"))
    with pytest.raises(OSError, match=r"/x: 500 InternalError .*\(3 attempts in \d+ s\)"):
        shelf.far_objects.put(shelf.path("x"), b"")
    assert shelf.since(before) == ["PUT 500"] * 3
    before = shelf.fail(Fault("503"))
    with pytest.raises(OSError, match=r"/x: 503 SlowDown .* attempts in \d+ s\)") as caught:
        shelf.far_objects.put(shelf.path("x"), b"")
    assert caught.value.errno == errno.EBUSY
    assert len(shelf.since(before)) >= 3
    shelf.fail(Fault("lose"))
    with pytest.raises(ConnectionError, match=r"does not answer: .*\(3 attempts in"):
        read(shelf.far_objects, shelf.path("x"), 0, 1)


def test_what_is_closed_fails_soon(shelf: Shelf) -> None:
    shelf.objects.put(shelf.path("x"), b"x")
    objects = shelf.far_objects
    shelf.fail(Fault("503"))
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            read(objects, shelf.path("x"), 0, 1)
        except OSError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    objects.close()
    asking.join(10)
    assert failed


def test_a_forked_child_opens_its_own(shelf: Shelf) -> None:
    shelf.objects.put(shelf.path("x"), b"content")
    read(shelf.objects, shelf.path("x"), 0, 7)
    child = fork()
    if child == 0:
        assert read(shelf.objects, shelf.path("x"), 0, 7) == b"content"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionError, match="no credentials for S3: Unable to locate"):
        read(open_objects("s3", {"region": "eu-west-1"}), "bucket/key", 0, 1)


# ====== Others ======


def test_a_filesystem_without_parts(tmp_path: Path) -> None:
    objects = open_objects("memory", {})
    assert not objects.has_parts
    objects.put("/plain/x", b"content")
    assert read(objects, "/plain/x", 3, 50) == b"tent"
    assert objects.has_below("/plain")
    with pytest.raises(NotImplementedError):
        objects.upload("/plain/y")
    (tmp_path / "large").write_bytes(b"x" * 17 * MIB)
    upload_file(objects, "/plain/large", str(tmp_path / "large"), 17 * MIB)
    assert objects.describe("/plain/large").size == 17 * MIB


def test_a_busy_server_is_asked_for_as_long_as_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from pai_runner.storage.attempts import retry_seconds

    assert retry_seconds() == 60
    monkeypatch.setenv("PAI_RETRY_SECONDS", "long")
    with pytest.raises(SetupError, match="PAI_RETRY_SECONDS=long is not a number"):
        retry_seconds()
