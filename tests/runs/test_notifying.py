"""Telling others of a run, on loopback: webhooks that fail, answer nonsense, or are no URLs."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pai_runner.errors import UsageError
from pai_runner.jobs.runs import Run, RunDirectory, write_run
from pai_runner.jobs.state import State
from pai_runner.runs import notifying


def run(number: int, state: State = State.SUCCEEDED, code: int = 0) -> Run:
    created = f"2026-11-20T02:00:00.{number:03d}+00:00"
    return Run(f"20261120-020000-{number}", "n", state, (), exit_code=code, created=created)


@contextmanager
def webhook(*answers: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield a URL, whose server gives these answers in turn, and what it has received."""
    received: list[Any] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers["Content-Type"], json.loads(body)))
            code = left.pop(0)
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", received
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifying, "_WAIT", 0.0)


def test_a_webhook_is_told_again_after_a_failure() -> None:
    said: list[str] = []
    with webhook(500, 200) as (url, received):
        notifying.notify([notifying.target(url)], "success", run(1), said.append)
    assert said == []
    assert len(received) == 2
    assert received[0] == received[1]
    path, kind, body = received[1]
    assert (path, kind) == ("/hook", "application/json")
    assert (body["event"], body["host"]) == ("success", socket.gethostname())
    assert body["run"] == run(1).to_json()


def test_a_redirection_is_a_failure() -> None:
    """Else the message would be lost in a plain GET."""
    said: list[str] = []
    with webhook(302, 302) as (url, received):
        notifying.notify([notifying.target(url)], "success", run(1), said.append)
    assert len(received) == 2
    assert said == ["--notify: nobody was told of the success: HTTP Error 302: Found"]


def test_a_command_may_leave_something_in_the_background(tmp_path: Path) -> None:
    told, gate = tmp_path / "told", tmp_path / "gate"
    os.mkfifo(gate)
    said: list[str] = []
    command = f"sh -c 'cat >>{told}; read line <{gate} &'"
    notifying.notify([notifying.target(command)], "success", run(1), said.append)
    gate.write_text("end\n")
    assert said == []
    assert json.loads(told.read_text())["event"] == "success"


def test_a_command_that_fails_is_quoted() -> None:
    said: list[str] = []
    command = "sh -c 'cat >/dev/null; echo first >&2; echo no such room >&2; exit 3'"
    notifying.notify([notifying.target(command)], "success", run(1), said.append)
    assert said == [
        "--notify: nobody was told of the success: the command ended with code 3: no such room"
    ]


def test_what_answers_nonsense_fails_nothing() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                peer, _ = server.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        notifying.notify([url], "failure", run(1), said.append)
        thread.join()
    (line,) = said
    assert line.startswith("--notify: nobody was told of the failure: what?")


@pytest.mark.parametrize(
    "url",
    [
        "https:///hooks/4711",
        "https://host/hooks 4711",
        "https://host/4711\n",
        "https://host:4711x/",
        "https://[4711/",
        "HTTPS://?4711",
        "https://host/4711/ä",
    ],
)
def test_a_malformed_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        notifying.target(url)
    assert "4711" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("env:HOOK", True),
        ("mail -s 'training ended' me@example.com", True),
        ("https://host/hooks/4711", False),
        ("curl https://host/hooks/4711", False),
        ("tell --password hunter2hunter2", False),
        ("tell --api_key 'zzzz yyyy'", False),
    ],
)
def test_what_may_be_recorded_of_it(text: str, is_kept: bool) -> None:
    assert notifying.recordable(text) is is_kept


def test_a_recovery_looks_at_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAI_HOME", str(tmp_path))

    def record(one: Run) -> None:
        directory = RunDirectory(str(tmp_path), one.id)
        Path(directory.path).mkdir(parents=True, exist_ok=True)
        write_run(directory, one)

    record(run(1, State.FAILED, 3))
    record(run(2, State.CANCELLED, 75))
    record(run(3))
    record(run(4, State.FAILED, 3))
    assert notifying.has_recovered(run(3)), "what was skipped is no success, and 4 is later"
    record(run(5))
    record(run(6, State.CANCELLED, 75))
    record(run(7))
    assert not notifying.has_recovered(run(7))
