"""An object server for benchmarks: S3 and OSS on loopback, with objects in memory.

    python scripts/bench/object_server.py [--latency-ms 20] [--connection-mb 80]

It serves one set of buckets on two free ports of 127.0.0.1 and prints them: on the first as fast as
it can, on the second each answer waits, and each connection is paced in both directions. Paths
below /_admin are its own. It ends when its standard input does. As a module it has
`object_server`, which starts the program.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

REGION = "us-east-1"
KEY_ID, SECRET = "bench-key-id", "bench-secret-value"

# How much goes at once where a connection is paced: 3 ms at 80 MB/s.
_PIECE = 256 * 1024
# For the server's process, see mallopt(3): what held one client's objects holds the next one's.
# Pages that are new to a virtual machine would cost more than all else that the server does.
_KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
# Answers up to this size are sent with their head, in one packet.
_SMALL = 256 * 1024


@dataclass(frozen=True)
class Pace:
    """What a port does to its clients: `latency` in seconds, `rate` in bytes/s (0: no limit)."""

    latency: float = 0.0
    rate: float = 0.0


# ====== The client's side ======


class ObjectServer:
    """A running server, from this process or another. Its paces are fast and latency."""

    def __init__(self, fast: int, latency: int) -> None:
        self.ports = {"fast": fast, "latency": latency}

    def url(self, pace: str = "fast") -> str:
        return f"http://127.0.0.1:{self.ports[pace]}"

    def options(self, protocol: str, pace: str = "fast") -> dict[str, str]:
        """Return the options of a location that reaches the server."""
        if protocol == "oss":
            keys = {"access_key_id": KEY_ID, "access_key_secret": SECRET}
            return {"host": self.url(pace), **keys}
        keys = {"key": KEY_ID, "secret": SECRET}
        return {"endpoint_url": self.url(pace), "region": REGION, **keys}

    def make_bucket(self, name: str) -> None:
        self._request("PUT", f"/{name}")

    def put(self, bucket: str, key: str, path: str) -> None:
        """Put a local file, whatever its size, into a bucket."""
        with open(path, "rb") as file:
            self._request("PUT", f"/{bucket}/{quote(key)}", file, os.path.getsize(path))

    def delete(self, bucket: str, prefix: str) -> None:
        """Remove all objects whose keys begin with `prefix`."""
        self._request("POST", f"/_admin/delete/{bucket}/{quote(prefix)}")

    def digests(self, bucket: str, prefix: str) -> dict[str, str]:
        """Return the SHA-256 of each object whose key begins with `prefix`, by its key."""
        found: dict[str, str] = self._request("GET", f"/_admin/digests/{bucket}/{quote(prefix)}")
        return found

    def reset(self) -> None:
        """Forget the counts."""
        self._request("POST", "/_admin/reset")

    def counts(self) -> tuple[dict[str, int], int]:
        """Return requests by method since the last reset, and how many were answered at once."""
        found = self._request("GET", "/_admin/counts")
        return found["requests"], found["at_once"]

    def _request(self, method: str, path: str, body: Any = None, size: int = 0) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["fast"], blocksize=1 << 20)
        try:
            connection.request(method, path, body, {"Content-Length": str(size)})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
            return json.loads(content) if path.startswith("/_admin") else None
        finally:
            connection.close()


@contextmanager
def object_server(latency_ms: float = 20, connection_mb: float = 80) -> Iterator[ObjectServer]:
    """Run a server; `connection_mb` is in MB/s (10^6) of one connection."""
    command = [sys.executable, __file__]
    command += ["--latency-ms", str(latency_ms), "--connection-mb", str(connection_mb)]
    process = subprocess.Popen(
        command,
        env={**os.environ, **_KEEPS_MEMORY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        fast, latency = process.stdout.readline().split()
        yield ObjectServer(int(fast), int(latency))
    finally:
        process.kill()
        process.communicate()


# ====== The program ======


class _Counts:
    """Requests by method, and how many were under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.requests: Counter[str] = Counter()
        self._under_way = 0
        self.at_once = 0

    @contextmanager
    def request(self, method: str) -> Iterator[None]:
        with self._lock:
            self.requests[method] += 1
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1


