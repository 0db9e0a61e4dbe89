"""Filesystems behind a proxy that fails: right bytes or an error, within a bound, never others.

The first half holds the proxy itself to what it promises, with clients that share nothing with
the filesystems. The faults come from seeded generators; PAI_PROOF_COUNT says how many sequences.
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from fault_proxy import Fault, FaultProxy, fault_proxy
from moto_server import S3Server
from oss_server import OSSServer

from pai_runner.storage.filesystems import filesystem

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def s3_proxy(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    notes = tmp_path_factory.mktemp("proxy") / "notes"
    with fault_proxy(s3_server.url, notes) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def oss_proxy(
    oss_server: OSSServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultProxy]:
    notes = tmp_path_factory.mktemp("proxy") / "notes"
    with fault_proxy(oss_server.url, notes) as proxy:
        yield proxy


# ====== The proxy ======


@pytest.fixture
def path(s3_server: S3Server, s3_proxy: FaultProxy) -> Iterator[str]:
    """An object of 100,000 bytes, which anybody may read."""
    bucket = s3_server.make_bucket(f"proxied-{next(_numbers)}")
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="key", Body=b"x" * 100_000, ACL="public-read-write")
    yield f"/{bucket}/key"
    s3_proxy.mend()


def ask(proxy: FaultProxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Make one request on a connection of its own; return the status and the body."""
    address = urlsplit(proxy.url).netloc
    with closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_what_is_not_hit_passes_as_it_is(s3_proxy: FaultProxy, path: str) -> None:
    assert ask(s3_proxy, "GET", path) == (200, b"x" * 100_000)
    assert ask(s3_proxy, "HEAD", path) == (200, b"")
    s3_proxy.set(Fault("500", methods=("PUT",)), Fault("500", path="/elsewhere"))
    assert ask(s3_proxy, "GET", path)[0] == 200
    assert [one.fault for one in s3_proxy.requests()[-3:]] == ["", "", ""]


def test_signatures_stay_right(oss_server: OSSServer, oss_proxy: FaultProxy) -> None:
    import oss2

    bucket = oss_server.make_bucket(f"proxied-{next(_numbers)}")
    name, secret = (oss_server.options[one] for one in ("access_key_id", "access_key_secret"))
    for auth in (oss2.Auth(name, secret), oss2.AuthV4(name, secret)):
        client = oss2.Bucket(auth, oss_proxy.url, bucket, region="cn-hangzhou")
        client.put_object("a//b c/模", b"content")
        assert client.get_object("a//b c/模").read() == b"content"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_statuses_have_the_words_of_a_store(s3_proxy: FaultProxy, path: str, status: int) -> None:
    s3_proxy.set(Fault(str(status), count=2, skip=1))
    assert ask(s3_proxy, "GET", path)[0] == 200
    answered, body = ask(s3_proxy, "GET", path)
    assert answered == status
    assert b"<Error><Code>" in body
    assert ask(s3_proxy, "HEAD", path) == (status, b"")
    assert ask(s3_proxy, "GET", path)[0] == 200


def test_what_is_cut_was_done_or_not(s3_server: S3Server, s3_proxy: FaultProxy, path: str) -> None:
    bucket = path.split("/")[1]
    for kind, is_done in (("cut_request", False), ("lose", True), ("cut_answer", True)):
        s3_proxy.set(Fault(kind))
        target = f"/{bucket}/{kind}"
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(s3_proxy, "PUT", target, b"y" * 1_000_000)
        assert (kind in s3_server.keys(bucket)) is is_done
    s3_proxy.set(Fault("cut_answer"))
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        ask(s3_proxy, "GET", path)


def test_nobody_listens_for_a_while(s3_proxy: FaultProxy, path: str) -> None:
    s3_proxy.set(Fault("refuse", count=1, seconds=1.0))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(s3_proxy, "GET", path)
    with pytest.raises(ConnectionRefusedError):
        ask(s3_proxy, "GET", path)
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(s3_proxy, "GET", path)[0] == 200
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "it listens no more"


