"""The door between TensorFlow's C interface for file systems and the file layer.

`_filesystem.c` holds the C side and says how the two share the work. Here are the functions
that it calls: each turns C values into Python's, asks the layer, and turns an exception into a
TensorFlow status, since none may pass through C.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_double,
    c_int,
    c_int64,
    c_size_t,
    c_uint64,
    c_void_p,
)
from functools import partial
from typing import Any

from pai_runner.script.layer import FileLayer
from pai_runner.script.readers import Reader
from pai_runner.script.staging import Staged
from pai_runner.script.statuses import Code, code_of, message_of


class _Statistics(ctypes.Structure):
    _fields_ = (("length", c_int64), ("modified", c_int64), ("is_directory", ctypes.c_bool))


_OnPath = CFUNCTYPE(None, c_char_p, c_void_p)
_OnTwoPaths = CFUNCTYPE(None, c_char_p, c_char_p, c_void_p)
_OnWriter = CFUNCTYPE(None, c_int64, c_void_p)
_NamesOfPath = CFUNCTYPE(c_int, c_char_p, c_void_p, c_void_p)
_OpenWriter = CFUNCTYPE(c_int64, c_char_p, c_int, POINTER(c_int), POINTER(c_void_p), c_void_p)
_SetStatus = CFUNCTYPE(None, c_void_p, c_int, c_char_p)


class _Calls(ctypes.Structure):
    """`Calls` of _filesystem.c, in its order."""

    _fields_ = (
        ("set_status", _SetStatus),
        ("holds_interpreter", c_void_p),
        ("thread_state", c_void_p),
        ("is_finalizing", c_void_p),
        ("open_reader", CFUNCTYPE(c_int64, c_char_p, c_void_p, c_void_p)),
        ("read", CFUNCTYPE(c_int64, c_int64, c_uint64, c_size_t, c_void_p, c_void_p)),
        ("close_reader", CFUNCTYPE(None, c_int64)),
        ("read_whole", CFUNCTYPE(c_void_p, c_char_p, POINTER(c_uint64), c_void_p)),
        ("open_writer", _OpenWriter),
        ("grow_writer", _OnWriter),
        ("make_room", CFUNCTYPE(c_int64, c_int64)),
        ("sync_writer", _OnWriter),
        ("close_writer", _OnWriter),
        ("drop_writer", CFUNCTYPE(None, c_int64, c_int)),
        ("fail_writer", CFUNCTYPE(None, c_int64, c_int, c_void_p)),
        ("exists", _OnPath),
        ("stat", CFUNCTYPE(None, c_char_p, POINTER(_Statistics), c_void_p)),
        ("is_directory", _OnPath),
        ("list", _NamesOfPath),
        ("match", _NamesOfPath),
        ("make_directory", CFUNCTYPE(None, c_char_p, c_int, c_void_p)),
        ("remove_file", _OnPath),
        ("remove_directory", _OnPath),
        ("remove_tree", _OnPath),
        ("rename", _OnTwoPaths),
        ("copy", _OnTwoPaths),
    )


class Library:
    """The compiled part."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = library = ctypes.CDLL(path)
        library.pai_prepare.argtypes = (POINTER(_Calls), c_char_p, c_size_t)
        library.pai_prepare.restype = None
        library.pai_close.argtypes = (c_double,)
        library.pai_close.restype = c_int
        library.pai_flush_writers.argtypes = ()
        library.pai_flush_writers.restype = None
        library.pai_tell_growth_to.argtypes = (c_int,)
        library.pai_tell_growth_to.restype = None
        library.pai_offer.argtypes = (c_void_p, c_void_p, c_uint64, c_uint64)
        library.pai_offer.restype = None
        library.pai_names.argtypes = (c_char_p, c_int)
        library.pai_names.restype = c_void_p

    def prepare(self, calls: _Calls, protocols: Iterable[str]) -> None:
        """Say what TensorFlow registers when it loads the library next."""
        names = b"".join(name.encode() + b"\0" for name in protocols) + b"\0"
        self._library.pai_prepare(ctypes.byref(calls), names, len(names))

    def close(self, seconds: float) -> bool:
        """Let no further call reach Python; tell whether those under way ended in time."""
        return bool(self._library.pai_close(seconds))

    def flush_writers(self) -> None:
        """Write out to the staged files what open writers hold in memory."""
        self._library.pai_flush_writers()

    def tell_growth_to(self, descriptor: int) -> None:
        """Name the pipe to which the numbers of writers go that have grown."""
        self._library.pai_tell_growth_to(descriptor)

    def offer(self, reader: int, address: int, start: int, size: int) -> None:
        """Let an open file of the compiled part copy by itself what lies at `address`."""
        self._library.pai_offer(reader, address, start, size)

    def names(self, names: list[str]) -> int:
        """Return the address of a C array of `names`, for TensorFlow to free."""
        joined = b"".join(_bytes(name) + b"\0" for name in names)
        address: int = self._library.pai_names(joined, len(names))
        return address


