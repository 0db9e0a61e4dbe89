"""The remote side of TensorFlow's file layer: which filesystem a path is on, and what it can do.

Paths here are whole names, `s3://bucket/key`, in the form that `clean` gives.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pai_runner.storage.exits import cancel_requests
from pai_runner.storage.filesystems import filesystem, modified_ns, options_at, takes_threads
from pai_runner.storage.mounts import Mount, MountTable

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_T = TypeVar("_T")

# Requests at once when a whole directory is copied or deleted.
_CONCURRENCY = 16

# A read whose transfer breaks is repeated within this time; a server that does not answer at
# all takes longer than that to fail, and is not asked again.
_READ_AGAIN_SECONDS = 30.0
_READ_ATTEMPTS = 3


@dataclass(frozen=True)
class Entry:
    """What is known of a path: `size` in bytes, `modified` in nanoseconds since 1970."""

    is_directory: bool
    size: int = 0
    modified: int = 0


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

    def close(self) -> None:
        """Fail calls that are under way, and later ones."""
        self._is_closed = True

    def after_fork(self) -> None:
        self._making = threading.RLock()
        self._process = 0

    @property
    def fs(self) -> AbstractFileSystem:
        """This process's filesystem, made at first use. Raises SetupError."""
        with self._making:
            if self._process != os.getpid():
                self._fs = filesystem(self._protocol, self._options)
                self._turn = nullcontext() if takes_threads(self._fs) else threading.RLock()
                self._process = os.getpid()
        fs: AbstractFileSystem = self._fs
        return fs

    def find(self, path: str) -> Entry | None:
        """Return what is at `path`, or None."""
        try:
            return _entry(self._call("info", self._key(path)))
        except FileNotFoundError:
            return None

    def entries(self, path: str) -> dict[str, Entry] | None:
        """Return the entries of a directory by name, or None when there is no such directory.

        Raises NotADirectoryError.
        """
        key = self._key(path)
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
        return entries

    def files_below(self, path: str) -> list[str]:
        """Return the paths of all files below a directory, markers (`…/`) included."""
        key = self._key(path)
        return [f"{path}/{_below(name, key)}" for name in self._call("find", key) if name != key]

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the file ends sooner."""
        began = time.monotonic()
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                data: bytes = self._call("cat_file", self._key(path), start=start, end=end)
                return data
            except (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError):
                raise
            except Exception as error:
                # s3fs: an answer to a range that starts at the end or behind it.
                if isinstance(error, OSError) and error.errno == errno.EINVAL:
                    return b""
                is_late = time.monotonic() - began > _READ_AGAIN_SECONDS
                if is_late or self._is_closed or attempt == _READ_ATTEMPTS:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    def download(self, path: str, local: str) -> None:
        self._call("get_file", self._key(path), local)

    def upload(self, local: str, path: str) -> None:
        """Write a local file to `path`: it appears whole or, on an error, not at all."""
        self._call("put_file", local, self._key(path))

    def copy(self, source: str, target: str) -> None:
        """Copy a file within this filesystem."""
        self._call("cp_file", self._key(source), self._key(target))

    def remove(self, path: str) -> None:
        self._call("rm_file", self._key(path))

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


def _entry(info: Mapping[str, Any]) -> Entry:
    return Entry(info["type"] == "directory", int(info.get("size") or 0), modified_ns(info))


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
