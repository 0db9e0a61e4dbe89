"""A proxy before a storage server, in a process of its own, which fails as it is told.

As a program it takes the port of the server, a seed and a file for its notes. It serves on two
free ports of 127.0.0.1, one for clients and one for control, prints them, and writes one line of
JSON for each request. As a module it has `FaultProxy`, which starts the program, sets its faults
and reads its notes.

A request goes on as it came, Host included, so signatures stay right. A body goes on only when
it came whole: no store acts upon half of one.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

# A status, and the code and message that stores give with it.
STATUSES = {
    "500": ("InternalError", "We encountered an internal error. Please try again."),
    "503": ("SlowDown", "Please reduce your request rate."),
    "429": ("TooManyRequests", "Please reduce your request rate."),
}
KINDS = ("refuse", "stall", "stall_answer", "cut_request", "cut_answer", "lose", "delay", *STATUSES)

# What concerns one connection, and not the request.
_OF_CONNECTION = {"connection", "expect", "keep-alive", "te", "transfer-encoding", "upgrade"}


@dataclass(frozen=True)
class Fault:
    """What happens to a share `rate` of the requests of `methods` (none: all) to paths with `path`.

    refuse        the connection is reset, and for `seconds` nobody listens
    stall         the request is read, and never answered
    stall_answer  half of the answer comes
    cut_request   the connection ends when half of the request's body has come
    cut_answer    the server acts, the connection ends within its answer
    lose          the server acts, the connection ends before its answer
    delay         the answer comes `seconds` later
    500, 503, 429 the answer is this status, and the server does not act

    The first `skip` of these requests pass, and `count` are hit at most. It holds from `since` to
    `until`, seconds after it was set. A stall ends after `seconds`, or when the client goes.
    """

    kind: str
    rate: float = 1.0
    methods: tuple[str, ...] = ()
    path: str = ""
    skip: int = 0
    count: int = 1 << 60
    since: float = 0.0
    until: float = 1e9
    seconds: float = 0.2

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


@dataclass(frozen=True)
class Done:
    """A request that came, `path` quoted and with its query; `fault` is empty if it passed."""

    method: str
    path: str
    fault: str


class FaultProxy:
    """A running proxy before `server`, which is named by its URL."""

    def __init__(self, port: int, control: int, notes: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._control = f"http://127.0.0.1:{control}"
        self._notes = notes

    def options(self, options: Mapping[str, str]) -> dict[str, str]:
        """Return the options of a location, changed to reach its server through the proxy."""
        names = {"endpoint_url", "host"} & options.keys()
        assert names, "the options name no server"
        return {**options, **dict.fromkeys(names, self.url)}

    def set(self, *faults: Fault) -> None:
        """Have these faults and no others, the first that hits a request; their clock starts."""
        body = json.dumps([asdict(fault) for fault in faults]).encode()
        with urlopen(Request(self._control, body, method="POST"), timeout=30) as answer:
            assert answer.status == 200

    def mend(self) -> None:
        """Let all requests pass."""
        self.set()

    def requests(self) -> list[Done]:
        """Return all requests so far, in the order of their beginnings."""
        lines = self._notes.read_text(encoding="utf-8").splitlines()
        return [Done(**json.loads(line)) for line in lines]


@contextmanager
def fault_proxy(server_url: str, notes: Path, seed: int = 0) -> Iterator[FaultProxy]:
    """Run a proxy before the server at `server_url`, which writes to the file `notes`."""
    notes.touch()
    port = urlsplit(server_url).port
    process = subprocess.Popen(
        [sys.executable, __file__, str(port), str(seed), str(notes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip(), "the proxy did not start"
        serving, control = line.split()
        yield FaultProxy(int(serving), int(control), notes)
    finally:
        process.terminate()
        process.wait()


# ====== The program ======


class _Plan:
    """Which fault hits the next request. `chance` decides, and how a connection ends."""

    def __init__(self, seed: str, notes: Path) -> None:
        self.chance = random.Random(seed)
        self._lock = threading.Lock()
        self._notes = notes.open("a", encoding="utf-8")
        self.set([])

    def set(self, faults: list[Fault]) -> None:
        with self._lock:
            self._faults = faults
            self._seen = [0] * len(faults)
            self._hits = [0] * len(faults)
            self._began = time.monotonic()

    def draw(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request, or None, and note both."""
        with self._lock:
            drawn = self._drawn(method, path)
            done = Done(method, path, drawn.kind if drawn else "")
            self._notes.write(json.dumps(asdict(done)) + "\n")
            self._notes.flush()
        return drawn

    def _drawn(self, method: str, path: str) -> Fault | None:
        passed = time.monotonic() - self._began
        for number, fault in enumerate(self._faults):
            if method not in (fault.methods or (method,)) or fault.path not in path:
                continue
            if not fault.since <= passed < fault.until:
                continue
            self._seen[number] += 1
            if self._seen[number] <= fault.skip or self._hits[number] >= fault.count:
                continue
            if self.chance.random() < fault.rate:
                self._hits[number] += 1
                return fault
        return None


