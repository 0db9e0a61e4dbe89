"""The remote side of TensorFlow's file layer: which filesystem a path is on, and what it can do.

Paths here are whole names, `s3://bucket/key`, in the form that `clean` gives.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pai_runner.location import OBJECT_STORES
from pai_runner.storage.exits import cancel_requests
from pai_runner.storage.filesystems import (
    filesystem,
    modified_ns,
    options_at,
    takes_threads,
    turn_of,
)
from pai_runner.storage.mounts import Mount, MountTable
from pai_runner.storage.objects import Described, Objects, PartUpload, open_objects
from pai_runner.storage.transfer import download_file
from pai_runner.storage.uploads import upload_file

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_T = TypeVar("_T")

# What was found of a file is true for so many seconds, in this process alone; that nothing was
# found is never kept.
_KNOWN_SECONDS = 2.0
_MOST_KNOWN = 10_000

# Requests at once when a whole directory is copied or deleted.
_CONCURRENCY = 16


@dataclass(frozen=True)
class Entry:
    """What is known of a path: `size` in bytes, `modified` in nanoseconds since 1970.

    `etag` is without quotes, and empty where it is not known.
    """

    is_directory: bool
    size: int = 0
    modified: int = 0
    etag: str = ""


# ====== Paths ======


def is_bucket(path: str) -> bool:
    """Tell whether a clean path names a whole bucket, or all of them."""
    return "/" not in path.partition("://")[2]


def parent(path: str) -> str:
    """Return the directory that holds a clean path; a bucket's is the protocol's root."""
    protocol, _, rest = path.partition("://")
    return f"{protocol}://{rest.rpartition('/')[0]}"


# ====== One filesystem ======


class Store:
    """One fsspec filesystem, narrowed to what the file layer needs."""

    def __init__(self, protocol: str, options: Mapping[str, str]) -> None:
        self._protocol = protocol
        self._options = options
        self._process = 0
        self._fs: Any = None
        self._making = threading.RLock()
        self._turn: AbstractContextManager[Any] = nullcontext()
        self._is_closed = False
        self._objects: Objects | None = None
        self._objects_process = 0
        self._entries: dict[str, tuple[float, Entry]] = {}
        self._changes: OrderedDict[str, float] = OrderedDict()
        self._noting = threading.Lock()

    def close(self) -> None:
        """Fail calls that are under way, and later ones."""
        self._is_closed = True
        if self._objects is not None:
            self._objects.close()

    def after_fork(self) -> None:
        self._making = threading.RLock()
        self._noting = threading.Lock()
        self._process = self._objects_process = 0
        self._entries = {}

    @property
    def fs(self) -> AbstractFileSystem:
        """This process's filesystem, made at first use. Raises SetupError."""
        with self._making:
            if self._process != os.getpid():
                self._fs = filesystem(self._protocol, self._options)
                self._turn = turn_of(self._fs)
                self._process = os.getpid()
        fs: AbstractFileSystem = self._fs
        return fs

    @property
    def objects(self) -> Objects:
        """What moves the bytes of this filesystem's files. Raises SetupError."""
        with self._making:
            fs = None if self._protocol in ("s3", "s3a") else self.fs
            if self._objects is None or self._objects_process != os.getpid():
                self._objects = open_objects(self._protocol, self._options, fs)
                self._objects_process = os.getpid()
                if self._is_closed:
                    self._objects.close()
        return self._objects

    def prepare(self, path: str) -> None:
        """Do what takes time before the first request for a path, but make none.

        Raises SetupError.
        """
        if self._protocol in OBJECT_STORES:  # others may connect when they are made
            self.objects.prepare(self._key(path))

    def find(self, path: str) -> Entry | None:
        """Return what is at `path`, or None; what was found a moment ago is not asked for again."""
        known = self._known(path)
        if known is not None:
            return known
        asked = time.monotonic()
        try:
            entry = self._ask(path)
        except FileNotFoundError:
            return None
        if not entry.is_directory:  # a directory comes and goes with what is below it
            self._entries[path] = (asked, entry)
        return entry

    def _ask(self, path: str) -> Entry:
        key = self._key(path)
        if self._protocol not in OBJECT_STORES or "/" not in key:
            return _entry(self._call("info", key))
        try:
            return _file(self.objects.describe(key))
        except FileNotFoundError:
            if self.objects.has_below(key):
                return Entry(True)
            raise

    def is_directory(self, path: str) -> bool:
        """Tell whether there is a directory at `path`."""
        found = self.find(path)
        return found is not None and found.is_directory

    def note(self, path: str, described: Described, asked: float) -> None:
        """Take in what the answer to a read says of a file, asked for at a time.monotonic()."""
        self._entries[path] = (asked, _file(described))

    def known_etag(self, path: str) -> str:
        """Return the ETag that a file had a moment ago, or an empty text."""
        known = self._known(path)
        return known.etag if known is not None else ""

    def forget(self, path: str) -> None:
        """Forget what was found at `path`: this process has changed it."""
        with self._noting:
            self._changes[path] = time.monotonic()
            self._changes.move_to_end(path)
            if len(self._changes) > _MOST_KNOWN:
                self._changes.popitem(last=False)
        self._entries.pop(path, None)

    def changed_at(self, path: str) -> float:
        """Return when this process has changed a file, as time.monotonic() tells; 0 for never."""
        return self._changes.get(path, 0.0)

    def _known(self, path: str) -> Entry | None:
        now = time.monotonic()
        if len(self._entries) > _MOST_KNOWN:
            for old, (found, _) in list(self._entries.items()):
                if now - found > _KNOWN_SECONDS:
                    self._entries.pop(old, None)
        found, entry = self._entries.get(path, (0.0, None))
        # What was asked for while this process changed the file may be of before.
        is_of_now = found > self.changed_at(path)
        return entry if is_of_now and now - found <= _KNOWN_SECONDS else None

    def entries(self, path: str) -> dict[str, Entry] | None:
        """Return the entries of a directory by name, or None when there is no such directory.

        Raises NotADirectoryError.
        """
        key = self._key(path)
        asked = time.monotonic()
        try:
            found = self._call("ls", key, detail=True)
        except FileNotFoundError:
            return None
        entries: dict[str, Entry] = {}
        for info in found:
            if info["name"] == key and info["type"] != "directory":
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory")
            name = _below(info["name"], key)
            # A name with a final `/` marks a directory in some consoles.
            if name and not name.endswith("/") and "/" not in name:
                entries.setdefault(name, _entry(info))
        files = {name: entry for name, entry in entries.items() if not entry.is_directory}
        self._entries.update((f"{path}/{name}", (asked, entry)) for name, entry in files.items())
        return entries

    def files_below(self, path: str) -> list[str]:
        """Return the paths of all files below a directory, markers (`…/`) included."""
        key = self._key(path)
        return [f"{path}/{_below(name, key)}" for name in self._call("find", key) if name != key]

    def download(self, path: str, local: str) -> None:
        download_file(self.objects, self._key(path), local)

    def upload(self, local: str, path: str) -> None:
        """Write a local file to `path`: it appears whole or, on an error, not at all."""
        try:
            upload_file(self.objects, self._key(path), local, os.path.getsize(local))
        finally:
            self.forget(path)

    def read_into(
        self, path: str, start: int, into: memoryview, etag: str | None = None
    ) -> tuple[int, Described]:
        """Read a range of a file: see `Objects.read_into`."""
        return self.objects.read_into(self._key(path), start, into, etag)

    def begin_upload(self, path: str) -> PartUpload | None:
        """Begin to write a file in parts; None where the filesystem knows none. Raises OSError."""
        return self.objects.upload(self._key(path)) if self.objects.has_parts else None

    def copy(self, source: str, target: str) -> None:
        """Copy a file within this filesystem."""
        try:
            self._call("cp_file", self._key(source), self._key(target))
        finally:
            self.forget(target)

    def remove(self, path: str) -> None:
        try:
            self._call("rm_file", self._key(path))
        finally:
            self.forget(path)

    def remove_directories(self, path: str) -> None:
        """Remove `path` and what is below it, when all that is below is directories.

        On an object store these are objects named `…/`, if they exist at all.
        """
        self.each(self.remove, self.files_below(path))
        if self.find(path) is None:
            return
        key = self._key(path)
        below = self._call("find", key, withdirs=True)
        for name in sorted({key, *below}, key=len, reverse=True):
            self._call("rmdir", name)
        self._entries.clear()

    def each(self, action: Callable[[_T], None], items: Sequence[_T]) -> None:
        """Do `action` for every item, several at once where the filesystem can."""
        if len(items) < 2 or not takes_threads(self.fs):
            for item in items:
                action(item)
            return
        with ThreadPoolExecutor(min(_CONCURRENCY, len(items))) as pool:
            for _ in pool.map(action, items):
                pass

    def _key(self, path: str) -> str:
        if self._protocol in OBJECT_STORES:  # not to be asked: to make its filesystem takes long
            return path.partition("://")[2]
        key: str = self.fs._strip_protocol(path)
        return f"{key}/" if path.endswith("/") else key

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        fs = self.fs
        with self._turn:
            answer = getattr(fs, method)(*arguments, **options)
        if self._is_closed:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the process is ending")
        return answer


