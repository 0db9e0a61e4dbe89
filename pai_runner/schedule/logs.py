"""What cron's runs print, night after night: a file that does not grow for ever."""

from __future__ import annotations

import os

from pai_runner.schedule.catalog import log_path

# From this size on a new file is begun; the one before it is kept.
_MOST_BYTES = 10 * 1024 * 1024


def begin_anew(name: str, most_bytes: int = _MOST_BYTES) -> None:
    """Where a schedule's log has grown large, make it NAME.log.1 and begin a new one.

    What this process prints into the log goes to the new one. The caller holds the schedule's
    lock. Raises OSError.
    """
    path = log_path(name)
    if not os.path.exists(path) or os.stat(path).st_size < most_bytes:
        return
    os.replace(path, f"{path}.1")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        for stream in (1, 2):
            if os.path.samestat(os.fstat(stream), os.stat(f"{path}.1")):
                os.dup2(descriptor, stream)
    finally:
        os.close(descriptor)
