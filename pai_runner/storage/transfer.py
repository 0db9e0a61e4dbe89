"""One directory of a bucket, narrowed to what staging needs of it, and copies of single files.

Names here are paths below that directory. Requests are repeated below this module (see `attempts`);
every call ends with `Stopped` soon after the mover was told to stop.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pai_runner.location import OBJECT_STORES
from pai_runner.storage.checksums import crc64, crc64_of_parts
from pai_runner.storage.filesystems import (
    check_directory,
    filesystem,
    modified_ns,
    options_at,
    turn_of,
)
from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART, Described, Objects, open_objects, part_size
from pai_runner.storage.stage_files import ChangingError, FileState, check_unchanged
from pai_runner.storage.uploads import ParallelUpload

# Parts of one file on their way at once; each is in memory meanwhile.
_PARTS_AT_ONCE = 8
# Blocks of large files that are fetched at once, or wait for those before them: in memory.
BLOCKS_AHEAD = 16
# A small file may have grown by so much since it was listed, and is read whole all the same.
_GROWTH = 64 * 1024


class Stopped(Exception):
    """The mover was told to give up."""


class ChangedError(OSError):
    """An object is not what it was when it was listed."""


class Remote(NamedTuple):
    """An object: its size, its ETag (empty where there is none), and when it was written."""

    size: int
    etag: str
    modified_ns: int

    @property
    def version(self) -> str:
        """What tells this version of the object from others."""
        return self.etag or f"{self.size}-{self.modified_ns}"


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
        options = options_at(prefix, options)
        # Then the files tell all directories.
        self._is_flat = protocol in OBJECT_STORES
        self._fs = filesystem(protocol, options)
        self._objects = open_objects(protocol, options, self._fs)
        self._base: str = self._fs._strip_protocol(prefix).rstrip("/")
        self._turn = turn_of(self._fs)

    def key(self, name: str) -> str:
        """Return what the object is called in messages: `bucket/key`."""
        return f"{self._base}/{name}"

    def close(self) -> None:
        """Let what is under way end soon; `stopping` is set before."""
        self._objects.close()

    def check(self) -> None:
        """Check that the bucket is there and answers. Raises SetupError."""
        check_directory(self._fs, self.prefix)

    def list(self) -> Listing:
        """Return what is below the directory; nothing when it is missing.

        Raises OSError.
        """
        try:
            found = self._find(withdirs=False)
            # Where a file and a directory have one name, this second answer hides the file.
            entries = found if self._is_flat else {**self._find(withdirs=True), **found}
        except FileNotFoundError:
            return Listing()
        listing = Listing()
        for key, info in entries.items():
            name = key[len(self._base) + 1 :]
            if not name:
                continue
            if key not in found or key.endswith("/") or info["type"] == "directory":
                listing.directories.add(name.removesuffix("/"))
            else:
                listing.files[name] = _remote(info)
        return listing

    def find(self, name: str) -> Remote | None:
        """Return the object called `name`, or None. Raises OSError."""
        try:
            with self._running():
                if not self._objects.has_parts:
                    info = self._fs.info(self.key(name))
                    return None if info["type"] == "directory" else _remote(info)
                found = self._objects.describe(self.key(name))
        except FileNotFoundError:
            return None
        return Remote(found.size, found.etag, found.modified_ns)

    def read_whole(self, name: str, remote: Remote) -> tuple[memoryview, Remote]:
        """Return what a small object holds that was listed as `remote`, and as what it was read.

        One answer is of one version, which may be a later one. Raises ChangedError where the object
        is gone, or has grown much; OSError.
        """
        if not remote.size:
            return memoryview(b""), remote
        data = memoryview(bytearray(remote.size + _GROWTH))
        count, now = self._read_into(name, 0, data, None)
        if count == remote.size and now.etag in ("", remote.etag):
            return data[:count], remote
        if count != now.size or not now.etag:
            raise ChangedError(f"{self.prefix}{name} is not as long as it was listed")
        return data[:count], Remote(now.size, now.etag, now.modified_ns)

    def read(self, name: str, remote: Remote, start: int, into: memoryview) -> None:
        """Fill `into` with the bytes from `start` of an object that was found as `remote`.

        Raises ChangedError where it is another one now, or gone; OSError.
        """
        if len(into):
            count, now = self._read_into(name, start, into, remote.etag or None)
            if count != len(into) or now.size != remote.size:
                raise ChangedError(f"{self.prefix}{name} is not as long as it was listed")

    def _read_into(
        self, name: str, start: int, data: memoryview, etag: str | None
    ) -> tuple[int, Described]:
        try:
            with self._running():
                return self._objects.read_into(self.key(name), start, data, etag)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE:
                raise ChangedError(f"{self.prefix}{name} is not what it was") from error
            raise

    def digest(self, name: str, remote: Remote) -> int:
        """Return the CRC64 of an object that was found as `remote`. Raises OSError."""
        digest = 0
        buffer = memoryview(bytearray(min(PART, remote.size)))
        for start in range(0, remote.size, PART):
            block = buffer[: remote.size - start]
            self.read(name, remote, start, block)
            digest = crc64(block, digest)
        return digest

    def remove(self, name: str) -> None:
        """Remove an object. Raises OSError."""
        with self._running():
            self._fs.rm_file(self.key(name))

    def write(self, name: str, data: bytes) -> str:
        """Write a small object and return its version. Raises OSError."""
        with self._running():
            etag = self._objects.put(self.key(name), data)
        return etag or self._written(name)

    def write_large(
        self,
        name: str,
        size: int,
        read: Callable[[int, int], bytes],
        before: Callable[[int], None],
    ) -> str:
        """Write an object of `size` bytes in parts and return its version.

        `read(start, count)` gives its bytes, on several threads at once. `before` gets the CRC64
        when all parts are there and before the object appears. What they raise leaves no object
        behind. Raises OSError.
        """
        if not self._objects.has_parts:
            self._stream(name, size, read, before)
            return self._written(name)
        with self._running():
            parallel = ParallelUpload(self._objects.upload(self.key(name)), _PARTS_AT_ONCE)
        try:
            part = part_size(size)
            starts = range(0, size, part)
            checksums = [(0, 0)] * len(starts)

            def send(number: int) -> None:
                start = starts[number]
                with self._running():
                    data = read(start, min(part, size - start))
                    checksums[number] = crc64(data), len(data)
                    parallel.upload.send(number + 1, data)

            for number in range(len(starts)):
                parallel.add(partial(send, number))
            parallel.wait()
            with self._running():
                before(crc64_of_parts(checksums))
                return parallel.upload.complete() or self._written(name)
        except BaseException:
            parallel.abort()
            raise

    def _stream(
        self,
        name: str,
        size: int,
        read: Callable[[int, int], bytes],
        before: Callable[[int], None],
    ) -> None:
        """Do the same through a file of a filesystem that knows no uploads in parts."""
        digest = 0
        with self._turn:
            key = self.key(name)
            self._fs.makedirs(self._fs._parent(key), exist_ok=True)
            file = self._fs.open(key, "wb", block_size=part_size(size))
            try:
                for start in range(0, size, PART):
                    with self._running():
                        data = read(start, min(PART, size - start))
                        digest = crc64(data, digest)
                        file.write(data)
                before(digest)
                file.close()
            except BaseException:
                _discard(file)
                raise

    def _written(self, name: str) -> str:
        remote = self.find(name)
        if remote is None:
            raise OSError(f"{self.prefix}{name} was written, and is not there")
        return remote.version

    def _find(self, withdirs: bool) -> dict[str, Any]:
        with self._running():
            found: dict[str, Any] = self._fs.find(self._base, detail=True, withdirs=withdirs)
            return found

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Do what is inside, where it may be done at once; raise Stopped when it is too late."""
        self._check_running()
        try:
            with self._turn:
                yield
        except OSError:
            self._check_running()  # then that is why
            raise

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
    etags = (str(info[name]).strip('"') for name in ("ETag", "etag", "e_tag") if info.get(name))
    return Remote(int(info.get("size") or 0), next(etags, ""), modified_ns(info))


