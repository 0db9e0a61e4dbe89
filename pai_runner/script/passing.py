"""Memory that large files pass through on their way to a store: what was sent is written over.

It is a file without a name (Linux's memfd), so that who writes and who sends need not know. The
same memory serves the whole file: to ask the system for each page, and to give it back, would
cost more than to copy what it holds.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
from functools import cache

# How much of a file is held in memory, in bytes, when it is longer: a multiple of its parts.
RING = 192 * 1024 * 1024
# For a file that is all kept.
UNLIMITED = 1 << 62


class _Ring(ctypes.Structure):
    """`Ring` of _filesystem.c, in its order."""

    _fields_ = (("size", ctypes.c_int64), ("written", ctypes.c_int64))


class PassingFile:
    """A file in memory; `path` opens it in this process.

    The byte `n` lies at `n % RING`, until somebody reads the file: from then on all is kept.
    """

    def __init__(self, name: str) -> None:
        """`name` is for people who look at the process. Raises OSError."""
        self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"
        self.has_holes = False
        self._ring = _Ring(RING, 0)
        self._is_kept = False
        self._whole: memoryview | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> int:
        """Where the compiled part finds, and counts, what is written; valid as long as this is."""
        return ctypes.addressof(self._ring)

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return int(self._ring.written)

    def open(self) -> int:
        """Return a descriptor for the compiled part to write with. Raises OSError."""
        return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)

    def part(self, start: int, count: int) -> memoryview:
        """Return what was written of a part of the file, which must not wrap. Raises OSError."""
        with self._lock:
            if not self.has_holes:
                return self._map(start, count)
            if self._whole is None:
                self._whole = self._map(0, RING)
            place = start % RING
            return self._whole[place : place + count]

    def _map(self, start: int, count: int) -> memoryview:
        if self._descriptor < 0:  # which mmap takes for no file at all
            raise OSError(errno.EBADF, "the file is closed")
        return memoryview(mmap.mmap(self._descriptor, count, access=mmap.ACCESS_READ, offset=start))

    def write_over(self) -> bool:
        """Let what was sent be written over from now on; tell whether it may be."""
        with self._lock:
            self.has_holes = not self._is_kept
            return self.has_holes

    def keep(self) -> None:
        """Let nothing be written over from now on. Raises OSError (EBUSY) when something was."""
        with self._lock:
            if self.has_holes:
                text = "it is on its way, and can be read when it is in its store"
                raise OSError(errno.EBUSY, text)
            self._is_kept = True
            self._ring.size = UNLIMITED

    def open_to_read(self) -> int:
        """Return a descriptor that reads the file, of which all is kept. Raises as `keep`."""
        self.keep()
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the memory, when those who write and send have done so, too."""
        with self._lock:
            self._whole = None
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:  # its number may be another file's by now
                os.close(descriptor)

    def after_fork(self) -> None:
        """Leave the memory to the parent, one of whose threads may have had the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


@cache
def can_pass() -> bool:
    """Tell whether this system has such files: Linux, with /proc, and nothing that forbids it."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return False
    try:
        file = PassingFile("pai-trial")
    except OSError:
        return False
    try:
        descriptor = file.open()
        try:
            return os.pwrite(descriptor, b"trial", 0) == 5 and bytes(file.part(0, 5)) == b"trial"
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        file.close()
