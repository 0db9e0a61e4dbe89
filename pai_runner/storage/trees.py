"""The files below one location, wherever it is: what `pai storage` lists, copies and removes.

Names are paths below the location. Failures are OSErrors and SetupErrors, whatever library serves
the location; their texts hold no secret.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, ClassVar, NamedTuple

from pai_runner.errors import PaiError
from pai_runner.secret import is_secret_name, redact
from pai_runner.storage.failures import describe_error
from pai_runner.storage.filesystems import filesystem, modified_ns, options_at, turn_of
from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import Objects, open_objects
from pai_runner.storage.verifying import SIZE, Checksum


class Entry(NamedTuple):
    """A file: its size in bytes, when it was written (0: not known), its ETag (empty: none)."""

    size: int
    modified_ns: int
    etag: str = ""


class Kind(Enum):
    """What a path names."""

    FILE = "file"
    DIRECTORY = "directory"


class Tree(ABC):
    """A directory, whether it exists or not. Threads may share it.

    `prefix` names it as a user does, with a final `/` and without options. Trees with one `store`
    can copy from each other on the server.
    """

    is_local: ClassVar[bool] = False
    # How many files one call removes.
    _removed_at_once: ClassVar[int] = 1

    def __init__(self, prefix: str, store: object) -> None:
        self.prefix = prefix
        self.store = store

    def shown(self, name: str = "") -> str:
        """Return the whole name of a file, for people to read."""
        return f"{redact(self.prefix)}{name}"

    @abstractmethod
    def kind(self) -> Kind | None:
        """Return what is there at the tree's own path; None where there is nothing."""

    @abstractmethod
    def file(self) -> tuple[Tree, str]:
        """Return the directory that holds this tree's path, and its name there."""

    @abstractmethod
    def find(self, with_markers: bool = False) -> dict[str, Entry]:
        """Return all files below; with markers also the objects `…/` that show directories."""

    @abstractmethod
    def children(self) -> dict[str, Entry | None]:
        """Return what lies right below, by name: None stands for a directory."""

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """Return what is known of a file, or None. Raises OSError."""

    @abstractmethod
    def read_into(self, name: str, entry: Entry, start: int, into: memoryview) -> None:
        """Fill `into` with the bytes from `start`.

        Raises OSError; ESTALE where the file is not `entry` any more.
        """

    def piece(self, name: str, entry: Entry, start: int, count: int) -> memoryview:
        """Return `count` bytes of a file. Raises as `read_into` does."""
        data = memoryview(bytearray(count))
        self.read_into(name, entry, start, data)
        return data

    def checksum(self, name: str, entry: Entry) -> Checksum | None:
        """Return what the store says of a file's content; None where it says nothing.

        It may cost a request. Raises OSError.
        """
        return None

    def is_uneven(self, name: str, entry: Entry) -> bool:
        """Tell whether a file has parts of several lengths, which `checksum` does not know."""
        return False

    def remove(self, names: Sequence[str]) -> dict[str, str]:
        """Remove files, many at once; return why, for those that could not be removed."""
        step = self._removed_at_once
        pages = [names[start : start + step] for start in range(0, len(names), step)]
        removals: list[tuple[Sequence[str], Future[dict[str, str]]]] = [
            (page, lanes().submit(self._remove_page, page)) for page in pages
        ]
        failures: dict[str, str] = {}
        for page, removal in removals:
            try:
                failures.update(removal.result())
            except (OSError, PaiError) as error:
                failures.update(dict.fromkeys(page, describe_error(error)))
        return failures

    @abstractmethod
    def _remove_page(self, names: Sequence[str]) -> dict[str, str]:
        """Remove some files, at most `_removed_at_once`; the same as `remove`. Raises OSError."""

    @abstractmethod
    def remove_directories(self, names: Iterable[str]) -> None:
        """Remove the directories below that files `names` have left empty."""

    @abstractmethod
    def remove_empty(self) -> None:
        """Remove the directory, which has no file any more, and all below it. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Let what is under way fail soon."""


def directories_of(names: Iterable[str]) -> list[str]:
    """Return the directories that names lie in, deepest first."""
    found = set()
    for name in names:
        while name := name.rpartition("/")[0]:
            found.add(name)
    return sorted(found, key=lambda one: one.count("/"), reverse=True)