@pytest.mark.parametrize("kind", ["stall", "stall_answer"])
def test_a_stall_lasts_until_the_client_goes(s3_proxy: FaultProxy, path: str, kind: str) -> None:
    s3_proxy.set(Fault(kind, seconds=60))
    with socket.create_connection(("127.0.0.1", urlsplit(s3_proxy.url).port or 0)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.settimeout(0.3)
        answer = client.makefile("rb")
        with pytest.raises(TimeoutError):
            answer.read()
    s3_proxy.mend()
    assert ask(s3_proxy, "GET", path)[0] == 200


def test_faults_hold_for_their_time(s3_proxy: FaultProxy, path: str) -> None:
    s3_proxy.set(Fault("500", until=0.0), Fault("503", since=1000.0), Fault("delay", seconds=0.3))
    began = time.monotonic()
    assert ask(s3_proxy, "GET", path)[0] == 200
    assert time.monotonic() - began > 0.25
    assert s3_proxy.requests()[-1].fault == "delay"


# ====== The filesystems ======

COUNT = int(os.environ.get("PAI_PROOF_COUNT", "2"))
STEPS = 25
SIZES = (0, 1, 1000, 300_000, 300_000, 9_000_000)

# A stall costs a client's whole timeout: one in ten sequences has one.
BRIEF = ("refuse", "cut_request", "cut_answer", "lose", "delay", "500", "503", "429")


class Unsure:
    """What the objects below `folder` may hold: more than one content after a write that failed.

    None stands for no object. `fs` reaches them through a proxy.
    """

    def __init__(self, fs: Any, folder: str, chance: random.Random, scratch: str) -> None:
        self.fs, self.folder, self.chance, self.scratch = fs, folder, chance, scratch
        self.contents: dict[str, set[bytes | None]] = {}
        self.failures = 0

    def step(self) -> None:
        """Do one thing with one object; a failure is an exception that comes in time."""
        name = f"{self.folder}/{self.chance.choice(('a', 'b c', 'd/模?#%'))}"
        steps = (self.read, self.read, self.read_range, self.write, self.upload, self.copy)
        began = time.monotonic()
        try:
            self.chance.choice((*steps, self.download, self.delete, self.list))(name)
        except AssertionError:
            raise
        except Exception:  # of whatever library
            self.failures += 1
        assert time.monotonic() - began < 120, "it should have given up"

    def known(self, name: str) -> set[bytes | None]:
        return self.contents.setdefault(name, {None})

    def change(self, name: str, after: set[bytes | None], action: Callable[[], Any]) -> None:
        """Do what leaves one of `after` at `name`; if it fails, what was there is possible, too."""
        before = self.known(name)
        self.contents[name] = before | after
        action()
        self.contents[name] = after

    # ====== Steps ======

    def read(self, name: str) -> None:
        try:
            assert self.fs.cat_file(name) in self.known(name), "these bytes were never written"
        except FileNotFoundError:
            assert None in self.known(name)

    def read_range(self, name: str) -> None:
        start = self.chance.randrange(1_000_000)
        try:
            found = self.fs.cat_file(name, start=start, end=start + 500_000)
        except FileNotFoundError:
            assert None in self.known(name)
            return
        possible = [one[start : start + 500_000] for one in self.known(name) if one is not None]
        assert found in possible, "these bytes were never there"

    def download(self, name: str) -> None:
        try:
            self.fs.get_file(name, self.scratch)
        except FileNotFoundError:
            assert None in self.known(name)
            return
        with open(self.scratch, "rb") as file:
            assert file.read() in self.known(name), "these bytes were never written"

    def list(self, name: str) -> None:
        try:
            found = set(self.fs.find(self.folder))
        except FileNotFoundError:
            found = set()
        assert found >= {name for name, known in self.contents.items() if None not in known}
        assert found <= {name for name, known in self.contents.items() if known != {None}}

    def write(self, name: str) -> None:
        data = self.chance.randbytes(self.chance.choice(SIZES))
        self.change(name, {data}, lambda: self.fs.pipe_file(name, data))

    def upload(self, name: str) -> None:
        data = self.chance.randbytes(self.chance.choice(SIZES))
        with open(self.scratch, "wb") as file:
            file.write(data)
        self.change(name, {data}, lambda: self.fs.put_file(self.scratch, name))

    def copy(self, name: str) -> None:
        source = f"{self.folder}/a"
        if name != source and None not in self.known(source):
            self.change(name, self.known(source), lambda: self.fs.cp_file(source, name))

    def delete(self, name: str) -> None:
        self.change(name, {None}, lambda: self.fs.rm_file(name))


@pytest.mark.slow
@pytest.mark.proof_buckets
@pytest.mark.parametrize("seed", range(max(1, COUNT // 2)))
@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_no_other_bytes_than_were_written(
    kind: str, seed: int, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    server = request.getfixturevalue(f"{kind}_server")
    proxy: FaultProxy = request.getfixturevalue(f"{kind}_proxy")
    chance = random.Random(f"{kind} {seed}")
    bucket = server.make_bucket(f"faulty-{kind}-{seed}")
    fs = filesystem(kind, proxy.options(server.options))
    unsure = Unsure(fs, f"{bucket}/dir", chance, str(tmp_path / "scratch"))
    share = chance.choice((0.05, 0.2, 0.5))
    faults = [Fault(one, share / len(BRIEF), since=chance.uniform(0, 1)) for one in BRIEF]
    if seed % 10 == 9:
        faults.append(Fault(chance.choice(("stall", "stall_answer")), 0.1, count=1, seconds=90))
    proxy.set(*faults)
    for _ in range(STEPS):
        unsure.step()
    proxy.mend()
    there = set(server.keys(bucket))
    for name, known in unsure.contents.items():
        key = name.removeprefix(f"{bucket}/")
        assert (server.read(bucket, key) if key in there else None) in known
    assert there <= {name.removeprefix(f"{bucket}/") for name in unsure.contents}
    unsure.list("")