class _Door:
    """The port for clients, which can be closed for a while."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        # Linux: a socket keeps, when it listens no more, a port that it asked for by number.
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._lock = threading.Lock()
        self._is_open = threading.Event()
        self._is_open.set()

    def accept(self) -> socket.socket:
        """Return the next connection."""
        while True:
            self._is_open.wait()
            try:
                return self._listener.accept()[0]
            except OSError:  # it was closed meanwhile
                continue

    def close_for(self, seconds: float) -> None:
        with self._lock:
            if not self._is_open.is_set():
                return
            self._is_open.clear()
            self._listener.shutdown(socket.SHUT_RDWR)
        timer = threading.Timer(seconds, self._open)
        timer.daemon = True
        timer.start()

    def _open(self) -> None:
        with self._lock:
            self._listener.listen(128)
            self._is_open.set()


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server_port: int
    plan: _Plan
    door: _Door

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        target = self.requestline.split(" ")[1]  # `path` is without its second `/` of `//key`
        if "Transfer-Encoding" in self.headers:
            self._refuse(411, "MissingContentLength", "You must provide a length.")
            return
        size = int(self.headers.get("Content-Length") or 0)
        fault = self.plan.draw(self.command, target)
        kind = fault.kind if fault else ""
        body = self.rfile.read(size // 2 if kind == "cut_request" else size)
        if fault is not None and kind in ("refuse", "cut_request"):
            self._end()
            if kind == "refuse":
                self.door.close_for(fault.seconds)
        elif fault is not None and kind == "stall":
            self._stall(fault)
        elif kind in STATUSES:
            self._refuse(int(kind), *STATUSES[kind])
        else:
            self._go_on(target, body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _go_on(self, target: str, body: bytes, fault: Fault | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=120)
        try:
            upstream.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OF_CONNECTION:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault is not None and fault.kind == "delay":
            select.select([self.connection], [], [], fault.seconds)
        if fault is not None and fault.kind == "lose":
            self._end()
        else:
            self._answer(answer, content, fault)

    def _answer(
        self, answer: http.client.HTTPResponse, content: bytes, fault: Fault | None
    ) -> None:
        is_whole = fault is None or fault.kind == "delay"
        if not is_whole and not content:
            # Within the first line: http.client takes a head that ends sooner for a whole one.
            self.wfile.write(b"HTTP/1.")
        else:
            self._send_head(answer, len(content))
            end = len(content) if is_whole else self.plan.chance.randrange(len(content))
            self.wfile.write(content[:end])
        if fault is not None and fault.kind == "stall_answer":
            self._stall(fault)
        elif not is_whole:
            self._end()

    def _send_head(self, answer: http.client.HTTPResponse, size: int) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_CONNECTION:
                self.send_header(name, value)
        if "Content-Length" not in answer.headers and answer.status != 204:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message>"
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}<RequestId>proxy</RequestId></Error>'
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def _stall(self, fault: Fault) -> None:
        """Be silent until the client goes."""
        select.select([self.connection], [], [], fault.seconds)
        self._end()

    def _end(self) -> None:
        """End the connection, with a reset or as if all were said."""
        if self.plan.chance.random() < 0.5:
            now = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.close_connection = True


def _serve_clients(door: _Door, handler: type[_Handler]) -> None:
    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection:
                handler(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]
        except (ConnectionError, http.client.HTTPException):
            pass  # the client has gone, or the server: so has the connection

    while True:
        threading.Thread(target=serve, args=(door.accept(),), daemon=True).start()


def _serve_control(plan: _Plan) -> int:
    class Control(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            plan.set([Fault(**{**one, "methods": tuple(one["methods"])}) for one in body])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def _serve(port: str, seed: str, notes: str) -> None:
    plan, door = _Plan(seed, Path(notes)), _Door()
    fields: dict[str, Any] = {"server_port": int(port), "plan": plan, "door": door}
    control = _serve_control(plan)
    handler = type("Handler", (_Handler,), fields)
    threading.Thread(target=_serve_clients, args=(door, handler), daemon=True).start()
    print(door.port, control, flush=True)
    sys.stdin.read()  # it ends with its parent
    os._exit(0)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
