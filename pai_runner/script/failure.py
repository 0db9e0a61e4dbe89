"""How a role's process reports its end: error.json for the record, a traceback for the reader.

Texts are redacted here, on their way out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

from pai_runner.errors import PaiError
from pai_runner.secret import redact

_HERE = os.path.dirname(os.path.abspath(__file__))
# The frames of these files stand above or between the script's own only because of how the
# script is started. Whatever else fails in this folder is a fault of ours and stays visible.
_OUR_FILES = frozenset(
    os.path.join(_HERE, name) for name in ("bootstrap.py", "imports.py", "main.py", "tf1.py")
)


def report_setup(error: Exception, role_directory: str) -> None:
    """Record and print why the script could not be started: one line, and how to mend it.

    Without a `role_directory` (empty) nothing is recorded.
    """
    hint = error.hint if isinstance(error, PaiError) else None
    message = str(error) if isinstance(error, PaiError) else f"{type(error).__name__}: {error}"
    _record(role_directory, "setup", error, message, hint)
    _say(f"pai: error: {message}")
    if hint:
        _say(f"     {hint}")


def report_script(error: BaseException, role_directory: str) -> None:
    """Record an exception that leaves the script, and see to it that Python prints it well.

    Without a `role_directory` (empty) nothing is recorded.
    Python goes on to print the traceback, by the script's own `sys.excepthook` if it has set one:
    without our frames, and redacted where it holds a secret.
    """
    _keep_script_frames(error, set())
    # An interruption is how the job was ended, not what went wrong in it.
    if not isinstance(error, KeyboardInterrupt):
        _record(role_directory, "script", error, _message(error), None)
    own_hook = sys.excepthook is not sys.__excepthook__
    sys.excepthook = _without_our_frames(sys.excepthook if own_hook else _printer(error))


def redact_threads() -> None:
    """Keep secrets out of what Python prints of a thread that fails."""
    import threading

    show = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        text = _text(failed.exc_value) if failed.exc_value is not None else ""
        shown = redact(text)
        if shown == text:
            show(failed)
            return
        name = failed.thread.name if failed.thread is not None else "a thread that is gone"
        _say(f"Exception in thread {name}:\n{shown.removesuffix(chr(10))}")

    threading.excepthook = hook


def report_loss(what: str, role_directory: str) -> None:
    """Record that the script ended with files that could not be uploaded."""
    _record(role_directory, "script", OSError("files were not uploaded"), what, None)


def _record(
    role_directory: str, kind: str, error: BaseException, message: str, hint: str | None
) -> None:
    """Write error.json of the role. `time` is in UTC, as in the job's other records."""
    if not role_directory:
        return
    record = {
        "kind": kind,
        "type": type(error).__name__,
        "message": redact(message),
        "hint": None if hint is None else redact(hint),
        "traceback": redact(_text(error)),
        "time": _now(),
    }
    try:
        _replace(os.path.join(role_directory, "error.json"), json.dumps(record))
    except OSError as problem:
        # What went wrong before is the news; that it is missing in the record comes second.
        _say(f"pai: error.json cannot be written: {problem}")


def _now() -> str:
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def _replace(path: str, text: str) -> None:
    """Write a file all at once: a reader sees the old one or the new one."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _say(line: str) -> None:
    print(redact(line), file=sys.stderr, flush=True)


_Hook = Callable[[type[BaseException], BaseException, "TracebackType | None"], object]


def _without_our_frames(show: _Hook) -> _Hook:
    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # The frames above the script were added again while the exception went up.
        _keep_script_frames(error, set())
        show(kind, error, error.__traceback__)

    return hook


def _printer(error: BaseException) -> _Hook:
    """Return Python's own printer, unless what it would print of `error` holds a secret.

    The text is made here: by the time a hook is called, Python has noted that an interruption
    ends the process by SIGINT, and formatting a traceback would make it forget that.
    """
    text = _text(error)
    shown = redact(text)
    if shown == text:
        # It knows more than the traceback module of older versions.
        return sys.__excepthook__
    return lambda *_: _say(shown.removesuffix("\n"))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"<its text cannot be made: {type(problem).__name__}>"


def _text(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _keep_script_frames(error: BaseException, seen: set[int]) -> None:
    """Take our frames out of the traceback of `error` and of the errors that led to it."""
    if id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _script_frames(error.__traceback__)
    related = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    for other in related:
        if isinstance(other, BaseException):
            _keep_script_frames(other, seen)


def _script_frames(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in _OUR_FILES:
            # Python itself leaves out the import machinery, unless a frame of ours stands in it.
            while kept and _is_import_machinery(kept[-1]):
                kept.pop()
        else:
            kept.append(traceback)
        traceback = traceback.tb_next
    following: TracebackType | None = None
    for entry in reversed(kept):
        entry.tb_next = following
        following = entry
    return following


def _is_import_machinery(entry: TracebackType) -> bool:
    return entry.tb_frame.f_code.co_filename.startswith("<frozen importlib")
