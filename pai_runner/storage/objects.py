"""Objects as bytes: ranges read into memory, objects written whole or in parts.

fsspec's filesystems list, copy and delete. What moves bytes asks an `Objects`, of which each kind
of store has its own (`s3_objects`, `oss_objects`; `plain_objects` for all others): its requests
are few, they go straight to and from the caller's memory, and several threads make them at once.
What is repeated, and what a failure is called, is the same for all: see `attempts`.

Paths are `bucket/key`, as fsspec strips them.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

# Where it can be chosen, this much is read or written in one request.
PART = 8 * 1024 * 1024
# S3 and OSS take so many parts an object.
_MOST_PARTS = 10_000

# What Python's buffer protocol offers and requests take: bytes, a memoryview, an mmap.
Bytes: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Described:
    """What an answer says of the whole object: its size in bytes, and its ETag without quotes.

    The ETag is empty where a store has none; `modified_ns` is 0 where it does not tell.
    """

    size: int
    etag: str
    modified_ns: int = 0


@dataclass(frozen=True)
class Part:
    """A part that a store has taken; `checksum` is what the store keeps of it, in its own form."""

    etag: str
    size: int
    checksum: str = ""


class PartUpload(Protocol):
    """An object that is written in parts: nothing of it is visible before `complete`.

    `id` is the store's name for it. `parts` are those that were sent, by number; together they tell
    another process how to go on (`Objects.resume`).
    """

    id: str
    parts: dict[int, Part]

    def send(self, number: int, data: Bytes) -> None:
        """Send part `number`, counted from 1. Threads may send at once. Raises OSError."""

    def complete(self) -> str:
        """Make the object of its parts and return its ETag. Raises OSError."""

    def abort(self) -> None:
        """Give the upload up, and with it the parts that were sent. Raises OSError."""


class Objects(Protocol):
    """Reads and writes the objects of one store.

    Threads may share it, processes may not: a forked child opens its own.
    """

    has_parts: bool
    """Whether `upload` can be used: all but `PlainObjects` have it."""

    def prepare(self, path: str) -> None:
        """Do what takes time before the first request, but make none. Raises SetupError."""

    def read_into(
        self, path: str, start: int, into: memoryview, etag: str | None = None
    ) -> tuple[int, Described]:
        """Fill `into` with the bytes from `start`; return how many came, and of what.

        Fewer come only where the object ends. A transfer that breaks goes on where it stopped.
        All bytes are of one version of the object: of the one with `etag` where that is given, else
        OSError (ESTALE). Raises FileNotFoundError, PermissionError, OSError.
        """

    def describe(self, path: str) -> Described:
        """Return what object there is. Raises FileNotFoundError, OSError."""

    def has_below(self, path: str) -> bool:
        """Tell, with one request, whether a directory has anything in it. Raises OSError."""

    def put(self, path: str, data: Bytes) -> str:
        """Write a whole object and return its ETag. Raises OSError."""

    def upload(self, path: str) -> PartUpload:
        """Begin to write an object in parts. Raises OSError."""

    def resume(self, path: str, id: str, parts: Mapping[int, Part]) -> PartUpload:
        """Go on with an upload that was begun elsewhere. No request is made."""

    def close(self) -> None:
        """Let what is under way fail soon, and later calls at once."""


def open_objects(
    protocol: str, options: Mapping[str, str], fs: AbstractFileSystem | None = None
) -> Objects:
    """Return what reads and writes the objects that `filesystem(protocol, options)` lists.

    `fs` is that filesystem where the caller has it already. No request is made. Raises SetupError.
    """
    from pai_runner.storage.filesystems import filesystem, keep_secret

    keep_secret(options)
    if protocol in ("s3", "s3a"):
        from pai_runner.storage.s3_objects import S3Objects

        return S3Objects(options)
    fs = fs or filesystem(protocol, options)
    own = getattr(fs, "objects", None)
    if own is not None:
        return cast("Objects", own())
    from pai_runner.storage.plain_objects import PlainObjects

    return PlainObjects(fs)


def memory_of(data: Any) -> memoryview:
    """Return the bytes of a buffer, of whatever items."""
    return memoryview(data).cast("B")


def part_size(size: int, part: int = PART) -> int:
    """Return how long the parts are, in bytes, in which an object of `size` bytes is written."""
    least = -(-size // _MOST_PARTS)
    return max(part, -(-least // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)


@contextmanager
def mapped(local: str, start: int = 0, size: int | None = None) -> Iterator[memoryview]:
    """Give the bytes of a local file, or `size` of them from `start`, without reading them yet.

    `start` is a multiple of mmap.ALLOCATIONGRANULARITY. Raises OSError.
    """
    with open(local, "rb") as file:
        if size is None:
            size = os.fstat(file.fileno()).st_size - start
        if size <= 0:  # which mmap refuses
            yield memoryview(b"")
            return
        if os.fstat(file.fileno()).st_size < start + size:
            raise OSError(errno.ESTALE, f"{local}: it was shortened meanwhile")
        # Unmapped when the last view of it is gone, which may be that of an error's traceback.
        yield memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start))
