"""Signals that ask a run, or a back-fill, to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A signal that asks to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, object], object]
) -> Iterator[None]:
    """Have `handler` take signals, apart from those that are ignored, as under nohup.

    Python takes signals in its main thread alone: elsewhere nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    # None: a handler that was not set from Python, and could not be set again.
    taken = {n: old for n, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)
