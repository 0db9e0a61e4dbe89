"""Open files that TensorFlow reads from, at any offset and from any thread."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Protocol

from pai_runner.script.stores import Store

# What is fetched at once for small reads: TensorFlow asks for 256 KiB and less at a time.
BLOCK = 8 * 1024 * 1024

_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view.restype = ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE


class Reader(Protocol):
    """An open file."""

    def read_into(self, address: int, offset: int, count: int) -> int:
        """Put up to `count` bytes from `offset` at `address`.

        Return how many: fewer than `count` only at the end of the file.
        """

    def after_fork(self) -> None: ...

    def close(self) -> None: ...


class RemoteReader:
    """A file of a store, of the size that it had when it was opened.

    Small reads are served from one block, so that a sequential reader makes one request a
    block; a read of a block's length or more is one request, and keeps nothing.
    """

    def __init__(self, store: Store, path: str, size: int) -> None:
        self._store = store
        self._path = path
        self._size = size
        self._lock = threading.Lock()
        self._number = -1
        self._block = b""

    def read_into(self, address: int, offset: int, count: int) -> int:
        count = min(count, self._size - offset)
        if count <= 0:
            return 0
        if count >= BLOCK:
            data = self._store.read(self._path, offset, offset + count)
            ctypes.memmove(address, data, len(data))
            return len(data)
        done = 0
        while done < count:
            number, start = divmod(offset + done, BLOCK)
            block = self._fetch(number)
            piece = min(count - done, len(block) - start)
            if piece <= 0:  # the object is shorter now than when it was opened
                break
            _copy(block, start, address + done, piece)
            done += piece
        return done

    def _fetch(self, number: int) -> bytes:
        with self._lock:
            if number != self._number:
                start = number * BLOCK
                end = min(start + BLOCK, self._size)
                self._block = self._store.read(self._path, start, end)
                self._number = number
            return self._block

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def close(self) -> None:
        self._block = b""


class LocalReader:
    """A file of this process that is not uploaded yet."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_into(self, address: int, offset: int, count: int) -> int:
        done = 0
        while done < count:
            data = os.pread(self._descriptor, count - done, offset + done)
            if not data:
                break
            ctypes.memmove(address + done, data, len(data))
            done += len(data)
        return done

    def after_fork(self) -> None:
        """A descriptor is the child's too."""

    def close(self) -> None:
        os.close(self._descriptor)


def _copy(source: bytes, start: int, address: int, count: int) -> None:
    with _view(address, count, _WRITABLE) as target:
        target[:] = memoryview(source)[start : start + count]
