"""Checks the remote locations of a job before the script's first line."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pai_runner.script.filesystem import compiled_part
from pai_runner.script.handover import Mount
from pai_runner.storage.filesystems import check_directory, filesystem, options_at

# More would only queue at the same server.
_AT_ONCE = 8


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Check that TensorFlow can reach mounts, and that each one's bucket exists and may be used.

    Raises SetupError for what is missing, or for the first of `mounts` that fails.
    """
    compiled_part()
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        for result in [executor.submit(_check, mount) for mount in mounts]:
            result.result()


def _check(mount: Mount) -> None:
    options = options_at(mount.prefix, mount.options)
    check_directory(filesystem(mount.protocol, options), mount.prefix)
