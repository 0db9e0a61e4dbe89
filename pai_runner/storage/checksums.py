"""The checksums that object stores offer: CRC-32C, CRC-64/XZ and Content-MD5.

CRC-32C is what S3 and Google Cloud Storage check (and TensorFlow, of every record); CRC-64/XZ is
OSS's `x-oss-hash-crc64ecma`. Both are calculated by `_checksums.c`, without the interpreter lock.
Where that part was not built (no compiler), CRC-64 comes from oss2, slower and under the lock, and
there is no CRC-32C: ask `has_crc32c` first.

A buffer is any object that gives its bytes in one piece: bytes, a memoryview, a mapped file, an
array of ctypes or NumPy. It is not copied. One with gaps is refused by BufferError (by ValueError
if it is NumPy's), and what is no buffer by TypeError.

Checksums of parts can be combined to the one of the whole, since remainders can: in GF(2)[x],
crc(first + second) is crc(first) * x^(bits of second) + crc(second). The inversions before and
after, which both checksums have, cancel out.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pai_runner.errors import SetupError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LIBRARY = Path(__file__).with_name("_checksums.so")

# The polynomials, reflected: the highest bit is the coefficient of x^0.
_CRC32C = (0x82F63B78, 32)
_CRC64 = (0xC96C5795D7870F42, 64)


def has_crc32c() -> bool:
    """Return whether `crc32c` can be used here: its compiled part was built."""
    return _compiled() is not None


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of a buffer; `crc` is that of what comes before it.

    Raises SetupError where the compiled part is missing.
    """
    library = _compiled()
    if library is None:
        raise SetupError(
            f"the compiled part that calculates CRC-32C is missing: {_LIBRARY.name}",
            "install gcc, then run `pip install --force-reinstall --no-deps` on this package",
        )
    with _memory(data) as (address, size):
        value: int = library.pai_crc32c(crc, address, size)
    return value


def crc64(data: Buffer, crc: int = 0) -> int:
    """Return the CRC-64/XZ of a buffer; `crc` is that of what comes before it."""
    library = _compiled()
    with _memory(data) as (address, size):
        if library is None:
            return _crc64_of_oss2(data, crc)
        value: int = library.pai_crc64(crc, address, size)
    return value


def crc32c_combined(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-32C of two parts, the second of which has so many bytes, from their own."""
    return _combined(*_CRC32C, first, second, second_bytes)


def crc64_combined(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-64/XZ of two parts, the second of which has so many bytes, from their own."""
    return _combined(*_CRC64, first, second, second_bytes)


def crc64_of_parts(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-64/XZ of parts that follow each other: (CRC-64, bytes) of each."""
    total = 0
    for checksum, size in parts:
        total = crc64_combined(total, checksum, size)
    return total


def md5_base64(data: Buffer) -> str:
    """Return the MD5 of a buffer as the header Content-MD5 has it (RFC 1864)."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


# ====== The compiled part ======


@cache
def _compiled() -> Any:
    """Return the compiled part, or None where it was not built, or for another machine."""
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError:
        return None
    for name, number in (("pai_crc32c", ctypes.c_uint32), ("pai_crc64", ctypes.c_uint64)):
        for function in (getattr(library, name), getattr(library, f"{name}_portable")):
            function.restype = number
            function.argtypes = (number, ctypes.c_void_p, ctypes.c_size_t)
    return library


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of the C interface of Python (since 3.11 part of its stable ABI)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


@contextmanager
def _memory(data: Buffer) -> Iterator[tuple[int | None, int]]:
    """Yield the address of a buffer, which stays where it is meanwhile, and its bytes.

    ctypes itself gives addresses only of what may be written to.
    """
    view = _PyBuffer()
    simple = 0  # PyBUF_SIMPLE: bytes in one piece
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), simple)
    try:
        yield view.buf, view.len
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def _crc64_of_oss2(data: Buffer, crc: int) -> int:
    import oss2

    checksum = oss2.utils.Crc64(crc)
    checksum.update(data)
    value: int = checksum.crc
    return value


# ====== Polynomials over GF(2) ======


def _combined(polynomial: int, width: int, first: int, second: int, second_bytes: int) -> int:
    return _product(polynomial, width, first, _power(polynomial, width, second_bytes)) ^ second


@lru_cache(maxsize=64)  # most parts have one length
def _power(polynomial: int, width: int, count: int) -> int:
    """Return x^(8 * count) modulo the polynomial, by squaring."""
    power = 1 << (width - 1)
    square = 1 << (width - 1 - 8)
    while count:
        if count & 1:
            power = _product(polynomial, width, power, square)
        square = _product(polynomial, width, square, square)
        count >>= 1
    return power


def _product(polynomial: int, width: int, first: int, second: int) -> int:
    """Return the product of two reflected polynomials modulo a third."""
    product = 0
    for bit in reversed(range(width)):
        if first >> bit & 1:
            product ^= second
        second = second >> 1 ^ (polynomial if second & 1 else 0)
    return product
