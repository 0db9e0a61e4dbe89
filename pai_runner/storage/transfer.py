"""One directory of a bucket, narrowed to what staging needs of it, and copies of single files.

Names here are paths below that directory. Every call may be repeated a few times when the server
does not answer, and ends with `Stopped` soon after the mover was told to stop.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pai_runner.errors import SetupError
from pai_runner.storage.failures import Failure, failure_of
from pai_runner.storage.filesystems import (
    check_directory,
    filesystem,
    modified_ns,
    options_at,
    takes_threads,
)
from pai_runner.storage.names import has_plain_parts
from pai_runner.storage.stage_files import ChangingError, FileState, check_unchanged

# What is read or sent in one request. A smaller file is one request.
BLOCK = 16 * 1024 * 1024
# S3 and OSS take 10,000 parts a file.
_MOST_PARTS = 9_000
# Large files at once; each holds a few blocks in memory.
_LARGE_AT_ONCE = 4
# Waits before a request is repeated, in seconds. The libraries below repeat as well.
_AGAIN_AFTER = (0.5, 2.0)
# What a local file's name can hold on the usual file systems.
_LONGEST_PART = 255


class Stopped(Exception):
    """The mover was told to give up."""


class Remote(NamedTuple):
    """An object: its size, what tells its version from others, and when it was written."""

    size: int
    version: str
    modified_ns: int


@dataclass
class Listing:
    """All files below a directory, and the directories that were made on purpose."""

    files: dict[str, Remote] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)


class Bucket:
    """The directory `prefix`. Threads may share it."""

    def __init__(
        self, prefix: str, protocol: str, options: Mapping[str, str], stopping: threading.Event
    ) -> None:
        """No request is made. Raises SetupError."""
        self.prefix = prefix
        self.stopping = stopping
        self._fs = filesystem(protocol, options_at(prefix, options))
        self._base: str = self._fs._strip_protocol(prefix).rstrip("/")
        is_safe = takes_threads(self._fs)
        self._turn: AbstractContextManager[Any] = nullcontext() if is_safe else threading.RLock()
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)

    def check(self) -> None:
        """Check that the bucket is there and answers. Raises SetupError."""
        check_directory(self._fs, self.prefix)

    def list(self) -> Listing:
        """Return what is below the directory; nothing when it is missing.

        Raises SetupError for a name that no local file can have, OSError.
        """
        try:
            found = self._call("find", self._base, detail=True)
            # Where a file and a directory have one name, this second answer hides the file.
            with_directories = self._call("find", self._base, detail=True, withdirs=True)
        except FileNotFoundError:
            return Listing()
        listing = Listing()
        for key, info in {**with_directories, **found}.items():
            name = key[len(self._base) + 1 :]
            if not name:
                continue
            if key not in found or key.endswith("/") or info["type"] == "directory":
                listing.directories.add(name.removesuffix("/"))
            else:
                listing.files[name] = _remote(info)
        _check_names(self.prefix, listing)
        return listing

    def find(self, name: str) -> Remote | None:
        """Return the object called `name`, or None. Raises OSError."""
        try:
            info = self._call("info", self._key(name))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else _remote(info)

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the file ends sooner.

        Raises OSError.
        """
        data: bytes = self._call("cat_file", self._key(name), start=start, end=end)
        return data

    def digest(self, name: str, size: int) -> str:
        """Return the MD5 of the first `size` bytes of an object. Raises OSError."""
        digest = hashlib.md5(usedforsecurity=False)
        for start in range(0, size, BLOCK):
            digest.update(self.read(name, start, min(start + BLOCK, size)))
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove an object. Raises OSError."""
        self._call("rm_file", self._key(name))

    def write(self, name: str, data: bytes) -> str:
        """Write a small object and return its version. Raises OSError."""
        answer = self._call("pipe_file", self._key(name), data)
        if isinstance(answer, Mapping) and answer.get("ETag"):
            return _version(answer)
        return self._written(name)

    def write_large(
        self, name: str, size: int, blocks: Iterator[bytes], before: Callable[[], None]
    ) -> str:
        """Write an object of `size` bytes in parts and return its version.

        `before` is called when all parts are there and before the object appears; what it or
        `blocks` raises leaves no object behind. Raises OSError.
        """
        block_size = max(BLOCK, -(-size // _MOST_PARTS))
        with self._large, self._turn:
            file = self._fs.open(self._key(name), "wb", block_size=block_size)
            try:
                for block in blocks:
                    self._check_running()
                    file.write(block)
                before()
                file.close()
            except BaseException:
                _discard(file)
                raise
        return self._written(name)

    def _written(self, name: str) -> str:
        remote = self.find(name)
        if remote is None:
            raise OSError(f"{self.prefix}{name} was written, and is not there")
        return remote.version

    def _key(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        for wait in (*_AGAIN_AFTER, None):
            self._check_running()
            try:
                with self._turn:
                    return getattr(self._fs, method)(*arguments, **options)
            except Exception as error:
                if failure_of(error) is not Failure.UNAVAILABLE or wait is None:
                    raise
            self.stopping.wait(wait)
        raise AssertionError("unreachable")

    def _check_running(self) -> None:
        if self.stopping.is_set():
            raise Stopped


def _discard(file: Any) -> None:
    """Give up what was written to `file`: fsspec's files publish it when they are collected."""
    from fsspec.spec import AbstractBufferedFile

    file.discard()
    if isinstance(file, AbstractBufferedFile):
        file.closed = True


