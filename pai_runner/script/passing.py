"""Memory that large files pass through on their way to a store: what was sent is let go of.

It is a file without a name (Linux's memfd), so that who writes and who sends need not know.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from functools import cache

# linux/falloc.h: the size stays, the pages go.
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


class PassingFile:
    """A file in memory; `path` opens it in this process."""

    def __init__(self, name: str) -> None:
        """`name` is for people who look at the process. Raises OSError."""
        self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"
        self.has_holes = False
        self._is_kept = False
        self._lock = threading.Lock()

    def let_go(self, start: int, size: int) -> None:
        """Give the memory of a range back; it reads as zeros from then on. Raises OSError."""
        with self._lock:
            if self._is_kept or self._descriptor < 0:
                return
            self.has_holes = True
            mode = _KEEP_SIZE | _PUNCH_HOLE
            if _fallocate()(self._descriptor, mode, start, size) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def open_to_read(self) -> int:
        """Return a descriptor that reads the file, of which nothing is let go from then on.

        Raises OSError (EBUSY) when something was.
        """
        with self._lock:
            if self.has_holes:
                text = "it is on its way, and can be read when it is in its store"
                raise OSError(errno.EBUSY, text)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._is_kept = True
        return descriptor

    def close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:  # its number may be another file's by now
                os.close(descriptor)


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
        with open(file.path, "wb") as stream:
            stream.write(bytes(8192))
        file.let_go(0, 4096)
        return os.stat(file.path).st_size == 8192
    except OSError:
        return False
    finally:
        file.close()


@cache
def _fallocate() -> ctypes._NamedFuncPointer:
    library = ctypes.CDLL(None, use_errno=True)
    # musl has one for all sizes, under the plain name.
    function = getattr(library, "fallocate64", None) or library.fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function