def changed(what: str) -> OSError:
    """Return the error for a file that is not what it was when it was listed."""
    return OSError(errno.ESTALE, f"{what}: it was changed meanwhile; give the command again")


# ====== In a bucket, and on any other file system of fsspec ======


class Store:
    """A server, or what else serves files, and how it is reached; several trees may share it.

    `turn` is held while it is used, where several threads may not.
    """

    def __init__(self, prefix: str, protocol: str, options: Mapping[str, str]) -> None:
        """`options` are those of the location `prefix`, secrets in clear. No request is made.

        Raises SetupError.
        """
        from fsspec.asyn import AsyncFileSystem
        from fsspec.spec import AbstractFileSystem

        self.fs = filesystem(protocol, options_at(prefix, options))
        self.objects: Objects = open_objects(protocol, options, self.fs)
        self.turn = turn_of(self.fs)
        kind, name = (
            (AsyncFileSystem, "_cp_file") if self.fs.async_impl else (AbstractFileSystem, "cp_file")
        )
        # Whether a file can be copied without its bytes coming here.
        self.copies = getattr(type(self.fs), name) is not getattr(kind, name)
        # What tells it from other stores of its protocol, without secrets.
        self.shown = "&".join(
            f"{name}={value}"
            for name, value in sorted(options.items())
            if not is_secret_name(name, in_query=True) and not name.startswith("role_")
        )


