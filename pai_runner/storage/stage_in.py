"""Copies a directory of a bucket into a local folder before the script starts."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, field
from hashlib import sha256

from pai_runner.errors import SetupError
from pai_runner.storage.lanes import lanes
from pai_runner.storage.names import has_plain_parts, is_in_hands
from pai_runner.storage.objects import PART
from pai_runner.storage.stage_files import FileState, walk
from pai_runner.storage.stage_folder import StageFolder
from pai_runner.storage.stage_progress import Progress, in_words
from pai_runner.storage.transfer import (
    BLOCKS_AHEAD,
    Bucket,
    ChangedError,
    Listing,
    Remote,
    write_all,
)

# Up to this size a file is read in one request, and as many of them at once as the lanes allow.
_SMALL = 2 * 1024 * 1024
# What a local file's name can hold on the usual file systems.
_LONGEST_PART = 255
# A directory that changes while it is copied is listed and copied again, this many times.
_ROUNDS = 3
# What stays free, as a part of what is copied: the script needs room, too.
_MARGIN = 0.05


class _Download:
    """The local file `part`, which becomes what the object `name` holds.

    It grows from its beginning only: what a mover that was killed left of it is kept.
    """

    def __init__(self, bucket: Bucket, name: str, remote: Remote, part: str) -> None:
        """No request is made. Raises OSError."""
        self.name = name
        self.remote = remote
        self.part = part
        self.fetched = 0
        self.has_changed = False
        """Set by who got a ChangedError: the rest need not be asked for."""
        self._bucket = bucket
        self._size = os.path.getsize(part) if os.path.exists(part) else 0
        if self._size > remote.size:  # damaged
            os.unlink(part)
            self._size = 0

    @property
    def missing(self) -> range:
        """Where the blocks start that are missing now; each has up to PART bytes."""
        return range(self._size, self.remote.size, PART)

    @property
    def is_complete(self) -> bool:
        return self._size == self.remote.size

    def fetch(self, start: int, buffers: deque[memoryview]) -> memoryview:
        """Return the block that begins at `start`, in one of the buffers or in a new one.

        Raises ChangedError, OSError.
        """
        try:
            buffer = buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(PART))
        block = buffer[: self.remote.size - start]
        self._bucket.read(self.name, self.remote, start, block)
        return block

    def append(self, block: memoryview) -> None:
        """Write the next block. Raises OSError."""
        with open(self.part, "ab", buffering=0) as file:
            write_all(file.fileno(), block)
        self._size += len(block)
        self.fetched += len(block)


@dataclass
class CopyIn:
    """The copy of `bucket` into `folder`."""

    bucket: Bucket
    folder: StageFolder
    _copied: list[int] = field(default_factory=list)
    _listing: Listing = field(default_factory=Listing)
    _missing: dict[str, Remote] = field(default_factory=dict)

    @property
    def files(self) -> int:
        """How many files were copied."""
        return len(self._copied)

    @property
    def bytes(self) -> int:
        """How many bytes were fetched."""
        return sum(self._copied)

    def prepare(self) -> int:
        """Bring the folder to what it has in common with the bucket; return the bytes to copy.

        Raises SetupError, OSError.
        """
        self._listing = self.bucket.list()
        _check_names(self.bucket.prefix, self._listing)
        kept = self._drop_local_changes()
        self._missing = {
            name: remote
            for name, remote in self._listing.files.items()
            if name not in kept and not is_in_hands(name)
        }
        # Beginnings of what takes long are kept.
        wanted = {
            os.path.basename(self._part(name, remote))
            for name, remote in self._missing.items()
            if remote.size > _SMALL
        }
        there = 0
        for name in os.listdir(self.folder.parts):
            path = os.path.join(self.folder.parts, name)
            if name in wanted:
                there += os.path.getsize(path)
            else:
                os.unlink(path)
        return sum(remote.size for remote in self._missing.values()) - there

    def run(self, progress: Progress) -> None:
        """Copy all that is missing. Raises SetupError, OSError.

        After the copy the bucket is listed once more: what another wrote meanwhile is copied
        again, a few times. Then each file is as it was at some moment.
        """
        for _ in range(_ROUNDS):
            self._make_directories()
            self._copy_missing(progress)
            self.prepare()
            if not self._missing:
                self._make_directories()
                return
        self._make_directories()
        for name in self._copy_missing(progress):
            raise SetupError(
                f"{self.bucket.prefix}{name} changes all the time: it cannot be copied",
                "wait for its writer, or use mount=stream for this location",
            )

    def _drop_local_changes(self) -> set[str]:
        """Remove what the bucket does not hold in this version; return the names that stay."""
        manifest, remotes = self.folder.manifest, self._listing.files
        kept = {
            name
            for name, state in walk(self.folder.files).files.items()
            if name in remotes
            and manifest.is_same(name, state)
            and manifest.version(name) == remotes[name].version
            and not os.path.islink(os.path.join(self.folder.files, name))
        }
        top = len(self.folder.files) + 1
        for directory, folders, files in os.walk(self.folder.files, topdown=False):
            for name in (*files, *folders):
                path = os.path.join(directory, name)
                if name in folders and not os.path.islink(path):
                    if not os.listdir(path):
                        os.rmdir(path)
                elif path[top:] not in kept:
                    os.unlink(path)
        for name in [name for name in manifest.entries if name not in kept]:
            manifest.gone(name)
        return kept

    def _make_directories(self) -> None:
        names = {os.path.dirname(name) for name in self._missing} | self._listing.directories
        for name in names:
            os.makedirs(os.path.join(self.folder.files, name), exist_ok=True)

    def _copy_missing(self, progress: Progress) -> list[str]:
        """Copy what is missing; return the names of what changed meanwhile."""
        changed: list[str] = []

        def copy(name: str) -> None:
            try:
                self._copy_small(name, progress)
            except ChangedError:
                changed.append(name)

        _each(copy, [name for name, remote in self._missing.items() if remote.size <= _SMALL])
        self._copy_large(
            [name for name, remote in self._missing.items() if remote.size > _SMALL],
            progress,
            changed,
        )
        return changed

    def _copy_small(self, name: str, progress: Progress) -> None:
        listed = self._missing[name]
        data, remote = self.bucket.read_whole(name, listed)
        part = self._part(name, listed)
        with open(part, "wb", buffering=0) as file:
            write_all(file.fileno(), data)
        progress.add(len(data))
        self._publish(name, remote, part, len(data))

    def _copy_large(self, names: Sequence[str], progress: Progress, changed: list[str]) -> None:
        """Copy files by their blocks, which are fetched at once and written in their order."""
        waiting: deque[tuple[_Download, Future[memoryview]]] = deque()
        buffers: deque[memoryview] = deque()  # that were written, and are filled again

        def take() -> None:
            download, block = waiting.popleft()
            if download.has_changed:
                block.cancel()
                return
            try:
                data = block.result()
            except ChangedError:
                download.has_changed = True
                changed.append(download.name)
                return
            download.append(data)
            progress.add(len(data))
            buffers.append(memoryview(data.obj))
            if download.is_complete:
                self._publish(download.name, download.remote, download.part, download.fetched)

        try:
            for name in names:
                remote = self._missing[name]
                download = _Download(self.bucket, name, remote, self._part(name, remote))
                # What is there whole already is published by a last, empty block.
                for start in download.missing or (remote.size,):
                    waiting.append((download, lanes().submit(download.fetch, start, buffers)))
                    if len(waiting) == BLOCKS_AHEAD:
                        take()
                    if download.has_changed:
                        break
            while waiting:
                take()
        finally:
            for _, block in waiting:
                block.cancel()

    def _publish(self, name: str, remote: Remote, part: str, fetched: int) -> None:
        """Give a complete file its name."""
        if remote.modified_ns:
            os.utime(part, ns=(time.time_ns(), remote.modified_ns))
        # Noted first: a file that is not noted would count as the script's.
        state = FileState.of(os.stat(part))
        self.folder.manifest.copied(name, state.content, remote.version)
        os.rename(part, os.path.join(self.folder.files, name))
        self._copied.append(fetched)

    def _part(self, name: str, remote: Remote) -> str:
        """Return the file for an unfinished download of exactly this version."""
        key = f"{name}\n{remote.version}\n{remote.size}"
        return os.path.join(self.folder.parts, sha256(key.encode()).hexdigest())


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


def check_space(folder: str, needed: int) -> None:
    """Check that `needed` bytes fit on the disk of `folder`. Raises SetupError."""
    free = shutil.disk_usage(folder).free
    if needed * (1 + _MARGIN) > free:
        raise SetupError(
            f"{folder}: {in_words(needed)} are to be copied there, and {in_words(free)} are free",
            "set PAI_STAGE_DIR to a folder on a larger disk, or use mount=stream",
        )


def _each(action: Callable[[str], None], names: Sequence[str]) -> None:
    """Do `action` for every name at once; after an error begin no more, and raise it."""
    futures = [lanes().submit(action, name) for name in names]
    done, running = wait(futures, return_when=FIRST_EXCEPTION)
    for future in running:
        future.cancel()
    wait(futures)
    for future in done:
        future.result()