# ====== Single files ======


def download_file(objects: Objects, path: str, local: str) -> None:
    """Write what an object holds to a local file, blocks of it at once.

    Raises FileNotFoundError, and OSError: then the file is incomplete.
    """
    first = memoryview(bytearray(PART))
    count, found = objects.read_into(path, 0, first)
    with open(local, "wb", buffering=0) as file:
        write_all(file.fileno(), first[:count])
        for block in _blocks(objects, path, found, count):
            write_all(file.fileno(), block)


def _blocks(objects: Objects, path: str, found: Described, start: int) -> Iterator[memoryview]:
    """Yield the bytes from `start` on of the object that was found, in their order."""

    def fetch(start: int) -> memoryview:
        block = memoryview(bytearray(min(PART, found.size - start)))
        count, _ = objects.read_into(path, start, block, found.etag or None)
        if count != len(block):
            raise OSError(errno.ESTALE, f"{path}: it was changed meanwhile")
        return block

    waiting: deque[Future[memoryview]] = deque()
    try:
        for one in range(start, found.size, PART):
            waiting.append(lanes().submit(fetch, one))
            if len(waiting) == BLOCKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of `data` to a file. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def upload(
    bucket: Bucket,
    name: str,
    path: str,
    state: FileState,
    begin: Callable[[int], None],
    may_grow: bool = False,
) -> str:
    """Copy the local file at `path`, whose content is `state`, and return the new version.

    Nothing is published when the file is not `state` before and after it was read. With
    `may_grow` its first `state.size` bytes are copied, however it grows meanwhile. `begin` gets
    the CRC64 before the object appears. Raises ChangingError, OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ChangingError(f"{path} was removed before it was read") from None
    with open(descriptor, "rb", buffering=0):
        check_unchanged(path, descriptor, state, may_grow)

        def read(start: int, count: int) -> bytes:
            # Not mapped: a script that shortens its file would end this process by a signal.
            data = os.pread(descriptor, count, start)
            if len(data) != count:
                raise ChangingError(f"{path} was shortened while it was read")
            return data

        def publish(digest: int) -> None:
            check_unchanged(path, descriptor, state, may_grow)
            begin(digest)

        if state.size > PART:
            return bucket.write_large(name, state.size, read, publish)
        data = read(0, state.size)
        publish(crc64(data))
        return bucket.write(name, data)
