"""Local folders for models on their way, which do not outlive the process that made them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFIX = "pai-model-"
# A folder is locked right after it is made; a younger one may not be so yet.
_YOUNG_SECONDS = 60.0


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Yield a new folder in TMPDIR, and remove it afterwards.

    Those of processes that were killed are removed as well: a living one holds a lock on its own.
    """
    _sweep(tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks: there no one can get one, either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(above: str) -> None:
    for entry in os.scandir(above):
        if not entry.name.startswith(_PREFIX):
            continue
        with suppress(OSError):  # another user's, or removed meanwhile
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _YOUNG_SECONDS:
                _remove_if_dead(entry.path)


def _remove_if_dead(folder: str) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
