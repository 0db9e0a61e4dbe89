"""Files that are being written, on the local disk, and directories that hold nothing yet.

An object store has neither: an object appears whole when its upload ends, and a directory is
the objects below it. What this process has written or made so far is kept here, so that it can
see it, as it would on a local disk.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from pai_runner.script.growing import Growing
from pai_runner.script.passing import PassingFile
from pai_runner.script.stores import parent
from pai_runner.storage.mounts import is_below, is_root

# At most this share of the time goes into uploading a file that is still being written, and it is
# uploaded before its time when so many bytes are new.
_UPLOAD_SHARE = 0.1
_MANY_NEW = 16 * 1024 * 1024


class Staged:
    """A file on the local disk that is, or will be, the file at `path`.

    `writers` counts those that have it open. A write to it failed when `is_failed`, by `failure`
    where the system does not say why; its last upload at the end of the process when `is_lost`.
    `is_detached` says that its path was removed or taken by another file meanwhile: as on a local
    disk, its writers write on, for nobody.

    `uploading` is held by whoever reads the file to upload it, or cuts it. `growing` is what was
    sent of the file while it is written, where `may_grow` allows it; both belong to the holder.
    """

    def __init__(
        self, path: str, folder: str | None = None, passing: PassingFile | None = None
    ) -> None:
        """The local file is made in `folder`, by default in TMPDIR, or is `passing`."""
        self.path = path
        self.passing = passing
        self.local = passing.path if passing else _new_file(folder or tempfile.gettempdir())
        self.writers = 0
        self.is_failed = False
        self.failure: BaseException | None = None
        self.is_lost = False
        self.is_detached = False
        self.uploading = threading.Lock()
        self.growing: Growing | None = None
        self.may_grow = True
        self._uploaded = -1
        self._last_upload = time.monotonic()
        self._upload_seconds = 0.0

    @property
    def size(self) -> int:
        """Bytes that have reached the local file."""
        return self.passing.size if self.passing else os.path.getsize(self.local)

    @property
    def has_holes(self) -> bool:
        """Whether some of it is in its store alone: it can become one object only."""
        return self.passing is not None and self.passing.has_holes

    @property
    def is_uploaded(self) -> bool:
        return self._uploaded == self.size

    def unlink(self) -> None:
        """Remove the local file; those who have it open keep it to themselves."""
        self.is_detached = True
        if self.passing is not None:
            self.passing.close()
            return
        with suppress(FileNotFoundError):  # something else cleaned the folder
            os.unlink(self.local)

    def open(self, truncate: bool) -> int:
        """Return a new descriptor that appends to the file.

        To truncate it `uploading` must be held: an upload maps it into memory.
        """
        if self.passing is not None:
            descriptor = self.passing.open()
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
            # An ext4 would wait at the close for the disk, even where there was nothing to cut:
            # kernel.org/doc/html/latest/admin-guide/ext4.html, auto_da_alloc.
            flags |= os.O_TRUNC if truncate and self.size else 0
            descriptor = os.open(self.local, flags)
        if truncate:
            self._uploaded = -1
        self.writers += 1
        return descriptor

    def open_to_read(self) -> int:
        """Return a new descriptor that reads the file. Raises OSError."""
        if self.passing is not None:
            return self.passing.open_to_read()
        return os.open(self.local, os.O_RDONLY | os.O_CLOEXEC)

    def is_due(self, period: float) -> bool:
        """Tell whether to upload now what is written so far.

        It is when it was uploaded `period` seconds ago, or when much is new since.
        """
        passed = time.monotonic() - self._last_upload
        if passed < self._upload_seconds / _UPLOAD_SHARE:
            return False
        return passed >= period or self.size - max(0, self._uploaded) > _MANY_NEW

    def rename(self, path: str) -> None:
        """Be the file at another path, where nothing of it was uploaded yet."""
        self.path = path
        self._uploaded = -1

    def begin_upload(self) -> int:
        """Note that an upload begins; return how many bytes it covers at least."""
        self._last_upload = time.monotonic()
        return self.size

    def end_upload(self, size: int) -> None:
        self._uploaded = size
        self._upload_seconds = time.monotonic() - self._last_upload
        self._last_upload = time.monotonic()


def _new_file(folder: str) -> str:
    try:
        # The process number tells whose a file is that a killed process left behind.
        descriptor, path = tempfile.mkstemp(prefix=f"pai-{os.getpid()}-", dir=folder)
    except FileNotFoundError:
        raise OSError(errno.EIO, f"the folder for temporary files is gone: {folder}") from None
    os.close(descriptor)
    return path


class Staging:
    """The staged files by path, and the directories that this process knows of."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._files: dict[str, Staged] = {}
        self._directories: set[str] = set()

    def after_fork(self) -> None:
        """Leave the parent's files to the parent."""
        for staged in self._files.values():
            if staged.passing is not None:
                staged.passing.after_fork()
        self.lock = threading.RLock()
        self._files = {}

    # ====== Files ======

    def file(self, path: str) -> Staged | None:
        return self._files.get(path)

    def files(self) -> list[Staged]:
        """Return all staged files, the oldest first."""
        with self.lock:
            return list(self._files.values())

    def files_below(self, directory: str) -> list[Staged]:
        return [staged for staged in self.files() if is_below(staged.path, directory)]

    def add(self, staged: Staged) -> None:
        """Take `staged` in, in place of any other file at its path."""
        with self.lock:
            self.detach(staged.path)
            self._files[staged.path] = staged
            self.add_directory(parent(staged.path))

    def move(self, staged: Staged, path: str) -> None:
        with self.lock:
            self._files.pop(staged.path, None)
            staged.rename(path)
            self.add(staged)

    def detach(self, path: str) -> Staged | None:
        """Take `path` from the file that is staged for it, if there is one."""
        with self.lock:
            staged = self._files.pop(path, None)
            if staged is not None:
                staged.unlink()
        return staged

    def discard(self, staged: Staged) -> None:
        """Forget a staged file, uploaded or given up."""
        with self.lock:
            if self._files.get(staged.path) is staged:
                self.detach(staged.path)

    def open(self, path: str) -> int | None:
        """Return a descriptor that reads the file staged for `path`, or None."""
        with self.lock:
            staged = self._files.get(path)
            return None if staged is None else staged.open_to_read()

    # ====== Directories ======

    def has_directory(self, path: str) -> bool:
        with self.lock:
            return path in self._directories

    def add_directory(self, path: str) -> None:
        """Note that `path` is a directory, and with it all above."""
        with self.lock:
            while not is_root(path) and path not in self._directories:
                self._directories.add(path)
                path = parent(path)

    def remove_directory(self, path: str) -> None:
        """Forget `path` and all directories below it."""
        with self.lock:
            self._directories = {
                known for known in self._directories if known != path and not is_below(known, path)
            }

    def directories_below(self, path: str) -> list[str]:
        with self.lock:
            return [known for known in self._directories if is_below(known, path)]

    def children(self, directory: str) -> Iterator[tuple[str, bool]]:
        """Yield name and whether it is a directory, of what lies directly in `directory`."""
        with self.lock:
            for path in self._directories:
                if parent(path) == directory:
                    yield path.rpartition("/")[2], True
            for path in self._files:
                if parent(path) == directory:
                    yield path.rpartition("/")[2], False