class StoreTree(Tree):
    """A directory of any file system of fsspec."""

    # Whether the first part of a path is a bucket, which is there before anything is in it.
    _has_buckets: ClassVar[bool] = False

    def __init__(self, prefix: str, store: Store) -> None:
        stripped = prefix if prefix.endswith("://") else prefix.rstrip("/")
        super().__init__(f"{stripped}/", store)
        self.server = store.shown
        self.copies = store.copies
        self.fs = store.fs
        self.objects = store.objects
        self.base: str = self.fs._strip_protocol(stripped).rstrip("/")
        self._store = store
        self._is_marked = prefix.endswith("/")

    def path(self, name: str = "") -> str:
        """Return a file's path as the file system takes it, `bucket/key`."""
        return f"{self.base}/{name}" if name else self.base

    def kind(self) -> Kind | None:
        if self._has_buckets and "/" not in self.base:
            return Kind.DIRECTORY  # empty or not
        if self._is_marked:
            return Kind.DIRECTORY if self._has_below() else None
        try:
            info = self.call("info", self.base)
        except FileNotFoundError:
            return None
        return Kind.DIRECTORY if info["type"] == "directory" else Kind.FILE

    def _has_below(self) -> bool:
        return bool(self.guarded(partial(self.objects.has_below, self.base)))

    def file(self) -> tuple[Tree, str]:
        above, _, name = self.prefix.rstrip("/").rpartition("/")
        return type(self)(f"{above}/", self._store), name

    def find(self, with_markers: bool = False) -> dict[str, Entry]:
        try:
            found = self.call("find", self.base, detail=True)
        except FileNotFoundError:
            return {}
        files = {
            key[len(self.base) + 1 :]: self._entry_of(info)
            for key, info in sorted(found.items())
            if key.startswith(f"{self.base}/")
            and (with_markers or not (key.endswith("/") or info["type"] == "directory"))
        }
        return files if with_markers else {name: one for name, one in files.items() if name}

    def children(self) -> dict[str, Entry | None]:
        found: dict[str, Entry | None] = {}
        for info in self.call("ls", self.base, detail=True):
            name = info["name"][len(self.base) :].strip("/")
            if name and "/" not in name:
                found[name] = None if info["type"] == "directory" else self._entry_of(info)
        return dict(sorted(found.items()))

    def entry(self, name: str) -> Entry | None:
        try:
            info = self.call("info", self.path(name))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else self._entry_of(info)

    def _entry_of(self, info: Mapping[str, Any]) -> Entry:
        """Return the entry of what the file system says of a file. Raises OSError."""
        if info.get("size") is None:  # web servers list names only
            info = self.call("info", info["name"])
        if info.get("size") is None:
            text = f"{info['name']}: the server does not tell how long it is"
            raise OSError(errno.EOPNOTSUPP, redact(text))
        etag = next((str(info[name]) for name in ("ETag", "etag") if info.get(name)), "")
        return Entry(int(info["size"]), modified_ns(info), etag.strip('"'))

    def read_into(self, name: str, entry: Entry, start: int, into: memoryview) -> None:
        read = partial(self.objects.read_into, self.path(name), start, into, entry.etag or None)
        count, found = self.guarded(read)
        if count < len(into) or found.size != entry.size:
            raise changed(self.shown(name))

    def put(self, name: str, data: memoryview) -> None:
        """Write a file, whole at once. Raises OSError."""
        self.guarded(partial(self.objects.put, self.path(name), data))

    def copy(self, source: StoreTree, source_name: str, entry: Entry, name: str) -> str:
        """Have the server copy a file of `source`, of the same store, to `name`.

        Returns how the copy was verified. Raises OSError.
        """
        self._make_parent(name)
        self.call("cp_file", source.path(source_name), self.path(name))
        return self.check_size(name, entry)

    def check_size(self, name: str, entry: Entry) -> str:
        """Check that a file that was written is as long as its source. Raises OSError."""
        found = self.entry(name)
        if found is None or found.size != entry.size:
            held = "nothing" if found is None else f"{found.size} bytes"
            text = f"{held} arrived of {entry.size} bytes"
            raise OSError(errno.EIO, f"{self.shown(name)}: {text}")
        return SIZE

    def written_by(self, has_checksums: bool) -> str | None:
        """Return by which checksum the store verifies what it is sent; None where by none.

        `has_checksums`: it was sent in parts of which the store keeps checksums of its own.
        """
        return None

    def open_to_write(self, name: str) -> Any:
        """Return a file to write to from its beginning to its end. Raises OSError."""
        self._make_parent(name)
        return self.call("open", self.path(name), "wb")

    def _make_parent(self, name: str) -> None:
        self.call("makedirs", self.fs._parent(self.path(name)), exist_ok=True)

    def _remove_page(self, names: Sequence[str]) -> dict[str, str]:
        for name in names:
            with suppress(FileNotFoundError):
                self.call("rm_file", self.path(name))
        return {}

    def remove_directories(self, names: Iterable[str]) -> None:
        for folder in directories_of(names):
            with suppress(OSError, NotImplementedError):  # something is still in it
                self.call("rmdir", self.path(folder))

    def remove_empty(self) -> None:
        with suppress(FileNotFoundError):  # there are no directories without files
            below = self.call("find", self.base, withdirs=True)
            for folder in sorted({self.base, *below}, key=len, reverse=True):
                self.call("rmdir", folder)

    def close(self) -> None:
        self.objects.close()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Return what a method of the file system returns. Raises OSError, SetupError."""
        return self.guarded(partial(getattr(self.fs, method), *arguments, **options))

    def guarded(self, request: Callable[[], Any]) -> Any:
        """Return what `request` to the store returns. Raises OSError, SetupError."""
        with self._store.turn:
            try:
                return request()
            except (OSError, PaiError):
                raise
            except NotImplementedError as error:
                text = "this file system cannot do that"
                raise OSError(errno.EOPNOTSUPP, text) from error
            except Exception as error:
                # What the libraries below raise of their own; any other is a fault of ours.
                if type(error).__module__ == "builtins":
                    raise
                raise OSError(errno.EIO, describe_error(error)) from error


class Stores:
    """The stores of one command: each is opened once."""

    def __init__(self) -> None:
        self._stores: dict[tuple[Any, ...], Store] = {}

    def tree(self, prefix: str, protocol: str, options: Mapping[str, str]) -> StoreTree:
        """Return the directory `prefix` (`s3://bucket/dir/`). Raises SetupError."""
        key = (protocol, *sorted(options_at(prefix, options).items()))
        if key not in self._stores:
            self._stores[key] = Store(prefix, protocol, options)
        return _class_for(protocol)(prefix, self._stores[key])


def _class_for(protocol: str) -> type[StoreTree]:
    if protocol in ("s3", "s3a"):
        from pai_runner.storage.s3_tree import S3Tree

        return S3Tree
    if protocol == "oss":
        from pai_runner.storage.oss_tree import OSSTree

        return OSSTree
    return StoreTree
