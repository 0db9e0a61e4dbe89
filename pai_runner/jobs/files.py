"""Writing files that a reader never sees half written."""

from __future__ import annotations

import errno
import os
import time

from pai_runner.errors import SetupError

# A full disk, a full quota, and a limit on a file's size.
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def now_text() -> str:
    """Return the time in UTC as ISO text, to the millisecond: 2026-11-21T05:14:52.123Z."""
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def write_atomic(path: str, data: bytes, durable: bool = True) -> None:
    """Replace the file at `path` by one that holds `data`; a reader sees the old or the new one.

    If `durable`, that holds after a crash of the machine, too. Raises OSError, and leaves the old
    file and nothing else.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass  # it is in its place: a signal's exception came behind the rename
        raise
    if durable:
        sync_directory(folder)


def write_in_place(path: str, data: bytes) -> None:
    """Overwrite the file at `path` within the space that it already has, padding with blanks.

    This still works on a full disk. A reader may meet it half done, so it is the second choice.
    Raises OSError with ENOSPC when `data` is larger than that space.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        status = os.fstat(descriptor)
        if len(data) > max(status.st_size, status.st_blocks * 512):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        write_all(descriptor, data.ljust(status.st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: str, error: OSError) -> SetupError:
    """Return the error to be raised where a record cannot be written."""
    return SetupError(
        f"the record {path} cannot be written: {error.strerror}",
        "free some space, or keep the records elsewhere with PAI_HOME",
    )


def is_out_of_space(error: OSError) -> bool:
    """Tell whether `error` says that the disk, or the user's part of it, is full."""
    return error.errno in _OUT_OF_SPACE


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, in as many turns as it takes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(folder: str) -> None:
    """Make the names in `folder` last through a crash of the machine. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