class Plugin:
    """The functions that the compiled part calls, for one file layer.

    `set_status` is the address of TensorFlow's TF_SetStatus.
    """

    def __init__(self, library: Library, layer: FileLayer, set_status: int) -> None:
        self._library = library
        self._layer = layer
        self._set_status = _SetStatus(set_status)
        self._numbers = itertools.count(1)
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Staged] = {}
        self.calls = self._table()
        readable, writable = os.pipe()
        os.set_blocking(writable, False)
        follow = threading.Thread(target=self._follow_growth, args=(readable,), daemon=True)
        follow.start()
        library.tell_growth_to(writable)

    def after_fork(self) -> None:
        """Leave the parent's writers to the parent; its readers can be read from."""
        self._writers.clear()
        for reader in self._readers.values():
            reader.after_fork()

    def _table(self) -> _Calls:
        calls = _Calls(set_status=self._set_status)
        python = ctypes.pythonapi
        calls.holds_interpreter = ctypes.cast(python.PyGILState_Check, c_void_p)
        calls.thread_state = ctypes.cast(python.PyGILState_GetThisThreadState, c_void_p)
        # Public from 3.13 on.
        finalizing = getattr(python, "Py_IsFinalizing", None) or python._Py_IsFinalizing
        calls.is_finalizing = ctypes.cast(finalizing, c_void_p)
        for name, kind in _Calls._fields_[4:]:
            has_status = name not in ("close_reader", "make_room", "drop_writer")
            guarded = _with_status if has_status else _with_report
            callback = kind(guarded(getattr(self, f"_{name}"), self._set_status))
            # TensorFlow's threads may still be in a callback when the interpreter frees all.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
            setattr(calls, name, callback)
        return calls

    # ====== Readers ======

    def _open_reader(self, path: bytes, reader: int, status: int) -> int:
        number = next(self._numbers)
        offer = partial(self._library.offer, reader)
        self._readers[number] = self._layer.open_reader(_text(path), offer)
        return number

    def _read(self, number: int, offset: int, count: int, address: int, status: int) -> int:
        got = self._readers[number].read_into(address, offset, count)
        if got < count:
            self._set_status(status, Code.OUT_OF_RANGE, b"the file ends here")
        return got + 1

    def _close_reader(self, number: int) -> None:
        self._readers.pop(number).close()

    def _read_whole(self, path: bytes, length: Any, status: int) -> int:
        size = self._layer.stat(_text(path)).size
        reader = self._layer.open_reader(_text(path))
        try:
            address = _allocate(size)
            try:
                length[0] = reader.read_into(address, 0, size)
            except BaseException:
                _free(address)
                raise
        finally:
            reader.close()
        return address

    # ====== Writers ======

    def _open_writer(
        self, path: bytes, append: int, descriptor: Any, ring: Any, status: int
    ) -> int:
        staged, descriptor[0] = self._layer.open_writer(_text(path), bool(append))
        ring[0] = staged.passing.address if staged.passing else None
        number = next(self._numbers)
        self._writers[number] = staged
        return number

    def _grow_writer(self, number: int, status: int) -> None:
        self._layer.writers.grow(self._writers[number])

    def _make_room(self, number: int) -> int:
        staged = self._writers[number]
        try:
            return self._layer.writers.make_room(staged)
        except BaseException as error:  # told by fail_writer: stdio has no words for it
            staged.is_failed = True
            staged.failure = error.with_traceback(None)  # its frames hold the file
            return -1

    def _follow_growth(self, descriptor: int) -> None:
        """Send what the compiled part says has been written, as far as goes without waiting."""
        size = ctypes.sizeof(c_int64)
        while numbers := os.read(descriptor, 512 * size):
            for number in {*memoryview(numbers).cast("q")}:
                staged = self._writers.get(number)  # None: it is closed
                if staged is not None:
                    self._layer.writers.grow(staged)

    def _sync_writer(self, number: int, status: int) -> None:
        self._layer.writers.sync(self._writers[number])

    def _close_writer(self, number: int, status: int) -> None:
        self._layer.writers.close(self._writers.pop(number))

    def _drop_writer(self, number: int, publish: int) -> None:
        self._layer.writers.drop(self._writers.pop(number), bool(publish))

    def _fail_writer(self, number: int, error: int, status: int) -> None:
        staged = self._writers[number]
        staged.is_failed = True
        failure = staged.failure or OSError(error, os.strerror(error))
        _set(self._set_status, status, failure, staged.path)

    # ====== Paths ======

    def _exists(self, path: bytes, status: int) -> None:
        if not self._layer.exists(_text(path)):
            self._set_status(status, Code.NOT_FOUND, path + b" not found")

    def _stat(self, path: bytes, found: Any, status: int) -> None:
        entry = self._layer.stat(_text(path))
        found[0] = _Statistics(entry.size, entry.modified, entry.is_directory)

    def _is_directory(self, path: bytes, status: int) -> None:
        if not self._layer.is_directory(_text(path)):
            self._set_status(status, Code.FAILED_PRECONDITION, path + b" is not a directory")

    def _list(self, path: bytes, names: int, status: int) -> int:
        return self._answer(self._layer.children(_text(path)), names)

    def _match(self, pattern: bytes, names: int, status: int) -> int:
        return self._answer(self._layer.matching(_text(pattern)), names)

    def _answer(self, found: list[str], names: int) -> int:
        c_void_p.from_address(names).value = self._library.names(found)
        return len(found)

    def _make_directory(self, path: bytes, recursive: int, status: int) -> None:
        self._layer.make_directory(_text(path), bool(recursive))

    def _remove_file(self, path: bytes, status: int) -> None:
        self._layer.remove_file(_text(path))

    def _remove_directory(self, path: bytes, status: int) -> None:
        self._layer.remove_directory(_text(path))

    def _remove_tree(self, path: bytes, status: int) -> None:
        self._layer.remove_tree(_text(path))

    def _rename(self, source: bytes, target: bytes, status: int) -> None:
        self._layer.rename(_text(source), _text(target))

    def _copy(self, source: bytes, target: bytes, status: int) -> None:
        self._layer.copy(_text(source), _text(target))


