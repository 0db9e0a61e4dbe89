"""What was done of a large copy, in a file, so that the same copy can go on after a kill.

A journal is a text of JSON lines: the first says what is copied, each other that a piece of it has
arrived. A line is appended at once; a kill can only cut off the last one, which is then passed
over. Journals lie in the user's cache folder and hold no secrets.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from typing import IO, Any

from pai_runner.storage.failures import describe_error

logger = logging.getLogger(__name__)


class InUseError(OSError):
    """Another process is at the same copy."""


def journals_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Return the folder of the journals: below XDG_CACHE_HOME, else ~/.cache.

    See specifications.freedesktop.org/basedir-spec: a path that is not absolute does not count.
    """
    cache = environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "pai_runner", "copies")


class CopyJournal:
    """The journal of the copy from `source` to `target`. Threads may share it.

    `about` is what the copy was when it began, and `pieces` what was noted of each piece; both are
    empty where there was no such copy. Where the folder cannot be written nothing is kept.
    """

    def __init__(self, source: str, target: str) -> None:
        """Take the copy for this process. Raises InUseError."""
        self.about: dict[str, Any] = {}
        self.pieces: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._names = {"source": source, "target": target}
        digest = hashlib.sha256(json.dumps(self._names).encode()).hexdigest()
        self._path = os.path.join(journals_folder(), f"{digest}.jsonl")
        self._file = self._open()
        if self._file is not None:
            self._read(self._file)

    def _open(self) -> IO[bytes] | None:
        while True:
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
                file = open(self._path, "a+b", opener=_private)  # noqa: SIM115
            except OSError as error:
                why = describe_error(error)
                logger.warning("%s: %s: this copy cannot be gone on with later", self._path, why)
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                what = self._names["target"]
                raise InUseError(f"{what}: another process copies the same") from None
            if _is_at(self._path, file):
                return file
            file.close()  # the process that had it has just removed it

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        file.truncate(len(whole))  # nothing may be appended to a line that was cut off
        if not whole:
            return
        first, *lines = whole.splitlines()
        try:
            about = json.loads(first)
            self.pieces = {int(number): noted for number, noted in map(json.loads, lines)}
            self.about = about
        except (ValueError, TypeError):
            logger.warning("%s: damaged; the copy begins anew", self._path)

    @property
    def is_kept(self) -> bool:
        """Whether another process can go on with the copy."""
        return self._file is not None

    def begin(self, **about: Any) -> None:
        """Forget what was noted, and note what the copy is. Raises OSError."""
        self.about, self.pieces = {**self._names, **about}, {}
        if self._file is not None:
            self._file.truncate(0)
            self._write(self.about)

    def add(self, number: int, noted: Any) -> None:
        """Note that a piece has arrived. Raises OSError."""
        with self._lock:
            self.pieces[number] = noted
            self._write([number, noted])

    def _write(self, value: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()

    def end(self) -> None:
        """Remove the journal: nothing is left to go on with."""
        self.about = {}
        self.close()

    def close(self) -> None:
        """Leave the copy to whoever goes on with it."""
        if self._file is not None:
            if not self.about:
                os.unlink(self._path)
            self._file.close()
            self._file = None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _is_at(path: str, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
