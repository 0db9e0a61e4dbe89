"""What lies in a staged folder: its files, whether they change, and who writes them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_HAS_PROC = sys.platform == "linux"


class FileState(NamedTuple):
    """What tells one content of a file from another, and the file itself from others."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)

    @property
    def content(self) -> tuple[int, int, int]:
        """The part that a later mover can compare with."""
        return self.size, self.mtime_ns, self.inode

    @property
    def file(self) -> tuple[int, int]:
        return self.device, self.inode


@dataclass
class Tree:
    """The regular files below a folder by their path in it.

    The others are with the reason why they are no files: `ignored` have no content of their own,
    `unnamed` cannot be the name of an object, `unreadable` are directories that could not be
    listed. `exists` is false when the folder itself is gone.
    """

    files: dict[str, FileState] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unnamed: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    exists: bool = True


def walk(root: str) -> Tree:
    """Return what lies below `root`. Links to files count as files, those to directories not."""
    tree = Tree()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(os.path.join(root, prefix)) as entries:
                for entry in entries:
                    _visit(tree, waiting, prefix + entry.name, entry)
        except FileNotFoundError:
            tree.exists = tree.exists and prefix != ""
        except OSError as error:
            tree.unreadable[prefix] = error.strerror or str(error)
    return tree


def _visit(tree: Tree, waiting: list[str], name: str, entry: os.DirEntry[str]) -> None:
    try:
        if entry.is_dir(follow_symlinks=False):
            waiting.append(name + "/")
            return
        status = entry.stat()
    except FileNotFoundError:
        return  # removed meanwhile, or a link to nothing
    except OSError as error:  # links that lead in a circle, or where nothing may be read
        tree.ignored[name] = error.strerror or str(error)
        return
    if stat.S_ISDIR(status.st_mode):
        tree.ignored[name] = "a link to a directory is not followed"
    elif not stat.S_ISREG(status.st_mode):
        tree.ignored[name] = "it is not a regular file"
    elif not _is_text(name):
        tree.unnamed[os.fsencode(name).decode(errors="replace")] = "its name is not UTF-8"
    else:
        tree.files[name] = FileState.of(status)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class ChangingError(OSError):
    """A file was written while it was read."""


def check_unchanged(path: str, descriptor: int, state: FileState, may_grow: bool = False) -> None:
    """Check that an open file still is what `state` says. Raises ChangingError."""
    now = FileState.of(os.fstat(descriptor))
    same = now == state or (may_grow and now.file == state.file and now.size >= state.size)
    if not same:
        raise ChangingError(f"{path} changes while it is read")


def open_for_writing(files: Iterable[tuple[int, int]]) -> set[tuple[int, int]] | None:
    """Return those of `files` (device and inode) that a process of this user has open to write.

    None where the system does not tell.
    """
    if not _HAS_PROC:
        return None
    wanted = set(files)
    found: set[tuple[int, int]] = set()
    for process in filter(str.isdigit, os.listdir("/proc")) if wanted else ():
        try:
            descriptors = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue  # it ended, or is another user's
        for descriptor in descriptors:
            found |= wanted & _writes(process, descriptor)
    return found


def _writes(process: str, descriptor: str) -> set[tuple[int, int]]:
    try:
        status = os.stat(f"/proc/{process}/fd/{descriptor}")
        if not stat.S_ISREG(status.st_mode):
            return set()
        with open(f"/proc/{process}/fdinfo/{descriptor}", encoding="ascii") as stream:
            flags = next(int(line.split()[1], 8) for line in stream if line.startswith("flags:"))
    except (OSError, StopIteration):
        return set()  # closed meanwhile
    return {(status.st_dev, status.st_ino)} if flags & os.O_ACCMODE else set()
