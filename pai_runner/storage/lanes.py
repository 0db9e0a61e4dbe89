"""The threads on which this process makes its requests for bytes.

How many requests are under way at once is found by trying: more and more as long as there is work
waiting, half as many whenever a server asks to slow down.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pai_runner.storage.attempts import on_busy

_T = TypeVar("_T")

_FIRST = 16
_FEWEST = 2
_MOST = 64
# One overload makes many requests fail: it counts once.
_SLOW_DOWN_SECONDS = 1.0


class Lanes:
    """Runs work on threads, at most `limit` at once.

    The threads are daemons: they still work while exit handlers run, when Python's own pools
    have stopped. Where no thread can be started any more, `submit` does the work itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._threads = 0
        self._running = 0
        self._limit = float(_FIRST)
        self._slowed = 0.0

    @property
    def limit(self) -> int:
        """How many requests may be under way now."""
        return int(self._limit)

    def submit(self, work: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Do `work` as soon as a lane is free. It must not wait for other work of the lanes."""
        future: Future[_T] = Future()
        item = (future, work, arguments)
        with self._lock:
            self._waiting.append(item)
            is_new = self._wants_a_thread()
            self._ready.notify()
        if is_new and not self._start():
            with self._lock:
                is_mine = not self._threads and item in self._waiting
                if is_mine:
                    self._waiting.remove(item)
            if is_mine:
                _do(*item)
        return future

    def slow_down(self) -> None:
        """Halve the number of requests, at most once a second."""
        with self._lock:
            now = time.monotonic()
            if now - self._slowed > _SLOW_DOWN_SECONDS:
                self._slowed = now
                self._limit = max(_FEWEST, self._limit / 2)

    def _wants_a_thread(self) -> bool:
        """Tell whether one more is to be started, and count it; with the lock held."""
        is_new = self._threads - self._running < len(self._waiting) and self._threads < self.limit
        self._threads += is_new
        return is_new

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._work, name="pai-lane", daemon=True).start()
        except RuntimeError:  # the interpreter is ending
            with self._lock:
                self._threads -= 1
            return False
        return True

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting or self._running >= self.limit:
                    self._ready.wait()
                item = self._waiting.popleft()
                self._running += 1
            _do(*item)
            del item
            is_new = False
            with self._lock:
                self._running -= 1
                if self._waiting:
                    self._limit = min(_MOST, self._limit + 1 / self._limit)
                    self._ready.notify()
                    is_new = self._wants_a_thread()
            if is_new:
                self._start()


def _do(future: Future[Any], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work(*arguments))
    except BaseException as error:
        future.set_exception(error)


_lanes: tuple[int, Lanes] | None = None
_making = threading.Lock()


def lanes() -> Lanes:
    """Return this process's lanes; a forked child has its own."""
    global _lanes
    with _making:
        if _lanes is None or _lanes[0] != os.getpid():
            _lanes = (os.getpid(), Lanes())
        return _lanes[1]


def _after_fork() -> None:
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
on_busy(lambda: lanes().slow_down())
