"""What of a staged folder is in the bucket: a file of JSON lines, appended after each copy.

A mover that starts anew reads it and knows what is the same on both sides. A line is written
whole or, by a process that was killed, torn; a machine that lost its power leaves anything. So
the file ends at its first bad line.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import Any, NamedTuple

from pai_runner.storage.stage_files import FileState


class Entry(NamedTuple):
    """A local content (`FileState.content`), and the version of the object that holds it."""

    content: tuple[int, int, int]
    version: str


class Intent(NamedTuple):
    """An upload of a local content that was begun: what it would write, by size and CRC64."""

    content: tuple[int, int, int]
    size: int
    crc64: int


class Manifest:
    """The entries by name. Threads may share it.

    `problem` says why lines were lost, if any were: on a full disk copying back goes on, and only
    a later mover would know less.
    """

    def __init__(self, path: str) -> None:
        """Read the file at `path`, or begin it. Raises OSError."""
        self.entries: dict[str, Entry] = {}
        self.problem = ""
        self._intents: dict[str, Intent] = {}
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        end = 0
        with open(path, "rb") as stream:
            for line in stream:
                if not (line.endswith(b"\n") and self._is_applied(line)):
                    break
                end += len(line)
        os.ftruncate(self._descriptor, end)

    def close(self) -> None:
        os.close(self._descriptor)

    def is_same(self, name: str, state: FileState) -> bool:
        """Tell whether the bucket holds the local content `state`."""
        entry = self.entries.get(name)
        return entry is not None and entry.content == state.content

    def version(self, name: str) -> str | None:
        """Return the version that this job read or wrote; None when it knows of none."""
        entry = self.entries.get(name)
        return None if entry is None else entry.version

    def intent(self, name: str) -> Intent | None:
        """Return the upload of `name` that was begun and whose end is not known."""
        return self._intents.get(name)

    def copied(self, name: str, content: tuple[int, int, int], version: str) -> None:
        """Note that the object's `version` holds the local `content`."""
        self._append({"name": name, "content": content, "version": version})

    def begin(self, name: str, content: tuple[int, int, int], size: int, crc64: int) -> None:
        """Note that an upload of `size` bytes, made from `content`, is about to be published."""
        self._append({"name": name, "content": content, "size": size, "crc64": crc64})

    def gone(self, name: str) -> None:
        """Note that there is nothing of this name any more."""
        self._append({"name": name})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            end = os.fstat(self._descriptor).st_size
            try:
                written = os.write(self._descriptor, data)
            except OSError as error:
                self.problem = error.strerror or str(error)
            else:
                if written != len(data):  # a full disk takes what still fits
                    os.ftruncate(self._descriptor, end)
                    self.problem = os.strerror(errno.ENOSPC)
            self._apply(line)

    def _is_applied(self, line: bytes) -> bool:
        """Apply a line that was read. False if it is none."""
        try:
            self._apply(json.loads(line))
        except (ValueError, KeyError, TypeError):
            return False
        return True

    def _apply(self, line: dict[str, Any]) -> None:
        name = line["name"]
        if "crc64" in line:
            self._intents[name] = Intent(_content(line), line["size"], line["crc64"])
            return
        self._intents.pop(name, None)
        if "version" in line:
            self.entries[name] = Entry(_content(line), line["version"])
        else:
            self.entries.pop(name, None)


def _content(line: dict[str, Any]) -> tuple[int, int, int]:
    size, mtime_ns, inode = line["content"]
    return size, mtime_ns, inode
