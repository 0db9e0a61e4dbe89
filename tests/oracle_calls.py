"""Calls of TensorFlow's gfile that can be made alike in two folders, and what each gives.

A call is its name and its arguments; paths are relative to the folder. `Player` makes calls in one
folder. `is_comparable` says which calls TensorFlow's local file system and the file layer answer
alike by what they promise, judged by the local folder.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# TensorFlow's local writers hold this much in memory (stdio's BUFSIZ is 8 KiB at most here): a
# reader does not see it before a flush, and the file layer promises the same of more.
UNSEEN = 4096

Call = tuple[Any, ...]


@dataclass(frozen=True)
class Content:
    """Bytes that need no room in the text of an example; lines among them."""

    size: int
    seed: int

    @property
    def data(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)


@dataclass(frozen=True)
class Pick:
    """A path: the file or directory of this number among those that are there, or below it."""

    among: str
    number: int
    below: str = ""


def resolved(call: Call, local: Path) -> Call:
    """Return a call with paths for the picks in it, by what is in the folder `local`."""
    return tuple(_resolved(one, local) if isinstance(one, Pick) else one for one in call)


def _resolved(pick: Pick, local: Path) -> str:
    wanted = Path.is_file if pick.among == "files" else Path.is_dir
    found = sorted(path for path in [local, *local.rglob("*")] if wanted(path))
    chosen = found[pick.number % len(found)] if found else local / "none"
    path = os.path.relpath(chosen / pick.below, local)
    return "" if path == "." else path


@dataclass
class Writer:
    """An open writer: `path` is where its file is now, empty when it is nowhere.

    `unflushed` counts the bytes since the last flush.
    """

    stream: Any
    path: str
    mode: str
    unflushed: int = 0


@dataclass
class Player:
    """Makes calls in the folder `root`. `writers` are those that it has open, by number."""

    tf: Any
    root: str
    writers: dict[int, Writer] = field(default_factory=dict)

    def play(self, call: Call) -> object:
        """Return what a call gives, or the class of its error."""
        name, *arguments = call
        action: Callable[..., object] = getattr(self, f"_{name}")
        try:
            return action(*arguments)
        except (self.tf.errors.OpError, OSError, TypeError, ValueError) as error:
            return type(error).__name__

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _relative(self, paths: list[str]) -> list[str]:
        assert all(path.startswith(self.root) for path in paths), paths
        return sorted(path[len(self.root) :].strip("/") for path in paths)

    # ====== Looking ======

    def _exists(self, path: str) -> object:
        return self.tf.io.gfile.exists(self._path(path))

    def _isdir(self, path: str) -> object:
        return self.tf.io.gfile.isdir(self._path(path))

    def _listdir(self, path: str) -> object:
        return sorted(name.rstrip("/") for name in self.tf.io.gfile.listdir(self._path(path)))

    def _stat(self, path: str) -> object:
        found = self.tf.io.gfile.stat(self._path(path))
        return "directory" if found.is_directory else found.length

    def _glob(self, pattern: str) -> object:
        return self._relative(self.tf.io.gfile.glob(self._path(pattern)))

    def _walk(self, path: str, topdown: bool) -> object:
        found = self.tf.io.gfile.walk(self._path(path), topdown)
        return sorted(
            (top[len(self.root) :].strip("/"), sorted(map(_bare, below)), sorted(files))
            for top, below, files in found
        )

    # ====== Files ======

    def _read(self, path: str, steps: list[Call]) -> object:
        """Read step by step: what comes of each, until one fails."""
        with self.tf.io.gfile.GFile(self._path(path), "rb") as stream:
            return [_reading(stream, *step) for step in steps]

    def _read_op(self, path: str) -> object:
        return _summed_up(self.tf.io.read_file(self._path(path)).numpy())

    def _write_op(self, path: str, content: Content) -> object:
        self.tf.io.write_file(self._path(path), content.data)
        return None

    def _write(self, path: str, mode: str, content: Content) -> object:
        with self.tf.io.gfile.GFile(self._path(path), mode) as stream:
            stream.write(content.data)
            return stream.tell()

    def _open(self, number: int, path: str, mode: str) -> object:
        stream = self.tf.io.gfile.GFile(self._path(path), mode)
        stream.write(b"")  # only now is it opened
        self.writers[number] = Writer(stream, path, mode)
        return stream.tell()

    def _append(self, number: int, content: Content, flush: bool) -> object:
        writer = self.writers[number]
        writer.stream.write(content.data)
        writer.unflushed += content.size
        if flush or writer.unflushed >= UNSEEN:
            writer.stream.flush()
            writer.unflushed = 0
        return writer.stream.tell() if writer.mode == "wb" else None

    def _close(self, number: int) -> object:
        return self.writers.pop(number).stream.close()

    def _remove(self, path: str) -> object:
        self.tf.io.gfile.remove(self._path(path))
        return self._follow(path, "")

    def _rename(self, source: str, target: str, overwrite: bool) -> object:
        self.tf.io.gfile.rename(self._path(source), self._path(target), overwrite)
        if source != target:
            self._follow(target, "")
            self._follow(source, target)
        return None

    def _copy(self, source: str, target: str, overwrite: bool) -> object:
        return self.tf.io.gfile.copy(self._path(source), self._path(target), overwrite)

    # ====== Directories ======

    def _mkdir(self, path: str) -> object:
        return self.tf.io.gfile.mkdir(self._path(path))

    def _makedirs(self, path: str) -> object:
        return self.tf.io.gfile.makedirs(self._path(path))

    def _rmtree(self, path: str) -> object:
        self.tf.io.gfile.rmtree(self._path(path))
        return self._follow(path, "")

    def _follow(self, source: str, target: str) -> None:
        """Note of the writers at or below `source` that their files are now at `target`."""
        for writer in self.writers.values():
            if is_at(writer.path, source):
                writer.path = target and target + writer.path[len(source) :]


def is_at(path: str, above: str) -> bool:
    """Tell whether a path is `above`, or below it."""
    return path == above or path.startswith(f"{above}/")


def _reading(stream: Any, step: str, *arguments: Any) -> object:
    found = getattr(stream, step)(*arguments)
    return _summed_up(found) if isinstance(found, bytes) else found


def _summed_up(data: bytes) -> object:
    """Return `data`, or what stands for it in a message that people read."""
    return data if len(data) < 100 else (len(data), hash(data))


def _bare(name: str) -> str:
    return name.rstrip("/")


# ====== What is compared ======

_WRITES_AT = {"write": 1, "open": 2, "copy": 2, "rename": 2, "mkdir": 1, "write_op": 1}


def is_comparable(call: Call, local: Path, writers: dict[int, Writer]) -> bool:
    """Tell whether both file systems promise the same of a call, by the local folder's state."""
    name = call[0]
    if name in ("remove", "rename", "rmtree") and "" in call[1:]:
        return False  # the folder stays
    if _is_known_to_differ(call, local):
        return False
    if name in ("append", "close"):
        return call[1] in writers
    if name == "open" and call[1] in writers:
        return False
    if name in ("open", "write", "write_op", "copy") and not _may_write(call, writers):
        return False
    # "Writing into a directory that was never made works, as does mkdir below one", and that a
    # part of the name is a file is not noticed.
    if name in ("makedirs", "write_op"):
        return not any(above.is_file() for above in (local / call[1]).parents)
    if name in _WRITES_AT:
        return (local / call[_WRITES_AT[name]]).parent.is_dir()
    return True


def _is_known_to_differ(call: Call, local: Path) -> bool:
    """Tell whether the two differ in a way that is accepted: mostly the class of an error."""
    name = call[0]
    if name not in ("stat", "read", "read_op", "remove", "rename", "copy"):
        return False
    path = local / call[1]
    # differs: what is below a file is NotFound, on a local disk FailedPrecondition; to tell would
    # take a request more.
    if any(above.is_file() for above in path.parents):
        return True
    # differs: a directory cannot be opened for reading; on a local disk it can, and not be read.
    if name == "read" and path.is_dir():
        return True
    if name == "copy":
        # differs: to copy a directory is FailedPrecondition, on a local disk InvalidArgument.
        # differs: a file copied onto itself stays; on a local disk it is emptied.
        return path.is_dir() or call[1] == call[2]
    return False


def _may_write(call: Call, writers: dict[int, Writer]) -> bool:
    """Tell whether all writers of a file append.

    Others write, on a local disk, at a place of their own, over what the other wrote.
    """
    place = _WRITES_AT[call[0]]
    mode = call[place + 1] if call[0] in ("open", "write") else "wb"
    modes = {writer.mode for writer in writers.values() if writer.path == call[place]}
    return not modes or {mode, *modes} == {"ab"}
