"""A gate before a storage server: it holds requests that write or remove until it is opened.

What passes goes on as it came, Host included, so signatures stay right.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_CHANGES = ("PUT", "POST", "DELETE")
# What concerns one connection, and not the request.
_OF_CONNECTION = {"connection", "expect", "keep-alive", "te", "transfer-encoding", "upgrade"}


class Gate:
    """`changes` are the requests that changed something, `METHOD path`, in the order of their end.

    With `refuses` what is held is refused, by 403, when the gate is opened.
    """

    def __init__(self, server_url: str) -> None:
        self.server_port = urlsplit(server_url).port
        self.port = 0
        self.changes: list[str] = []
        self.refuses = False
        self.held = ""
        self.holds = threading.Event()
        self.opened = threading.Event()
        self.opened.set()

    def options(self, options: Mapping[str, str]) -> dict[str, str]:
        """Return the options of a location, changed to reach its server through the gate."""
        names = {"endpoint_url", "host"} & options.keys()
        assert names, "the options name no server"
        return {**options, **dict.fromkeys(names, self.url)}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self, path: str = "") -> None:
        """Hold what would change something at a path that holds `path`, from now on.

        `holds` is set when the first is held.
        """
        self.holds.clear()
        self.held = path
        self.opened.clear()

    def open(self) -> None:
        self.opened.set()


@contextmanager
def gate_before(server_url: str) -> Iterator[Gate]:
    """Run a gate on a free port of 127.0.0.1, in threads of this process."""
    gate = Gate(server_url)
    handler = type("Handler", (_Handler,), {"gate": gate})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    gate.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield gate
    finally:
        gate.open()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        gate, target = self.gate, self.requestline.split(" ")[1]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(target.partition("?")[0])
        if self.command in _CHANGES and gate.held in path:
            if not gate.opened.is_set():
                gate.holds.set()
            gate.opened.wait()
            if gate.refuses:
                self._refuse()
                return
        upstream = http.client.HTTPConnection("127.0.0.1", gate.server_port or 0, timeout=60)
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
        if self.command in _CHANGES:
            gate.changes.append(f"{self.command} {path}")
        self._answer(answer, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_CONNECTION:
                self.send_header(name, value)
        if "Content-Length" not in answer.headers and answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self) -> None:
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response_only(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
