"""Blocks of files in memory, fetched ahead of those who read them, within one budget."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from concurrent.futures import Future

from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART
from pai_runner.storage.settings import number_set

_BUDGET = "PAI_READ_AHEAD_MB"
_DEFAULT_BUDGET_MB = 512.0


class Budget:
    """How many bytes all readers of this process may hold, and the memory that they hold it in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()
        # Memory that was used before: fresh pages cost as much as what is copied into them.
        self._free: list[mmap.mmap] = []

    def after_fork(self) -> None:
        """Make the lock the child's own; what the parent held counts no more.

        Memory is private to a process: what one of the two writes the other does not see.
        """
        self._lock = threading.Lock()
        self._used = 0

    def take(self, size: int, is_needed: bool = False) -> mmap.mmap | None:
        """Return memory for `size` bytes, or None where no more may be held.

        `is_needed`: a reader waits for it, so it is given in any case.
        """
        with self._lock:
            if self._used + size > self._limit and not is_needed:
                return None
            self._used += size
            if size == PART and self._free:
                return self._free.pop()
            while self._free and self._used + len(self._free) * PART > self._limit:
                self._free.pop()
        try:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            with self._lock:
                self._used -= size
            raise

    def give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            # A child gives back what its parent took.
            self._used = max(0, self._used - len(memory))
            if len(memory) == PART and self._used + (len(self._free) + 1) * PART <= self._limit:
                self._free.append(memory)


def read_ahead_bytes() -> int:
    """Return the budget that PAI_READ_AHEAD_MB sets, in bytes. Raises SetupError."""
    megabytes = number_set(_BUDGET, _DEFAULT_BUDGET_MB, "megabytes, for example 512")
    return int(megabytes * 1024 * 1024)


class Block:
    """The bytes of a file from `start` to `end`: there when `coming` is done, and `is_there` then.

    `users` copy from it now: it is not given back meanwhile.
    """

    def __init__(self, start: int, end: int, memory: mmap.mmap) -> None:
        self.start = start
        self.end = end
        self.users = 0
        self.is_there = False
        self.coming: Future[None] = Future()
        self.view = memoryview(memory)[: end - start]
        self._memory = memory
        self._array = (ctypes.c_char * len(memory)).from_buffer(memory)
        self.address = ctypes.addressof(self._array)

    def fetch_with(self, fetch: Callable[[int, memoryview], None]) -> None:
        """Have a lane fetch the bytes."""
        self.coming = lanes().submit(self._come, fetch)

    def fill(self, content: bytes | bytearray) -> None:
        """Put in all the bytes, which are there already."""
        self.view[:] = content
        self._arrived()

    def after_fork(self) -> None:
        """Forget who used a block that is there. A thread of the parent may hold a lock of it."""
        self.users = 0
        self._arrived()

    def _come(self, fetch: Callable[[int, memoryview], None]) -> None:
        fetch(self.start, self.view)
        self.is_there = True

    def _arrived(self) -> None:
        self.is_there = True
        self.coming = Future()
        self.coming.set_result(None)

    def copy(self, offset: int, address: int, count: int) -> None:
        """Copy `count` bytes from `offset` of the file to `address`, without Python's lock."""
        ctypes.memmove(address, self.address + offset - self.start, count)

    def give_back(self, budget: Budget) -> None:
        """Let go of the memory, now or when what is on its way into it has come."""
        memory = self._memory
        self.coming.cancel()
        self.coming.add_done_callback(lambda _: budget.give_back(memory))