def _with_status(function: Callable[..., Any], set_status: Any) -> Callable[..., Any]:
    """Return `function` with its last argument, a status, set by what it raises."""
    # Of those that return something, one returns an address.
    failure = None if function.__name__ == "_read_whole" else -1

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            path = _text(arguments[0]) if isinstance(arguments[0], bytes) else ""
            _set(set_status, arguments[-1], error, path)
            return failure

    return call


def _with_report(function: Callable[..., Any], set_status: Any) -> Callable[..., Any]:
    """Return `function` with what it raises on standard error."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            print(f"pai: {message_of(error)}", file=sys.stderr)

    return call


def _set(set_status: Any, status: int, error: BaseException, path: str) -> None:
    set_status(status, code_of(error), _bytes(message_of(error, path)))


# TensorFlow's strings are bytes, and an object's name is UTF-8 in whatever locale.
def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


_PAGE = 4096  # as mmap would align it: TensorFlow refuses less than its vectors need
_aligned_alloc = ctypes.CDLL(None).aligned_alloc
_aligned_alloc.argtypes = (c_size_t, c_size_t)
_aligned_alloc.restype = c_void_p
_free = ctypes.CDLL(None).free
_free.argtypes = (c_void_p,)
_free.restype = None


def _allocate(size: int) -> int:
    if size == 0:
        raise OSError(errno.EINVAL, "an empty file cannot be mapped into memory")
    address: int | None = _aligned_alloc(_PAGE, -(-size // _PAGE) * _PAGE)
    if address is None:
        raise MemoryError(f"no {size} bytes for the file")
    return address
