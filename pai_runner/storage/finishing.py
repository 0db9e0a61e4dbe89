"""Finishing what a process that is gone has left to be uploaded: see `pending`.

Everything is done in the order in which the process would have done it. It may end at any moment,
and begin again: what is done is noted at once, and files stay until they are in the bucket.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pai_runner.errors import BusyError, SetupError
from pai_runner.storage.checksums import crc64
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.filesystems import filesystem, options_at
from pai_runner.storage.mounts import MountTable
from pai_runner.storage.objects import Objects, mapped, open_objects
from pai_runner.storage.pending import Journal, Operation, Waiting, folders, tidy
from pai_runner.storage.uploads import upload_file

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

# No `checkpoint` file is longer; of a longer one the beginning tells as well whose it is.
_POINTER_BYTES = 1024 * 1024


@dataclass
class Resumed:
    """What was done, by location: `held_back` are the directories that others have gone on with."""

    uploaded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)


class Resume:
    """The folders of one job, held against all others until `close`.

    `mounts` are the options of the job's locations, by their prefixes.
    """

    def __init__(self, root: str, mounts: Mapping[str, Mapping[str, str]]) -> None:
        """Raises BusyError where a process of the job still lives, SetupError."""
        self._root = root
        self._stack = ExitStack()
        self._buckets = _Buckets(mounts)
        self._journals: list[Journal] = []
        for folder in folders(root):
            self._journals.append(_taken(folder))
            self._stack.callback(self._journals[-1].close)

    def __enter__(self) -> Resume:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        tidy(self._root)

    @property
    def waiting(self) -> Waiting:
        return Waiting.of([one for _, one in self._operations()])

    def check(self) -> None:
        """Check that each file is still as it was written. Raises SetupError naming those not."""
        damaged = [
            f"{journal.file(one)} ({one.path}): {problem}"
            for journal, one in self._operations()
            if (problem := _damage(journal.file(one), one))
        ]
        if damaged:
            raise SetupError(
                "nothing was uploaded, for these files are not what was saved: "
                + "; ".join(damaged),
                f"what else is in {self._root} may be whole; remove it when nobody needs it",
            )

    def run(self, force: bool, sent: Callable[[int], object]) -> Resumed:
        """Do all that waits; `sent(count)` is called, on any thread, as bytes have arrived.

        Where another process has saved to a directory meanwhile, nothing of that directory is
        touched, unless with `force`: its files may have the same names. Raises SetupError.
        """
        done = Resumed()
        if not force:
            done.held_back = [one for one in self._directories() if self._is_newer(one)]
        for journal, operation in self._operations():
            if _directory(operation) in done.held_back:
                continue
            with _explained(operation):
                self._do(journal, operation, sent)
                journal.end(operation)
            (done.removed if operation.is_removal else done.uploaded).append(operation.path)
        return done

    def _do(self, journal: Journal, operation: Operation, sent: Callable[[int], object]) -> None:
        fs, objects, key = self._buckets.of(operation.path)
        if operation.size is not None:
            upload_file(objects, key, journal.file(operation), operation.size, sent=sent)
            return
        with suppress(FileNotFoundError):
            fs.rm_file(key)

    def _operations(self) -> Iterator[tuple[Journal, Operation]]:
        for journal in self._journals:
            for operation in journal.contents.waiting:
                yield journal, operation

    def _directories(self) -> list[str]:
        return list(dict.fromkeys(_directory(one) for _, one in self._operations()))

    def _is_newer(self, directory: str) -> bool:
        """Tell whether the `checkpoint` file of a directory is another's, and newer."""
        pointer = f"{directory}/checkpoint"
        waits_since = min(
            one.time_ns for _, one in self._operations() if _directory(one) == directory
        )
        _, objects, key = self._buckets.of(pointer)
        content = bytearray(_POINTER_BYTES)
        try:
            count, described = objects.read_into(key, 0, memoryview(content))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _failure(f"{pointer} cannot be read", error) from error
        ours = {
            one.crc64
            for journal in self._journals
            for one in journal.contents.operations.values()
            if one.path == pointer
        }
        is_ours = crc64(memoryview(content)[:count]) in ours
        return not is_ours and described.modified_ns > waits_since


class _Buckets:
    """The file systems of the job's locations, each opened at its first use."""

    def __init__(self, mounts: Mapping[str, Mapping[str, str]]) -> None:
        self._table: MountTable[Mapping[str, str]] = MountTable()
        for prefix, options in mounts.items():
            self._table.add(prefix, options_at(prefix, options))
        self._open: dict[tuple[object, ...], tuple[AbstractFileSystem, Objects]] = {}

    def of(self, path: str) -> tuple[AbstractFileSystem, Objects, str]:
        """Return what a clean path lies on, and its key there. Raises SetupError."""
        protocol = path.partition("://")[0]
        options = self._table.find(path) or options_at(path, {})
        known = (protocol, *sorted(options.items()))
        if known not in self._open:
            fs = filesystem(protocol, options)
            self._open[known] = fs, open_objects(protocol, options, fs)
        fs, objects = self._open[known]
        return fs, objects, fs._strip_protocol(path)


def _taken(folder: str) -> Journal:
    try:
        return Journal(folder)
    except BlockingIOError:
        raise BusyError(
            f"a process that uploads from {folder} still lives", "wait for its end"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{folder} cannot be read: {describe_error(error)}", "its files are what was saved"
        ) from error


def _directory(operation: Operation) -> str:
    return operation.path.rpartition("/")[0]


def _damage(file: str, operation: Operation) -> str:
    """Return what is wrong with the file of an upload; empty for nothing."""
    if operation.size is None:
        return ""
    try:
        size = os.path.getsize(file)
        if size != operation.size:
            return f"{size} bytes of {operation.size}"
        if operation.crc64 is None:
            # The process died before it was calculated. TensorFlow checks what it restores.
            return ""
        with mapped(file) as content:
            return "" if crc64(content) == operation.crc64 else "its checksum is wrong"
    except OSError as error:
        return describe_error(error)


@contextmanager
def _explained(operation: Operation) -> Iterator[None]:
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        what = "not removed" if operation.is_removal else "not uploaded"
        raise _failure(f"{operation.path}: {what}", error) from error


def _failure(what: str, error: Exception) -> SetupError:
    if isinstance(error, SetupError):
        return error
    hint = "run the same command again when that is mended"
    if failure_of(error) is Failure.UNAVAILABLE:
        hint = "run the same command again: what was uploaded is not uploaded again"
    return SetupError(f"{what}: {describe_error(error)}", hint)
