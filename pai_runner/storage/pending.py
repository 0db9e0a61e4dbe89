"""What waits on the local disk to be done to buckets, and the journal by which it is finished.

A process that saves in the background has a folder of its own below the job's:

    ROOT/<time>-<process>/journal.jsonl   what is to be done, in order, and what is done
                          000001, …       the files that are to be uploaded

The journal has one object a line: an operation is there, on the disk, before the process goes on,
and `done` after it. Whoever finds the folder later, when the process is gone, does the rest: see
`resuming`. No line holds a secret, for a path names no credentials.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pai_runner.storage.stage_progress import in_words

_JOURNAL = "journal.jsonl"
_PRIVATE = 0o700


@dataclass(frozen=True)
class Operation:
    """An upload of a file of `size` bytes to `path`, or the removal of `path` where `size` is None.

    `crc64` is the file's CRC-64, None where nobody has calculated it yet; `time_ns` says when the
    operation was asked for, in nanoseconds since 1970.
    """

    number: int
    path: str
    size: int | None
    time_ns: int
    crc64: int | None = None

    @property
    def is_removal(self) -> bool:
        return self.size is None


@dataclass(frozen=True)
class Contents:
    """All operations of a journal by number, in order, and the numbers of those that are done."""

    operations: Mapping[int, Operation]
    done: frozenset[int]

    @property
    def waiting(self) -> list[Operation]:
        return [one for number, one in self.operations.items() if number not in self.done]


@dataclass(frozen=True)
class Waiting:
    """How much waits: `bytes` are those of `files` that are to be uploaded."""

    files: int = 0
    bytes: int = 0
    removals: int = 0

    def __bool__(self) -> bool:
        return bool(self.files or self.removals)

    def __str__(self) -> str:
        """Return it in words, as `2 files (1.2 GB) and 1 deletion wait`."""
        parts = []
        if self.files:
            size = f" ({in_words(self.bytes)})"
            parts.append(f"{self.files} {'file' if self.files == 1 else 'files'}{size}")
        if self.removals:
            parts.append(f"{self.removals} {'deletion' if self.removals == 1 else 'deletions'}")
        is_one = self.files + self.removals == 1
        return f"{' and '.join(parts) or 'nothing'} {'waits' if is_one or not self else 'wait'}"

    def __add__(self, other: Waiting) -> Waiting:
        return Waiting(
            self.files + other.files, self.bytes + other.bytes, self.removals + other.removals
        )

    @classmethod
    def of(cls, operations: list[Operation]) -> Waiting:
        """Return the count of `operations`."""
        sizes = [one.size for one in operations if one.size is not None]
        return cls(len(sizes), sum(sizes), len(operations) - len(sizes))


class Journal:
    """The folder of one process, which it holds as long as it lives.

    One thread at a time uses it. What it raises is OSError.
    """

    def __init__(self, folder: str) -> None:
        """Take a folder that exists: BlockingIOError where another process has it."""
        self.folder = folder
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(os.path.join(folder, _JOURNAL), flags, 0o600)
        try:
            # Of the process: a forked child does not hold it.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.contents = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._last = max(self.contents.operations, default=0)

    @classmethod
    def create(cls, root: str, name: str) -> Journal:
        """Make a folder in `root` whose name begins with `name`."""
        os.makedirs(root, mode=_PRIVATE, exist_ok=True)
        folder = os.path.join(root, name)
        os.mkdir(folder, _PRIVATE)
        journal = cls(folder)
        for path in (folder, root):
            _sync(path)
        return journal

    def file(self, operation: Operation) -> str:
        """Return where the file of an upload lies."""
        return os.path.join(self.folder, f"{operation.number:06d}")

    def next_file(self) -> str:
        """Return where the file of the next operation must lie, if that is an upload.

        It need not be synced: that would cost more than the save. Its size and checksum tell
        whether a machine that crashed has kept it.
        """
        return os.path.join(self.folder, f"{self._last + 1:06d}")

    def add(self, path: str, size: int | None, crc64: int | None = None) -> Operation:
        """Write an operation down, so that it outlives the process and the machine."""
        operation = Operation(self._last + 1, path, size, time.time_ns(), crc64)
        line = {"number": operation.number, "path": path, "time_ns": operation.time_ns}
        if size is None:
            line["remove"] = True
        else:
            line["size"] = size
        if crc64 is not None:
            line["crc64"] = crc64
        self._write(line)
        self._last += 1
        return operation

    def note_crc64(self, operation: Operation, crc64: int) -> None:
        """Write down the checksum of an upload's file."""
        self._write({"number": operation.number, "crc64": crc64})

    def end(self, operation: Operation) -> None:
        """Write down that an operation is done, or that nobody needs it; its file goes."""
        self._write({"done": operation.number})
        if not operation.is_removal:
            with suppress(FileNotFoundError):
                os.unlink(self.file(operation))

    def close(self) -> None:
        """Leave the folder to whoever wants it."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the folder, of which all is done."""
        shutil.rmtree(self.folder)
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, f"{self.folder}: the journal: the disk is full")
            os.fsync(self._descriptor)
        except BaseException:
            # The next line must not go on where a piece of this one ends.
            os.ftruncate(self._descriptor, size)
            raise

    def _read(self) -> Contents:
        """Return what the journal says; a line that was not written whole goes."""
        size = os.fstat(self._descriptor).st_size
        data = os.pread(self._descriptor, size, 0)
        whole = data.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._descriptor, whole)
        return _parsed(data[:whole])


def _sync(folder: str) -> None:
    """Make the names in a folder last through a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ====== Looking, from anywhere ======


def folders(root: str) -> list[str]:
    """Return the folders of a job's processes, the oldest first; none where `root` is missing."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    found = sorted(os.path.join(root, name) for name in names)
    return [folder for folder in found if os.path.exists(os.path.join(folder, _JOURNAL))]


def waiting_in(root: str) -> Waiting:
    """Return how much waits in the folders of a job. Raises OSError, ValueError."""
    total = Waiting()
    for folder in folders(root):
        with suppress(FileNotFoundError):  # its process has just finished it
            with open(os.path.join(folder, _JOURNAL), "rb") as file:
                data = file.read()
            total += Waiting.of(_parsed(data[: data.rfind(b"\n") + 1]).waiting)
    return total


def tidy(root: str) -> None:
    """Remove the folders of a job in which nothing waits, and `root` when it is empty."""
    for folder in folders(root):
        with suppress(OSError, ValueError):  # it is in use, or not ours to judge
            journal = Journal(folder)
            if journal.contents.waiting:
                journal.close()
            else:
                journal.remove()
    with suppress(OSError):
        os.rmdir(root)


def _parsed(data: bytes) -> Contents:
    """Return what whole lines of a journal say. Raises ValueError for what is no journal."""
    operations: dict[int, Operation] = {}
    done: set[int] = set()
    for line in _lines(data):
        if "done" in line:
            done.add(line["done"])
        elif "path" in line:
            operations[line["number"]] = Operation(
                line["number"], line["path"], line.get("size"), line["time_ns"], line.get("crc64")
            )
        else:
            number = line["number"]
            operations[number] = replace(operations[number], crc64=line["crc64"])
    return Contents(operations, frozenset(done))


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(data.splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"line {number} of the journal is damaged: {error}") from error
        if not isinstance(line, dict):
            raise ValueError(f"line {number} of the journal is damaged: it is no object")
        yield line
