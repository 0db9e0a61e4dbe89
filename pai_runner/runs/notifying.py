"""Telling others of a run: a webhook, or a command, gets what is known of it as JSON."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence

from pai_runner.errors import ExitCode, UsageError
from pai_runner.jobs.runs import Run, list_runs
from pai_runner.jobs.state import State
from pai_runner.run.secrets import SecretStore
from pai_runner.secret import redact_secrets, remember

Say = Callable[[str], None]

_TIMEOUT = 30.0
# What may come of telling: a server may answer anything, and a command end in any way.
_FAILURES = (OSError, http.client.HTTPException, subprocess.SubprocessError, ValueError)
# Before the one repetition, in seconds.
_WAIT = 2.0
_ENVIRONMENT = "env:"
# How many of the newest runs are looked at for the one before.
_SOME = 100


def target(text: str) -> str:
    """Return the URL or command that `text` names, `env:NAME` by an environment variable.

    A URL is a secret from then on: who knows it can post to it. Raises UsageError.
    """
    found = text
    name = variable(text)
    if name is not None:
        found = os.environ.get(name, "")
        if not found:
            raise UsageError(f"--notify {text}: {name} is not set", "set it to a URL or a command")
    if _is_url(found):
        remember(found)
        _check_url(found)
        return found
    try:
        if shlex.split(found):
            return found
    except ValueError as error:
        raise UsageError(f"--notify: the command is malformed: {error}") from error
    raise UsageError("--notify has an empty command", "give a URL, a command or env:NAME")


def _check_url(url: str) -> None:
    """Raise UsageError for what cannot be a webhook's URL. The error does not show it."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    # urlsplit takes line ends and tabs out without a word.
    if not is_good or not url.isascii() or any(sign.isspace() or ord(sign) < 32 for sign in url):
        raise UsageError(
            "--notify: the URL is malformed",
            "write it as https://HOST/PATH, with other signs than ASCII's as %XX",
        )


def variable(text: str) -> str | None:
    """Return the environment variable that a target names, None where it names none."""
    return text.removeprefix(_ENVIRONMENT) if text.startswith(_ENVIRONMENT) else None


def recordable(text: str) -> bool:
    """Tell whether a target may be recorded as it was given: one without URL and secrets."""
    if variable(text) is not None:
        return True
    if "://" in text or redact_secrets(text) != text:
        return False
    words = shlex.split(text)
    return SecretStore().hide_words(words) == words


def has_recovered(run: Run) -> bool:
    """Tell whether the run of this name before `run`, which has succeeded, did not."""
    # Ids tell the second only. What was skipped tells nothing.
    some = [
        one
        for one in list_runs(_SOME, run.name)
        if one.state.final
        and one.exit_code != ExitCode.BUSY
        and (one.created or "") < (run.created or "")
    ]
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
            except _FAILURES as error:
                if is_last:
                    say(f"--notify: nobody was told of the {event}: {_why(error)}")
                else:
                    time.sleep(_WAIT)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT) as answer:
        answer.read()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirection for the error that it is: the message would be lost in a plain GET."""

    def redirect_request(self, *_: object) -> None:
        return None


def _start(command: str, body: bytes) -> None:
    # Not a pipe: what the command leaves in the background would hold it open.
    with tempfile.TemporaryFile() as errors:
        try:
            subprocess.run(
                shlex.split(command),
                input=body,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=_TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            errors.seek(0)
            error.stderr = errors.read()
            raise


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"the command ended with code {error.returncode}", *last])
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the command took longer than {_TIMEOUT:g} s"
    return str(error)
