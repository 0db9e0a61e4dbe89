"""Telling others of a run: a webhook, or a command, gets what is known of it as JSON."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from pai_runner.errors import UsageError
from pai_runner.jobs.runs import Run, list_runs
from pai_runner.jobs.state import State
from pai_runner.secret import remember

Say = Callable[[str], None]

_TIMEOUT = 30.0
# Before the one repetition, in seconds.
_WAIT = 2.0
_ENVIRONMENT = "env:"
# How many of the newest runs are looked at for the one before.
_SOME = 20


def target(text: str) -> str:
    """Return the URL or command that `text` names, `env:NAME` by an environment variable.

    A URL is a secret from then on: who knows it can post to it. Raises UsageError.
    """
    found = text
    if text.startswith(_ENVIRONMENT):
        name = text.removeprefix(_ENVIRONMENT)
        found = os.environ.get(name, "")
        if not found:
            raise UsageError(f"--notify {text}: {name} is not set", "set it to a URL or a command")
    if _is_url(found):
        remember(found)
        return found
    try:
        if shlex.split(found):
            return found
    except ValueError as error:
        raise UsageError(f"--notify: the command is malformed: {error}") from error
    raise UsageError("--notify has an empty command", "give a URL, a command or env:NAME")


def recordable(text: str) -> bool:
    """Tell whether a target may be recorded as it was given: one that holds no URL."""
    return text.startswith(_ENVIRONMENT) or "://" not in text


def has_recovered(run: Run) -> bool:
    """Tell whether the run of this name before `run`, which has succeeded, did not."""
    # Ids tell the second only.
    some = [one for one in list_runs(_SOME, run.name) if one.id != run.id and one.state.final]
    before = max(some, key=lambda one: one.created or "", default=None)
    return before is not None and before.state is not State.SUCCEEDED


def notify(targets: Sequence[str], event: str, run: Run, say: Say) -> None:
    """Tell all targets. What cannot be told is said, and fails nothing."""
    body = json.dumps({"event": event, "host": socket.gethostname(), "run": run.to_json()})
    for one in targets:
        send = _post if _is_url(one) else _start
        for is_last in (False, True):
            try:
                send(one, body.encode("utf-8", "backslashreplace"))
                break
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                if is_last:
                    say(f"--notify: nobody was told of the {event}: {_why(error)}")
                else:
                    time.sleep(_WAIT)


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        answer.read()


def _start(command: str, body: bytes) -> None:
    subprocess.run(
        shlex.split(command),
        input=body,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=_TIMEOUT,
        check=True,
    )


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"the command ended with code {error.returncode}", *last])
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the command took longer than {_TIMEOUT:g} s"
    return str(error)
