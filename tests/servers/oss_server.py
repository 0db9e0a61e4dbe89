"""A double of OSS, with its STS, in a process of its own, which notes every request.

As a program it serves on two free ports of 127.0.0.1, prints them, and writes one line of JSON
for each request to OSS to the file that it is given. As a module it has `OSSServer`, which starts
the program, reads its notes and changes its settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request as WebRequest
from urllib.request import urlopen

KEY_ID, SECRET = "LTAItestingkeyid", "testing-oss-secret-value"
# A second user of the same buckets.
OTHER_KEY_ID, OTHER_SECRET = "LTAIotherkeyid", "testing-oss-other-secret"
REFUSED_ROLE = "acs:ram::1234567890123456:role/refused"
MISSING_ROLE = "acs:ram::1234567890123456:role/missing"


@dataclass(frozen=True)
class Noted:
    """A request that came. `path` is unquoted, `signature` is V1, V4 or empty.

    `operation` is the method, but COPY for copies and DELETE for deletes of many keys.
    """

    method: str
    path: str
    query: str
    operation: str
    access_key_id: str
    signature: str
    has_authorization: bool
    has_token: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query}"


class OSSServer:
    """A running server. `options` are those of an oss location that reaches it."""

    def __init__(
        self, process: subprocess.Popen[str], port: int, sts_port: int, notes: Path
    ) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.sts_url = f"http://127.0.0.1:{sts_port}"
        self.options = {
            "host": self.url,
            "access_key_id": KEY_ID,
            "access_key_secret": SECRET,
        }
        self._notes = notes

    def make_bucket(self, name: str) -> str:
        self._control("bucket", {"name": name})
        return name

    def keys(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the keys of a bucket and their sizes."""
        answer: dict[str, int] = json.loads(self._control("keys", bucket=bucket, prefix=prefix))
        return answer

    def read(self, bucket: str, key: str) -> bytes:
        return self._control("object", bucket=bucket, key=key)

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of a bucket's multipart uploads that are neither complete nor gone."""
        answer: list[str] = json.loads(self._control("uploads", bucket=bucket))
        return answer

    def calls_of_sts(self) -> list[dict[str, Any]]:
        """Return what STS was asked for, as `sts_app.Call`."""
        answer: list[dict[str, Any]] = json.loads(self._control("calls"))
        return answer

    def given_out(self) -> list[str]:
        """Return every id, secret and token that STS has handed out."""
        answer: list[str] = json.loads(self._control("given"))
        return answer

    def set(self, **settings: Any) -> None:
        """Change settings: those of `oss_app.Settings`, and of STS `lifetime` and `uses`.

        `expire_tokens=True` makes all tokens expired now.
        """
        self._control("settings", settings)

    def reset(self) -> None:
        """Set every setting back to what it was at the start."""
        self._control("reset", {})

    def requests(self) -> list[Noted]:
        """Return all requests to OSS so far."""
        lines = self._notes.read_text(encoding="utf-8").splitlines()
        return [Noted(**json.loads(line)) for line in lines]

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Yield a counter that holds, afterwards, the requests made meanwhile by operation."""
        before = len(self.requests())
        counts: Counter[str] = Counter()
        yield counts
        counts.update(one.operation for one in self.requests()[before:])

    def _control(self, action: str, body: Mapping[str, Any] | None = None, **query: str) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.url}/_control/{action}?{urlencode(query)}"
        with urlopen(WebRequest(address, data), timeout=30) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def oss_server(notes: Path) -> Iterator[OSSServer]:
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
        assert line.strip(), "the OSS server did not start"
        port, sts_port = line.split()
        yield OSSServer(process, int(port), int(sts_port), notes)
    finally:
        process.terminate()
        process.wait()


# ====== The program ======


def _serve(notes: Path) -> None:
    from oss_app import Service
    from oss_wsgi import oss_application
    from sts_app import Tokens, sts_application
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

    def served(application: Any) -> Any:
        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    tokens = Tokens()
    keys = {KEY_ID: SECRET, OTHER_KEY_ID: OTHER_SECRET}
    service = Service(keys, tokens)
    oss = oss_application(service, _Notes(notes).add, _Control(service))
    sts = sts_application(tokens, keys, refused={REFUSED_ROLE}, missing={MISSING_ROLE})
    print(served(oss), served(sts), flush=True)
    sys.stdin.read()  # it ends with its parent
    os._exit(0)


class _Notes:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def add(self, request: Any) -> None:
        claim = request.claim
        operation = request.method
        if "x-oss-copy-source" in request.headers:
            operation = "COPY"
        elif "delete" in request.query:
            operation = "DELETE"
        noted = Noted(
            method=request.method,
            path=f"/{request.bucket}/{request.key}" if request.key else f"/{request.bucket}",
            query=urlencode(request.query),
            operation=operation,
            access_key_id=claim.access_key_id,
            signature=claim.version,
            has_authorization="authorization" in request.headers,
            has_token=claim.token is not None,
        )
        with self._lock:
            self._stream.write(json.dumps(asdict(noted)) + "\n")
            self._stream.flush()


class _Control:
    """What tests ask of the server itself, by its own paths: it is neither noted nor refused."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        action = environment["PATH_INFO"].rpartition("/")[2]
        query = dict(parse_qsl(environment["QUERY_STRING"], keep_blank_values=True))
        length = int(environment.get("CONTENT_LENGTH") or 0)
        body = json.loads(environment["wsgi.input"].read(length) or b"{}")
        content = getattr(self, f"_{action}")(body, **query)
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    def _bucket(self, body: Mapping[str, Any]) -> bytes:
        if body["name"] not in self._service.store.buckets():
            self._service.store.make_bucket(body["name"])
        return b""

    def _keys(self, body: Mapping[str, Any], bucket: str, prefix: str) -> bytes:
        found, _ = self._service.store.page(bucket, prefix, "", "", 1 << 30)
        return json.dumps({one.name: one.size for one in found}).encode()

    def _object(self, body: Mapping[str, Any], bucket: str, key: str) -> bytes:
        content: bytes = self._service.store.get(bucket, key).value
        return content

    def _uploads(self, body: Mapping[str, Any], bucket: str) -> bytes:
        uploads = self._service.store.uploads.values()
        return json.dumps([one.key for one in uploads if one.bucket == bucket]).encode()

    def _calls(self, body: Mapping[str, Any]) -> bytes:
        return json.dumps([asdict(one) for one in self._service.tokens.calls]).encode()

    def _given(self, body: Mapping[str, Any]) -> bytes:
        given = self._service.tokens.given_out()
        return json.dumps(given).encode()

    def _settings(self, body: Mapping[str, Any]) -> bytes:
        for name, value in body.items():
            if name == "expire_tokens":
                self._service.tokens.expire_all()
            elif name in ("lifetime", "uses"):
                setattr(self._service.tokens, name, value)
            else:
                assert hasattr(self._service.settings, name), name
                setattr(self._service.settings, name, value)
        return b""

    def _reset(self, body: Mapping[str, Any]) -> bytes:
        self._service.settings = type(self._service.settings)()
        self._service.tokens.lifetime = self._service.tokens.uses = None
        return b""


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
