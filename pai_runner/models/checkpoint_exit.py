"""Saving once more when the process is told to end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from pai_runner.errors import PaiError, SetupError
from pai_runner.secret import redact

# Modules below whose calls nothing can be saved. Some hold the lock for which a session waits
# while its graph is built. Others are called by TensorFlow, to reach a bucket or for
# tf.py_function: what is raised there becomes an error of TensorFlow's.
_BUSY = frozenset(
    (
        "pai_runner.script.plugin",
        "tensorflow.python.framework.importer",
        "tensorflow.python.framework.ops",
        "tensorflow.python.ops.control_flow_ops",
        "tensorflow.python.ops.gradients_impl",
        "tensorflow.python.ops.script_ops",
        "tensorflow.python.util.lock_util",
    )
)


class ExitSave:
    """Calls `save` on SIGTERM, then what was the handler of SIGTERM before, or ends with 143.

    The end is one with exit handlers, so that what waits for its upload gets there.

    Python runs a handler on the main thread, between two steps of whatever runs there. It is put
    off while `held`, while TensorFlow waits for Python, and while it adds to a graph. Another
    SIGTERM meanwhile changes nothing.
    """

    def __init__(self, save: Callable[[], str | None]) -> None:
        """Install the handler. `save` returns what it saved, None where nothing is new.

        Raises SetupError where Python does not allow it.
        """
        self._save = save
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._is_held = False  # by the main thread
        self._is_asked = False
        self._is_ending = False
        if threading.current_thread() is not threading.main_thread():
            raise SetupError(
                "save_on_exit=True works on the main thread only, as all handling of signals",
                "make the Saver or Manager on the main thread",
            )
        self._previous: Any = signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put a SIGTERM off until the block has ended, by an exception as well."""
        is_main = threading.current_thread() is threading.main_thread()
        with self._lock:
            was_held = self._is_held
            self._is_held = was_held or is_main
            try:
                yield
            finally:
                self._is_held = was_held
                if is_main and self._is_asked and not was_held:
                    self._end(sys._getframe())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._leave_to_parent(number)
        elif self._is_held or self._is_ending:
            self._is_asked = True
        else:
            caller = _caller_of_busy(frame)
            if caller is None:
                self._end(frame)
            else:
                _when_it_goes_on(caller, self._end)

    def _leave_to_parent(self, number: int) -> None:
        """End a forked child as it would end without us: what it has is a copy of the state."""
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _end(self, frame: FrameType | None) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        try:
            with self._lock:  # a save on another thread ends first
                saved = self._save()
            if saved:
                _say(f"saved {saved} before the end")
        except Exception as error:
            why = str(error) if isinstance(error, PaiError) else traceback.format_exc()
            _say(f"no checkpoint could be saved at the end: {why}")
        finally:
            self._is_asked = False
        if callable(self._previous):
            self._is_ending = False
            self._previous(signal.SIGTERM, frame)
        else:
            _leave(128 + signal.SIGTERM)


def _leave(code: int) -> NoReturn:
    """End the process as at its normal end, but for what the script's `finally` would do.

    An exception would have to pass through whatever runs at the moment, and C code that only asks
    Python a question (is this a list?) loses it, or makes another error of it.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or in the midst of a line
            stream.flush()
    os._exit(code)


def _say(text: str) -> None:
    """Write to standard error; Python's own stream may be in the midst of a line."""
    with suppress(OSError):
        os.write(2, f"pai: {redact(text)}\n".encode())


def _caller_of_busy(frame: FrameType | None) -> FrameType | None:
    """Return the frame below which no busy module is left, None where none was called."""
    caller = None
    while frame is not None:
        if frame.f_globals.get("__name__") in _BUSY:
            caller = frame.f_back
        frame = frame.f_back
    return caller


def _when_it_goes_on(frame: FrameType, action: Callable[[FrameType], None]) -> None:
    """Call `action` in `frame` when what it has called returns: Python's tracing tells when."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        sys.settrace(None)
        frame.f_trace = None
        action(frame)

    frame.f_trace = trace
    sys.settrace(lambda *_: None)