class _Connection:
    """A client's connection: HTTP/1.1 with Content-Length, nothing else."""

    def __init__(self, connection: socket.socket, pace: Pace, server: _Server) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._pace = pace
        self._server = server
        self._read = b""

    def serve(self) -> None:
        """Answer requests until the client hangs up."""
        try:
            while head := self._head():
                self._serve_one(head)
        except (ConnectionError, EOFError):
            pass  # a client may go whenever it likes
        finally:
            self._socket.close()

    def _serve_one(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if "expect" in headers:
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if target.startswith("/_admin"):
            self._body(headers)
            self._send(method, self._server.administer(target))
            return
        with self._server.counts.request(method):
            body = self._body(headers)
            answer = self._server.answer(method, target, headers, body)
            if self._pace.latency:
                time.sleep(self._pace.latency)
            self._send(method, answer)

    def _head(self) -> bytes:
        """Return the next request up to its empty line, or nothing at the end."""
        while b"\r\n\r\n" not in self._read:
            data = self._socket.recv(65536)
            if not data:
                return b""
            self._read += data
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        return head

    def _body(self, headers: Mapping[str, str]) -> memoryview:
        if "transfer-encoding" in headers or "aws-chunked" in headers.get("content-encoding", ""):
            raise ConnectionError("bodies in chunks are not read")
        body = memoryview(bytearray(int(headers.get("content-length") or 0)))
        done = min(len(self._read), len(body))
        body[:done] = self._read[:done]
        self._read = self._read[done:]
        due = time.perf_counter()
        step = _PIECE if self._pace.rate else max(len(body), 1)
        for start in range(done, len(body), step):
            piece = body[start : start + step]
            self._receive(piece)
            due = self._wait(due, len(piece))
        return body

    def _receive(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if count == 0:
                raise EOFError("the client hung up")
            view = view[count:]

    def _send(self, method: str, answer: Any) -> None:
        size = sum(len(piece) for piece in answer.body)
        length = size if answer.length is None else answer.length
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        told = {"Content-Length": str(length), "x-oss-request-id": "BENCH", **answer.headers}
        body = answer.body
        if answer.status in (204, 304):
            del told["Content-Length"]
            body = []
        elif method == "HEAD":
            body = []
        lines += [f"{name}: {value}" for name, value in told.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if size <= _SMALL and not self._pace.rate:
            self._socket.sendall(head + b"".join(body))
            return
        self._socket.sendall(head)
        due = time.perf_counter()
        for view in body:
            step = _PIECE if self._pace.rate else max(len(view), 1)
            for start in range(0, len(view), step):
                piece = view[start : start + step]
                due = self._wait(due, len(piece))
                self._socket.sendall(piece)

    def _wait(self, due: float, size: int) -> float:
        """Wait until `size` more bytes may have passed; return when that is.

        A wait that lasted too long is made up for, a client that was slow is not.
        """
        if not self._pace.rate:
            return due
        now = time.perf_counter()
        due = max(due, now - _PIECE / self._pace.rate) + size / self._pace.rate
        if due > now:
            time.sleep(due - now)
        return due


class _Server:
    """The service, its counts, and what /_admin does."""

    def __init__(self) -> None:
        from object_service import Service

        self.counts = _Counts()
        self._service = Service()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: memoryview) -> Any:
        from object_forms import Request

        path, _, query = target.partition("?")
        bucket, _, key = path.removeprefix("/").partition("/")
        pairs = dict(parse_qsl(query, keep_blank_values=True))
        return self._service.answer(
            Request(method, unquote(bucket), unquote(key), pairs, headers, body)
        )

    def administer(self, target: str) -> Any:
        from object_forms import Answer

        _, _, action, *rest = unquote(target).split("/", 4)
        if action == "reset":
            self.counts.reset()
        objects = self._service.objects(*rest) if rest else {}
        if action == "delete":
            self._service.remove(rest[0], objects)
        found: Any = {}
        if action == "counts":
            found = {"requests": self.counts.requests, "at_once": self.counts.at_once}
        elif action == "digests":
            found = {key: _digest(one.pieces) for key, one in objects.items()}
        return Answer(200, body=[memoryview(json.dumps(found).encode())])

    def listen(self, pace: Pace) -> int:
        """Serve on a free port; return it."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        threading.Thread(target=self._accept, args=(listener, pace), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket, pace: Pace) -> None:
        while True:
            connection, _ = listener.accept()
            serve = _Connection(connection, pace, self).serve
            threading.Thread(target=serve, daemon=True).start()


def _digest(pieces: Iterable[Any]) -> str:
    digest = sha256()
    for piece in pieces:
        digest.update(piece.view)
    return digest.hexdigest()


def main() -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--connection-mb", type=float, default=80)
    options = parser.parse_args()
    server = _Server()
    pace = Pace(options.latency_ms / 1000, options.connection_mb * 1e6)
    print(server.listen(Pace()), server.listen(pace), flush=True)
    sys.stdin.read()  # it ends with its parent
    return 0


if __name__ == "__main__":
    sys.exit(main())