def _below(name: str, key: str) -> str:
    return name[len(key.rstrip("/")) :].lstrip("/") if key else name.lstrip("/")


def _file(described: Described) -> Entry:
    return Entry(False, described.size, described.modified_ns, described.etag)


def _entry(info: Mapping[str, Any]) -> Entry:
    etag = str(info.get("ETag") or "").strip('"')
    is_directory = info["type"] == "directory"
    return Entry(is_directory, int(info.get("size") or 0), modified_ns(info), etag)


# ====== All of them ======


class Stores:
    """Which store a path is on.

    The longest mount that holds the path gives the options; else one that names the same
    bucket; else the protocol's plain settings (for s3 those of AWS: environment, profile).
    """

    def __init__(self, mounts: Iterable[Mount] = ()) -> None:
        self._mounts: MountTable[Store] = MountTable()
        self._stores: dict[tuple[str, tuple[tuple[str, str], ...]], Store] = {}
        self._lock = threading.RLock()
        for mount in mounts:
            self.add(mount)

    def add(self, mount: Mount) -> None:
        store = self._store(mount.protocol, options_at(mount.prefix, mount.options))
        self._mounts.add(mount.prefix, store)

    def of(self, path: str) -> Store:
        """Return the store that a clean path is on."""
        found = self._mounts.find(path)
        return found or self._store(path.partition("://")[0], options_at(path, {}))

    def close(self) -> None:
        """Fail what is under way, so that the threads that wait for it can end."""
        for store in list(self._stores.values()):
            store.close()
        cancel_requests()

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        for store in self._stores.values():
            store.after_fork()

    def _store(self, protocol: str, options: Mapping[str, str]) -> Store:
        key = (protocol, tuple(sorted(options.items())))
        with self._lock:
            if key not in self._stores:
                self._stores[key] = Store(protocol, dict(options))
            return self._stores[key]
