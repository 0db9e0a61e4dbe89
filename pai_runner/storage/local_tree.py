"""A folder of the local disk: see `trees`."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress

from pai_runner.storage.trees import Entry, Kind, Tree, changed, directories_of

# How a download is called until it is whole.
_UNFINISHED = re.compile(r"(^|/)\.[0-9a-f]{32}\.part$")


def unfinished_name(name: str) -> str:
    """Return under which name a file is downloaded: beside it, and not longer than names can be."""
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.part"


def is_unfinished(name: str) -> bool:
    """Tell whether a local file is a download that has not ended."""
    return _UNFINISHED.search(name) is not None


class LocalTree(Tree):
    """A local folder. Links to files are followed, links to folders are passed over."""

    is_local = True

    def __init__(self, folder: str) -> None:
        """`folder` is an absolute path."""
        super().__init__(f"{folder.rstrip('/')}/", "file")
        self._folder = folder.rstrip("/") or "/"

    def path(self, name: str = "") -> str:
        """Return the local path of a file."""
        return f"{self.prefix}{name}" if name else self._folder

    def kind(self) -> Kind | None:
        if os.path.isdir(self._folder):
            return Kind.DIRECTORY
        return Kind.FILE if os.path.exists(self._folder) else None

    def file(self) -> tuple[LocalTree, str]:
        folder, name = os.path.split(self._folder)
        return LocalTree(folder), name

    def find(self, with_markers: bool = False) -> dict[str, Entry]:
        found: dict[str, Entry] = {}

        def refuse(error: OSError) -> None:
            raise error

        for folder, _, names in os.walk(self._folder, onerror=refuse):
            for name in names:
                path = os.path.join(folder, name)
                status = _status(path)
                if status is not None and stat.S_ISREG(status.st_mode):
                    found[path[len(self.prefix) :]] = entry_of(status)
        return dict(sorted(found.items()))

    def children(self) -> dict[str, Entry | None]:
        found: dict[str, Entry | None] = {}
        with os.scandir(self._folder) as entries:
            for one in entries:
                status = _status(one.path)
                if status is not None:
                    found[one.name] = None if stat.S_ISDIR(status.st_mode) else entry_of(status)
        return dict(sorted(found.items()))

    def entry(self, name: str) -> Entry | None:
        try:
            return entry_of(os.stat(self.path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_into(self, name: str, entry: Entry, start: int, into: memoryview) -> None:
        with open(self.path(name), "rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while done < len(into) and (count := file.readinto(into[done:])):
                done += count
            if done < len(into) or entry_of(os.fstat(file.fileno())) != entry:
                raise changed(self.shown(name))

    def _remove_page(self, names: Sequence[str]) -> dict[str, str]:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(self.path(name))
        return {}

    def remove_directories(self, names: Iterable[str]) -> None:
        for folder in directories_of(names):
            with suppress(OSError):  # something is still in it
                os.rmdir(self.path(folder))

    def remove_empty(self) -> None:
        for folder, folders, names in os.walk(self._folder, topdown=False):
            for name in (*folders, *names):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    os.unlink(path)
            os.rmdir(folder)

    def close(self) -> None:
        pass


def _status(path: str) -> os.stat_result | None:
    """Return what the system says of a file; None for one that is gone, and a link to nothing."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return None
        raise


def entry_of(status: os.stat_result) -> Entry:
    return Entry(status.st_size, status.st_mtime_ns)
