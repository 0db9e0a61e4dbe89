"""Copies a directory of a bucket into a local folder before the script starts."""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from hashlib import sha256

from pai_runner.errors import SetupError
from pai_runner.storage.names import is_in_hands
from pai_runner.storage.stage_files import FileState, walk
from pai_runner.storage.stage_folder import StageFolder
from pai_runner.storage.stage_progress import Progress, in_words
from pai_runner.storage.transfer import BLOCK, Bucket, ChangedError, Listing, Remote, download

# Blocks of one large file in flight.
_BLOCKS_AHEAD = 8
# A directory that changes while it is copied is listed and copied again, this many times.
_ROUNDS = 3
# What stays free, as a part of what is copied: the script needs room, too.
_MARGIN = 0.05


@dataclass
class CopyIn:
    """The copy of `bucket` into `folder`."""

    bucket: Bucket
    folder: StageFolder
    pool: ThreadPoolExecutor
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
        kept = self._drop_local_changes()
        self._missing = {
            name: remote
            for name, remote in self._listing.files.items()
            if name not in kept and not is_in_hands(name)
        }
        wanted = {os.path.basename(self._part(*item)) for item in self._missing.items()}
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
        for directory, folders, files in os.walk(self.folder.files, topdown=False):
            for name in (*files, *folders):
                path = os.path.join(directory, name)
                if name in folders and not os.path.islink(path):
                    if not os.listdir(path):
                        os.rmdir(path)
                elif os.path.relpath(path, self.folder.files) not in kept:
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
        small = [name for name, remote in self._missing.items() if remote.size <= BLOCK]
        large = [name for name, remote in self._missing.items() if remote.size > BLOCK]
        changed: list[str] = []

        def copy(name: str, read_all: _ReadAll) -> None:
            try:
                self._copy(name, read_all, progress)
            except (ChangedError, FileNotFoundError):
                changed.append(name)

        _each(self.pool, lambda name: copy(name, self._in_turn(name)), small)
        for name in large:  # one after the other: each has many requests in flight
            copy(name, self._in_parallel(name))
        return changed

    def _copy(self, name: str, read_all: _ReadAll, progress: Progress) -> None:
        remote, part = self._missing[name], self._part(name, self._missing[name])

        def counted(ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
            for data in read_all(ranges):
                progress.add(len(data))
                yield data

        fetched = download(self.bucket, name, remote, part, counted)
        path = os.path.join(self.folder.files, name)
        if remote.modified_ns:
            os.utime(part, ns=(time.time_ns(), remote.modified_ns))
        # Noted first: a file that is not noted would count as the script's.
        state = FileState.of(os.stat(part))
        self.folder.manifest.copied(name, state.content, remote.version)
        os.rename(part, path)
        self._copied.append(fetched)

    def _part(self, name: str, remote: Remote) -> str:
        """Return the file for an unfinished download of exactly this version."""
        key = f"{name}\n{remote.version}\n{remote.size}"
        return os.path.join(self.folder.parts, sha256(key.encode()).hexdigest())

    def _in_turn(self, name: str) -> _ReadAll:
        def read_all(ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
            return (self.bucket.read(name, start, end) for start, end in ranges)

        return read_all

    def _in_parallel(self, name: str) -> _ReadAll:
        def read_all(ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
            waiting: deque[Future[bytes]] = deque()
            try:
                for start, end in ranges:
                    waiting.append(self.pool.submit(self.bucket.read, name, start, end))
                    if len(waiting) == _BLOCKS_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

        return read_all


_ReadAll = Callable[[Sequence[tuple[int, int]]], Iterator[bytes]]


def check_space(folder: str, needed: int) -> None:
    """Check that `needed` bytes fit on the disk of `folder`. Raises SetupError."""
    free = shutil.disk_usage(folder).free
    if needed * (1 + _MARGIN) > free:
        raise SetupError(
            f"{folder}: {in_words(needed)} are to be copied there, and {in_words(free)} are free",
            "set PAI_STAGE_DIR to a folder on a larger disk, or use mount=stream",
        )


def _each(pool: ThreadPoolExecutor, action: Callable[[str], None], names: Sequence[str]) -> None:
    """Do `action` for every name at once; after an error begin no more, and raise it."""
    futures = [pool.submit(action, name) for name in names]
    done, running = wait(futures, return_when=FIRST_EXCEPTION)
    for future in running:
        future.cancel()
    wait(futures)
    for future in done:
        future.result()
