"""A server that answers, to each request, exactly the bytes that a test tells it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from queue import SimpleQueue


@dataclass(frozen=True)
class Asked:
    """A request: its first line, as it was sent, and its headers."""

    line: str
    headers: Message


class Telling:
    """`asked` are the requests so far. Those that come together wait for as many as `together`."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self._answers: SimpleQueue[bytes] = SimpleQueue()
        self._together: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, *answers: bytes, together: int = 0) -> None:
        """Give these answers, one a connection; the first `together` when as many have asked."""
        self._together = threading.Barrier(together) if together else None
        for one in answers:
            self._answers.put(one)

    def answer(self, asked: Asked) -> bytes:
        self.asked.append(asked)
        barrier = self._together
        if barrier is not None:
            barrier.wait(10)
            self._together = None
        return self._answers.get(timeout=10)


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer; `_` in the headers' names stands for `-`, and empty ones are left out."""
    told = {"Content_Length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items() if value]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode() + body


@contextmanager
def telling_server() -> Iterator[Telling]:
    """Run a server on a free port of 127.0.0.1, in threads of this process."""
    telling = Telling()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode().strip()
            if not line:
                return
            head = b""
            while (one := self.rfile.readline()) not in (b"\r\n", b""):
                head += one
            headers = BytesParser(policy=HTTP).parsebytes(head)
            self.rfile.read(int(headers.get("Content-Length", 0)))
            self.wfile.write(telling.answer(Asked(line, headers)))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        telling.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield telling
        finally:
            server.shutdown()