def _remote(info: Mapping[str, Any]) -> Remote:
    size = int(info.get("size") or 0)
    modified = modified_ns(info)
    return Remote(size, _version(info) or f"{size}-{modified}", modified)


def _version(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "e_tag"):
        if info.get(name):
            return str(info[name]).strip('"')
    return ""


def _check_names(prefix: str, listing: Listing) -> None:
    """Refuse what a local folder cannot hold. Raises SetupError."""
    for name in (*listing.files, *listing.directories):
        parts = name.split("/")
        if not has_plain_parts(name):
            reason = "it has an empty part, `.` or `..`"
        elif "\0" in name or any(len(part.encode()) > _LONGEST_PART for part in parts):
            reason = f"a part of it is longer than {_LONGEST_PART} bytes, or has a zero byte"
        elif any("/".join(parts[:end]) in listing.files for end in range(1, len(parts))):
            reason = "a part of it is a file as well"
        elif name in listing.files and name in listing.directories:
            reason = "it is a file and a directory"
        else:
            continue
        raise SetupError(
            f"{prefix}{name} cannot be a local file: {reason}",
            "rename or remove it, or use mount=stream for this location",
        )


# ====== Single files ======


def download(
    bucket: Bucket,
    name: str,
    remote: Remote,
    part: str,
    read_all: Callable[[list[tuple[int, int]]], Iterator[bytes]],
) -> int:
    """Write what an object holds to the file `part`; return how many bytes were fetched.

    A beginning that is there already is kept. `read_all` yields the bytes of ranges in order,
    and may fetch several at once. Raises OSError, also when the object has another size now.
    """
    with open(part, "ab") as file:
        start = file.tell()
        ranges = [
            (begin, min(begin + BLOCK, remote.size)) for begin in range(start, remote.size, BLOCK)
        ]
        for data in read_all(ranges):
            file.write(data)
        size = file.tell()
    if size != remote.size:
        os.unlink(part)
        raise ChangedError(f"{bucket.prefix}{name} is not as long as it was listed")
    return size - start


class ChangedError(OSError):
    """An object is not what it was when it was listed."""


def upload(
    bucket: Bucket,
    name: str,
    path: str,
    state: FileState,
    begin: Callable[[str], None],
    may_grow: bool = False,
) -> str:
    """Copy the local file at `path`, whose content is `state`, and return the new version.

    Nothing is published when the file is not `state` before and after it was read. With
    `may_grow` its first `state.size` bytes are copied, however it grows meanwhile. `begin` gets
    the MD5 before the object appears. Raises ChangingError, OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ChangingError(f"{path} was removed before it was read") from None
    with open(descriptor, "rb") as file:
        check_unchanged(path, file.fileno(), state, may_grow)

        def check() -> None:
            check_unchanged(path, file.fileno(), state, may_grow)
            begin(digest.hexdigest())

        digest = hashlib.md5(usedforsecurity=False)
        if state.size <= BLOCK:
            data = file.read(state.size)
            digest.update(data)
            check()
            return bucket.write(name, data)

        def blocks() -> Iterator[bytes]:
            left = state.size
            while left and (block := file.read(min(left, BLOCK))):
                left -= len(block)
                digest.update(block)
                yield block

        return bucket.write_large(name, state.size, blocks(), check)
