"""The operations of TensorFlow's file layer, on the remote stores and the staged files.

Paths are whole names, `s3://bucket/key`, in any form TensorFlow passes on. A failure is raised
as the OSError that Python's own functions raise for local files.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from pai_runner.location import plain_path
from pai_runner.script.background import Background, entry_of
from pai_runner.script.matching import matching
from pai_runner.script.readers import LocalReader, Offer, Reader
from pai_runner.script.remote_files import HEAD, RemoteFiles
from pai_runner.script.staging import Staged, Staging
from pai_runner.script.stores import Entry, Store, Stores, is_bucket, parent
from pai_runner.script.writers import Writers, is_alone
from pai_runner.storage.mounts import clean, is_below

# gfile.walk lists a directory, then asks for each entry whether it is a directory: the listing
# answers as long as it is as fresh as this.
_LISTING_SECONDS = 5.0


def _nothing_on_offer(address: int, start: int, size: int) -> None:
    """What a reader offers for whom there is no compiled part."""


class FileLayer:
    """What TensorFlow can do with files that are not local."""

    def __init__(
        self,
        stores: Stores,
        on_change: Callable[[], None],
        upload_seconds: float,
        saves_behind: bool = False,
    ) -> None:
        """With `saves_behind` checkpoints are uploaded in the background."""
        self._stores = stores
        self._staging = Staging()
        self._files = RemoteFiles()
        self.background = Background(stores, on_change, saves_behind, is_alone)
        self.writers = Writers(stores, self._staging, on_change, upload_seconds, self.background)
        self._listings: dict[str, tuple[float, dict[str, Entry]]] = {}

    def after_fork(self) -> None:
        """Make the layer the child's own: its locks, connections and files."""
        self._stores.after_fork()
        self._staging.after_fork()
        self._files.after_fork()
        self.background.after_fork()

    # ====== Looking ======

    def exists(self, path: str) -> bool:
        return self._find(clean(path)) is not None

    def stat(self, path: str) -> Entry:
        return self._found(clean(path))

    def is_directory(self, path: str) -> bool:
        path = clean(path)
        return (self._listed(path) or self._found(path)).is_directory

    def children(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(self._list(clean(path)))

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that match `pattern`, sorted."""
        return matching(plain_path(pattern), self.exists, lambda path: self._list(clean(path)))

    def _find(self, path: str) -> Entry | None:
        return self._find_local(path) or self._find_remote(path)

    def _find_remote(self, path: str) -> Entry | None:
        """Return what is in the bucket, or will be when nothing waits any more."""
        waiting = self.background.waiting(path)
        return entry_of(waiting) if waiting else self._stores.of(path).find(path)

    def _found(self, path: str) -> Entry:
        entry = self._find(path)
        if entry is None:
            raise _missing()
        return entry

    def _find_local(self, path: str) -> Entry | None:
        """Return what this process itself has written or made at `path`."""
        with self._staging.lock:
            staged = self._staging.file(path)
            if staged is not None:
                return Entry(False, staged.size, os.stat(staged.local).st_mtime_ns)
        return Entry(True) if self._staging.has_directory(path) else None

    def _list(self, path: str) -> dict[str, Entry]:
        waiting = self.background.waiting(path)
        if self._staging.file(path) is not None or (waiting and not waiting.is_removal):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # What moves on meanwhile moves into the bucket: that is looked at last.
        local = {name: Entry(is_directory) for name, is_directory in self._staging.children(path)}
        behind = self.background.entries(path)
        remote = self._stores.of(path).entries(path)
        found = {**(remote or {}), **behind, **local}
        entries = {name: entry for name, entry in found.items() if entry is not None}
        if remote is None and not entries and not self._staging.has_directory(path):
            raise _missing()
        small = (name for name, entry in (remote or {}).items() if 0 < entry.size <= HEAD)
        self._files.listed(path, small)
        self._keep_listing(path, entries)
        return entries

    def _keep_listing(self, path: str, entries: dict[str, Entry]) -> None:
        now = time.monotonic()
        for old, (made, _) in list(self._listings.items()):
            if now - made > _LISTING_SECONDS:
                self._listings.pop(old, None)
        self._listings[path] = (now, entries)

    def _listed(self, path: str) -> Entry | None:
        made, entries = self._listings.get(parent(path), (0.0, {}))
        is_fresh = time.monotonic() - made <= _LISTING_SECONDS
        return entries.get(path.rpartition("/")[2]) if is_fresh else None

    # ====== Files ======

    def open_reader(self, path: str, offer: Offer = _nothing_on_offer) -> Reader:
        path = clean(path)
        descriptor = self._staging.open(path)
        if descriptor is None:
            descriptor = self._open_waiting(path)
        if descriptor is not None:
            return LocalReader(descriptor)
        try:
            return self._files.open(self._stores.of(path), path, offer)
        except FileNotFoundError:
            if self._find_local(path) is None and not self._stores.of(path).is_directory(path):
                raise
            raise _a_directory() from None

    def _open_waiting(self, path: str) -> int | None:
        """Return a descriptor that reads a file that waits for its upload, or None."""
        waiting = self.background.waiting(path)
        if waiting is None:
            return None
        if waiting.is_removal:
            raise _missing()
        return self.background.open(path)

    def open_writer(self, path: str, append: bool) -> tuple[Staged, int]:
        """Return the staged file for `path` and a new descriptor that appends to it."""
        path = clean(path)
        self._refuse_directory(path)
        self._listings.clear()
        self.background.before_writing(path)
        if append and self.background.waiting(path):
            self.background.settle()
        return self.writers.open(path, append)

    def remove_file(self, path: str) -> None:
        path = clean(path)
        self._listings.clear()
        staged = self._detach(path)
        if staged is not None and (
            self.writers.is_temporary(path) or self._find_remote(path) is None
        ):
            return
        if staged is None and self._found(path).is_directory:
            raise _a_directory()
        if self.background.is_empty:
            self._stores.of(path).remove(path)
        else:
            self.background.remove(path)
        self._staging.add_directory(parent(path))

    def rename(self, source: str, target: str) -> None:
        source, target = clean(source), clean(target)
        self._listings.clear()
        staged = self._staging.file(source)
        if staged is None and self._found(source).is_directory:
            self._rename_directory(source, target)
        elif source != target:
            self._refuse_directory(target)
            self._rename_file(staged, source, target)

    def copy(self, source: str, target: str) -> None:
        source, target = clean(source), clean(target)
        self._listings.clear()
        staged = self._staging.file(source)
        if staged is None and self._found(source).is_directory:
            raise _a_directory()
        self._refuse_directory(target)
        if source == target:
            return
        if staged is None:
            self._copy_remote(source, target)
        else:
            self.writers.publish(staged, target)
        self._detach(target)
        self._staging.add_directory(parent(target))

    def _rename_file(self, staged: Staged | None, source: str, target: str) -> None:
        if staged is None:
            self._copy_remote(source, target)
            self._stores.of(source).remove(source)
        elif self.writers.is_temporary(target) or staged.writers:
            self._detach(target)
            with staged.uploading:
                self._staging.move(staged, target)
            # What a new file hid, or what was uploaded of it so far.
            if not self.writers.is_temporary(source) and self._find_remote(source) is not None:
                self.background.settle(target)
                self._stores.of(source).remove(source)
            return
        else:
            self.writers.publish(staged, target)
            self.writers.discard(staged)
        self._detach(target)
        for path in (source, target):
            self._staging.add_directory(parent(path))

    def _copy_remote(self, source: str, target: str) -> None:
        self.background.settle()
        store, other = self._stores.of(source), self._stores.of(target)
        if store is other:
            store.copy(source, target)
            self.writers.on_change()
            return
        passing = Staged(target)
        try:
            store.download(source, passing.local)
            self.writers.publish(passing, target)
        finally:
            passing.unlink()

    def _detach(self, path: str) -> Staged | None:
        """Take a path from the file that is being written to it, after any upload of it."""
        staged = self._staging.file(path)
        if staged is not None:
            self.writers.discard(staged)
        return staged

    def _refuse_directory(self, path: str) -> None:
        # What only the server knows to be a directory is not asked for: a save would cost twice
        # the requests.
        if is_bucket(path) or self._staging.has_directory(path):
            raise _a_directory()

    # ====== Directories ======

    def make_directory(self, path: str, recursive: bool) -> None:
        """Note a directory of this process; those above it come to be with it."""
        path = clean(path)
        self._listings.clear()
        entry = self._find_local(path)
        if entry is None and not self.writers.is_temporary_directory(path):
            entry = self._find_remote(path)
        if entry is None or entry.is_directory:
            self._staging.add_directory(path)
        elif recursive:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if entry is not None and not recursive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        path = clean(path)
        _refuse_bucket(path)
        self._listings.clear()
        remote = None
        if not self.writers.is_temporary_directory(path):
            self.background.settle()
            remote = self._stores.of(path).entries(path)
        if self._staging.file(path) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if remote or any(self._staging.children(path)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        if remote is None and not self._staging.has_directory(path):
            raise _missing()
        if remote is not None:
            self._stores.of(path).remove_directories(path)
        self._staging.remove_directory(path)
        self._staging.add_directory(parent(path))

    def remove_tree(self, path: str) -> None:
        """Remove a file, or a directory and all below it; never a whole bucket."""
        path = clean(path)
        _refuse_bucket(path)
        if not self._found(path).is_directory:
            self.remove_file(path)
            return
        self.background.settle()
        self._listings.clear()
        for staged in self._staging.files_below(path):
            self._detach(staged.path)
        store = self._stores.of(path)
        store.each(store.remove, store.files_below(path))
        store.remove_directories(path)
        self._staging.remove_directory(path)
        self._staging.add_directory(parent(path))

    def _rename_directory(self, source: str, target: str) -> None:
        if source == target:
            return
        self.background.settle()
        _refuse_bucket(source)
        if is_below(target, source):
            raise OSError(errno.EINVAL, "cannot move a directory into itself")
        self._require_empty(target)
        for staged in self._staging.files_below(source):
            self._rename_file(staged, staged.path, target + staged.path[len(source) :])
        self._rename_remote(self._stores.of(source), source, target)
        made = self._staging.directories_below(source)
        self._staging.remove_directory(source)
        for path in (target, *(target + path[len(source) :] for path in made), parent(source)):
            self._staging.add_directory(path)

    def _rename_remote(self, store: Store, source: str, target: str) -> None:
        """Copy all, then delete all: what fails half way loses nothing."""
        files = store.files_below(source)
        store.each(
            lambda path: self._copy_remote(path, target + path[len(source) :]),
            [path for path in files if not path.endswith("/")],
        )
        store.each(store.remove, files)
        store.remove_directories(source)

    def _require_empty(self, path: str) -> None:
        existing = self._find(path)
        if existing is not None and not existing.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if existing is not None and self._list(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def _missing() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _a_directory() -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _refuse_bucket(path: str) -> None:
    if is_bucket(path):
        raise PermissionError(errno.EPERM, "a whole bucket is never moved or deleted")
