"""Signals that wake a loop and do nothing else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any


class SignalPipe:
    """While entered, the given signals come as numbers from `descriptor`.

    A signal that is ignored (`nohup`, a job in the background of a script) stays ignored.
    Python handles signals in the main thread alone: elsewhere none is taken, and
    `descriptor` is None.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._ends: tuple[int, int] | None = None

    def __enter__(self) -> SignalPipe:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._ends = os.pipe()
        for descriptor in self._ends:
            os.set_blocking(descriptor, False)
        self._wakeup_before = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        for signum in self._signals:
            before = signal.getsignal(signum)
            # None: a handler that was not set from Python, and could not be set again.
            if before is not None and before is not signal.SIG_IGN:
                self._before[signum] = before
                signal.signal(signum, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ends is None:
            return
        for signum, before in self._before.items():
            signal.signal(signum, before)
        signal.set_wakeup_fd(self._wakeup_before)
        for descriptor in self._ends:
            os.close(descriptor)
        self._ends = None

    @property
    def descriptor(self) -> int | None:
        return None if self._ends is None else self._ends[0]

    def take(self) -> set[int]:
        """Return the signals that have come since the last call."""
        if self._ends is None:
            return set()
        try:
            return set(os.read(self._ends[0], 4096))
        except BlockingIOError:
            return set()
