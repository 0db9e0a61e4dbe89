"""A directory of models, on a local disk or in a bucket, narrowed to what publishing needs.

Names are paths below the directory. Whatever library serves a bucket, failures are OSErrors:
FileNotFoundError for a name that is not there, FileExistsError where a name must be new.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pai_runner.errors import SetupError
from pai_runner.location import Location
from pai_runner.models.failures import as_setup_error
from pai_runner.storage.filesystems import (
    check_directory,
    filesystem,
    modified_ns,
    options_at,
    takes_threads,
)
from pai_runner.storage.mounts import mounted_options
from pai_runner.storage.objects import Objects, open_objects
from pai_runner.storage.plain_objects import PlainObjects
from pai_runner.storage.transfer import download_file
from pai_runner.storage.uploads import upload_file

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

_T = TypeVar("_T")
_R = TypeVar("_R")

# How the names of files begin that are being written, on a local disk.
TEMPORARY = ".tmp-"
# Requests at once.
_CONCURRENCY = 8
# What S3 says of an object that it does not create: it is there, or another creates it right now.
_REFUSED = ("PreconditionFailed", "pre-conditions", "ConditionalRequestConflict")


class Entry(NamedTuple):
    """A file: its size in bytes, and when it was written, in nanoseconds since 1970."""

    size: int
    modified_ns: int


class Place(ABC):
    """A directory. `prefix` names it as a user does, with a final `/` and without options."""

    is_local = False

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix if prefix.endswith("/") else f"{prefix}/"

    def shown(self, name: str = "") -> str:
        """Return the whole name of what lies below, for people to read."""
        return f"{self.prefix}{name}"

    @abstractmethod
    def at(self, name: str) -> Place:
        """Return the directory `name` below this one, whether it exists or not."""

    @abstractmethod
    def above(self) -> Place:
        """Return the directory that this one lies in."""

    @abstractmethod
    def children(self) -> set[str]:
        """Return the names of the files and directories right below; none if it is missing."""

    @abstractmethod
    def find(self, below: str = "") -> dict[str, Entry]:
        """Return all files below the directory, or below the directory `below` of it."""

    @abstractmethod
    def info(self, name: str) -> Entry | None:
        """Return what is known of a file, or None when there is none."""

    @abstractmethod
    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file's bytes, or those from `start` to `end`. Raises FileNotFoundError."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Write a new file, whole at once. Raises FileExistsError when there is one already."""

    def claim(self, name: str, data: bytes) -> bool:
        """Create a file, with a content that no one else gives it, and return whether it is ours.

        A request may be repeated below us when its answer is lost, and then finds itself. S3 also
        refuses to create what another is creating at this moment, which may come to nothing.
        """
        try:
            self.create(name, data)
        except FileExistsError:
            try:
                return self.read(name) == data
            except FileNotFoundError:
                return False
        return True

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole at once, in place of what was there."""

    @abstractmethod
    def put(self, local: str, name: str) -> None:
        """Copy the local file `local` to `name`."""

    @abstractmethod
    def get(self, name: str, local: str) -> None:
        """Copy the file `name` to the local file `local`. Raises FileNotFoundError."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy a file; on a server, the server does it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is passed over."""

    def each(self, action: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """Return what `action` gives for every item, in order; several are done at once.

        The first failure is raised when those under way have ended.
        """
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            futures = [pool.submit(action, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


# ====== On the local disk ======


class LocalPlace(Place):
    """A local folder. What is written is on the disk, and not only on its way there."""

    is_local = True

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder.rstrip("/") or "/"

    def path(self, name: str = "") -> str:
        """Return the local path of what lies below."""
        return os.path.join(self.folder, name) if name else self.folder

    def at(self, name: str) -> LocalPlace:
        return LocalPlace(self.path(name))

    def above(self) -> LocalPlace:
        return LocalPlace(os.path.dirname(self.folder))

    def children(self) -> set[str]:
        try:
            return set(os.listdir(self.folder))
        except FileNotFoundError:
            return set()

    def find(self, below: str = "") -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for folder, _, names in os.walk(self.path(below)):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # removed meanwhile
                    status = os.stat(path)
                    entry = Entry(status.st_size, status.st_mtime_ns)
                    found[os.path.relpath(path, self.path(below))] = entry
        return found

    def info(self, name: str) -> Entry | None:
        try:
            status = os.stat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if os.path.isdir(self.path(name)) else Entry(status.st_size, status.st_mtime_ns)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        with open(self.path(name), "rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(max(0, end - (start or 0)))

    def create(self, name: str, data: bytes) -> None:
        # A link appears at once, with the whole content, and never in place of another.
        try:
            self._write_beside(name, data, os.link)
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, f"{self.shown(name)} exists") from error
        except OSError as error:
            # Not every file system has links.
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            self._create_without_links(name, data)

    def _create_without_links(self, name: str, data: bytes) -> None:
        with open(self.path(name), "xb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(self.path(name))  # half a file is none
                raise
        sync_folder(os.path.dirname(self.path(name)))

    def write(self, name: str, data: bytes) -> None:
        self._write_beside(name, data, os.replace)

    def _write_beside(self, name: str, data: bytes, publish: Callable[[str, str], None]) -> None:
        path = self.path(name)
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o666 & ~_umask())
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            publish(temporary, path)
        finally:
            with suppress(FileNotFoundError):  # it was renamed
                os.unlink(temporary)
        sync_folder(folder)

    def put(self, local: str, name: str) -> None:
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        shutil.copyfile(local, self.path(name))

    def get(self, name: str, local: str) -> None:
        shutil.copyfile(self.path(name), local)

    def copy(self, source: str, target: str) -> None:
        self.put(self.path(source), target)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path(name))


def sync_folder(folder: str) -> None:
    """Have the names in a folder written to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # A process's mask can be read only by setting it; the file tells the same, and to all threads.
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o022)
        os.umask(mask)
        return mask


# ====== In a bucket ======


class BucketPlace(Place):
    """A directory in a bucket: `fs` knows its names, `objects` (if given) moves whole files."""

    def __init__(self, prefix: str, fs: AbstractFileSystem, objects: Objects | None = None) -> None:
        super().__init__(prefix)
        self._fs: Any = fs
        self._objects = objects or PlainObjects(fs)
        self._base: str = fs._strip_protocol(prefix).rstrip("/")

    @classmethod
    def opened(cls, prefix: str, options: Mapping[str, str]) -> BucketPlace:
        """Return the directory `prefix` as `options` (secrets in clear) open it.

        No request is made. Raises SetupError.
        """
        protocol, options = prefix.partition("://")[0], options_at(prefix, options)
        fs = filesystem(protocol, options)
        return cls(prefix, fs, open_objects(protocol, options, fs))

    def check(self) -> None:
        """Check that the bucket is there and answers. Raises SetupError."""
        check_directory(self._fs, self.prefix)

    def at(self, name: str) -> BucketPlace:
        return BucketPlace(f"{self.prefix}{name}/", self._fs, self._objects)

    def above(self) -> BucketPlace:
        return BucketPlace(self.prefix.rstrip("/").rpartition("/")[0], self._fs, self._objects)

    def children(self) -> set[str]:
        try:
            found = self._call(self._fs.ls, self._base, detail=False)
        except FileNotFoundError:
            return set()
        return {str(key).rstrip("/")[len(self._base) + 1 :] for key in found} - {""}

    def find(self, below: str = "") -> dict[str, Entry]:
        base = self._key(below) if below else self._base
        try:
            found = self._call(self._fs.find, base, detail=True)
        except FileNotFoundError:
            return {}
        return {
            key[len(base) + 1 :]: _entry(info)
            for key, info in found.items()
            # A key that ends in `/` marks a directory in some consoles.
            if key.startswith(f"{base}/") and not key.endswith("/")
        }

    def info(self, name: str) -> Entry | None:
        try:
            info = self._call(self._fs.info, self._key(name))
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else _entry(info)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        return bytes(self._call(self._fs.cat_file, self._key(name), start=start, end=end))

    def create(self, name: str, data: bytes) -> None:
        try:
            self._call(self._fs.pipe_file, self._key(name), data, mode="create")
        except OSError as error:
            told = f"{error} {error.__cause__}"
            if isinstance(error, FileExistsError) or any(word in told for word in _REFUSED):
                raise FileExistsError(errno.EEXIST, f"{self.shown(name)} exists") from error
            raise

    def write(self, name: str, data: bytes) -> None:
        self._call(self._fs.pipe_file, self._key(name), data)

    def put(self, local: str, name: str) -> None:
        self._call(upload_file, self._objects, self._key(name), local, os.path.getsize(local))

    def get(self, name: str, local: str) -> None:
        self._call(download_file, self._objects, self._key(name), local)

    def copy(self, source: str, target: str) -> None:
        self._call(self._fs.cp_file, self._key(source), self._key(target))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._call(self._fs.rm_file, self._key(name))

    def each(self, action: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        at_once = takes_threads(self._fs)
        return super().each(action, items) if at_once else [action(item) for item in items]

    def _key(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _call(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return action(*arguments, **options)
        except Exception as error:
            told, silent = (OSError, SetupError), (ConnectionError, TimeoutError)
            if isinstance(error, told) and not isinstance(error, silent):
                raise
            raise as_setup_error(self.prefix, error) from error


def _entry(info: Mapping[str, Any]) -> Entry:
    return Entry(int(info.get("size") or 0), modified_ns(info))


# ====== From a location to a place ======


def open_place(location: str | os.PathLike[str]) -> Place:
    """Return the directory that a script or a user names.

    `location` is a local folder or any text that a command may name. A remote one is opened as
    its own query says; without one, inside a job, as the job's mount that it lies on. What is
    still open comes from the user's settings. No request is made. Raises LocationError, SetupError.
    """
    text = os.fspath(location)
    found = Location.parse(text).directory()
    if found.is_local:
        return LocalPlace(os.path.abspath(os.path.expanduser(found.path)))
    options = found.plain_options() or mounted_options(found.prefix) or {}
    if "role_arn" in options:
        options.setdefault("role_buckets", found.bucket)
    return BucketPlace.opened(found.prefix, options)
