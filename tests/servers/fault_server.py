"""An S3 server of a few objects that fails as it is told.

It knows HEAD, GET with a range, PUT, DELETE and an empty list. It repeats the caller's key in its
refusals, as careless servers do.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

CREDENTIALS = {"key": "faulty-key-id", "secret": "faulty-secret-value"}


@dataclass
class Faults:
    """`refused` methods get 403, `broken` ones 500; the next `cut_reads` reads end where half of
    the object ends.

    A request waits for `answering`; `requests` are those that came, `METHOD path`.
    """

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    cut_reads: int = 0
    answering: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, str]:
        """The options of an s3 location that reaches this server."""
        return {"endpoint_url": f"http://127.0.0.1:{self.port}", "region": "r", **CREDENTIALS}

    def mend(self) -> None:
        """Answer as a server should again."""
        self.refused, self.broken, self.cut_reads = set(), set(), 0
        self.answering.set()


@contextmanager
def fault_server() -> Iterator[Faults]:
    """Run a server on a free port of 127.0.0.1, in threads of this process."""
    faults = Faults()
    faults.mend()
    handler = type("Handler", (_Handler,), {"faults": faults})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    faults.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield faults
    finally:
        faults.answering.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    faults: Faults
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        address = urlsplit(self.path)
        path = unquote(address.path)
        faults = self.faults
        faults.requests.append(f"{self.command} {path}")
        faults.answering.wait()
        if self.command in faults.refused:
            key = CREDENTIALS["key"]
            self._fail(403, "AccessDenied", f"{key} may not do this; secret_key={key}")
        elif self.command in faults.broken:
            self._fail(500, "InternalError", "We encountered an internal error.")
        elif "list-type" in address.query:
            self._answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        elif self.command == "PUT":
            faults.objects[path] = body
            self._answer(200, b"", {"ETag": '"tag"'})
        elif self.command == "DELETE":
            faults.objects.pop(path, None)
            self._answer(204, b"")
        elif path not in faults.objects:
            self._fail(404, "NoSuchKey", "The specified key does not exist.")
        else:
            self._answer_object(faults.objects[path])

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _serve

    def _answer_object(self, content: bytes) -> None:
        headers = {"ETag": f'"{md5(content).hexdigest()}"'}
        if self.headers.get("If-Match") not in (None, headers["ETag"]):
            self._fail(412, "PreconditionFailed", "At least one of the conditions did not hold.")
            return
        start, end = 0, len(content)
        span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is not None:
            start, end = int(span[1]), min(int(span[2]) + 1 if span[2] else end, end)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            if start >= len(content):
                self._fail(416, "InvalidRange", "The requested range cannot be satisfied.")
                return
        half = None
        if self.command == "GET" and self.faults.cut_reads > 0:
            self.faults.cut_reads -= 1
            half = max(0, len(content) // 2 - start)
        self._answer(206 if span else 200, content[start:end], headers, half)

    def _fail(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut_at: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut_at])
        self.close_connection = cut_at is not None
