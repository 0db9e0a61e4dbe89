"""Local files that are being written: each appears whole, under a hidden name before."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from pai_runner.storage.checksums import crc64
from pai_runner.storage.copy_journal import CopyJournal
from pai_runner.storage.local_tree import LocalTree, unfinished_name
from pai_runner.storage.objects import PART


def write_small(path: str, data: memoryview, modified_ns: int) -> None:
    """Write a local file, whole at once; its folder is made. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = unfinished_name(path)
    try:
        with open(part, "wb") as file:
            file.write(data)
        _publish(part, path, modified_ns)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _publish(part: str, path: str, modified_ns: int) -> None:
    if modified_ns:  # else a later `sync` would compare with the time of the copy
        os.utime(part, ns=(modified_ns, modified_ns))
    os.replace(part, path)


def _allocate(file: BinaryIO, size: int) -> None:
    """Take so many bytes of the disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = memoryview(bytes(PART))  # macOS has no such call
    for start in range(0, size, PART):
        file.write(zeros[: size - start])
    file.flush()


class FileSink:
    """A local file whose pieces are read straight into its pages: see `moving.Sink`.

    The journal keeps a CRC-64 of each piece: what of it is not in the file any more, after a crash
    of the machine, is fetched again.
    """

    def __init__(
        self,
        target: LocalTree,
        name: str,
        read_into: Callable[[int, memoryview], None],
        journal: CopyJournal,
        about: dict[str, Any],
    ) -> None:
        self._path = target.path(name)
        self._part = unfinished_name(self._path)
        self._read_into = read_into
        self._journal = journal
        self._modified_ns: int = about["modified_ns"]
        size: int = about["size"]
        is_known = about.items() <= journal.about.items()
        if not is_known or not os.path.exists(self._part) or os.path.getsize(self._part) != size:
            journal.begin(**about)
            self._make(size)
        self._file = open(self._part, "r+b")  # noqa: SIM115
        part: int = about["part"]
        self.resumed = {
            number
            for number, crc in journal.pieces.items()
            if crc64(self._mapped((number - 1) * part, min(part, size - (number - 1) * part)))
            == crc
        }

    def _mapped(self, start: int, count: int) -> memoryview:
        """Return the bytes of a piece in the file, which are mapped as long as they are used."""
        return memoryview(mmap.mmap(self._file.fileno(), count, offset=start))

    def _make(self, size: int) -> None:
        """Make the file with all the space that it takes: a full disk would end the process."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with open(self._part, "wb") as file:
            try:
                _allocate(file, size)
            except OSError as error:
                os.unlink(self._part)
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    text = f"{self._path}: no space is left for {size} bytes"
                    raise OSError(error.errno, text) from None
                raise

    def put(self, number: int, start: int, count: int) -> memoryview:
        data = self._mapped(start, count)
        self._read_into(start, data)
        self._journal.add(number, crc64(data))
        return data

    def held(self, number: int, start: int, count: int) -> memoryview:
        return self._mapped(start, count)

    def take(self, data: memoryview) -> None:
        pass

    def finish(self) -> None:
        self._file.close()
        _publish(self._part, self._path, self._modified_ns)

    def abandon(self) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._part)

    def leave(self) -> None:
        self._file.close()
