"""A real S3 server (moto) in a process of its own, which notes every request.

As a program it serves on a free port of 127.0.0.1, prints the port, and writes one line for each
request, `METHOD path?query`, to the file that it is given. As a module it has `S3Server`, which
starts the program and reads its notes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

REGION = "us-east-1"
CREDENTIALS = {"key": "testing-key-id", "secret": "testing-secret-value"}


class S3Server:
    """A running server. `options` are those of an s3 location that reaches it."""

    def __init__(self, process: subprocess.Popen[str], port: int, notes: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.options = {"endpoint_url": self.url, "region": REGION, **CREDENTIALS}
        self._notes = notes

    def client(self) -> Any:
        """Return a boto3 client, a way to the server that shares nothing with s3fs."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["key"],
            aws_secret_access_key=CREDENTIALS["secret"],
        )

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the keys of a bucket and their sizes."""
        pages = (
            self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        )
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def read(self, bucket: str, key: str) -> bytes:
        body: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def requests(self) -> list[str]:
        """Return all requests so far, `METHOD path?query` with the path unquoted."""
        return self._notes.read_text(encoding="utf-8").splitlines()

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Yield a counter that holds, afterwards, the requests made meanwhile by method.

        Deletes of many keys at once, which are a POST, count as DELETE.
        """
        before = len(self.requests())
        counts: Counter[str] = Counter()
        yield counts
        for line in self.requests()[before:]:
            method, _, path = line.partition(" ")
            counts["DELETE" if path.endswith("?delete") else method] += 1


@contextmanager
def s3_server(notes: Path) -> Iterator[S3Server]:
    """Run a server that writes its notes to the file `notes`."""
    notes.touch()
    process = subprocess.Popen(
        [sys.executable, __file__, str(notes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip(), "the S3 server did not start"
        yield S3Server(process, int(line), notes)
    finally:
        process.terminate()
        process.wait()


def _serve(notes: Path) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class KeepAlive(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    application = _noting(_atomic(DomainDispatcherApplication(create_backend_app)), notes)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=KeepAlive)
    print(server.server_port, flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _atomic(application: _Application) -> _Application:
    """Have writes under a condition done one after the other.

    moto looks whether the condition holds and then writes; another thread may write between.
    """
    lock = threading.Lock()

    def atomic(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & environment.keys():
            return application(environment, start_response)
        if environment["REQUEST_METHOD"] not in ("PUT", "POST"):
            return application(environment, start_response)
        with lock:
            return application(environment, start_response)

    return atomic


def _noting(application: _Application, notes: Path) -> _Application:
    lock = threading.Lock()
    stream = notes.open("a", encoding="utf-8")

    def noting(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        query = environment.get("QUERY_STRING", "")
        path = unquote(environment.get("RAW_URI", environment["PATH_INFO"]).split("?")[0])
        with lock:
            method = environment["REQUEST_METHOD"]
            stream.write(f"{method} {path}{'?' if query else ''}{query}\n")
            stream.flush()
        return application(environment, start_response)

    return noting


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
