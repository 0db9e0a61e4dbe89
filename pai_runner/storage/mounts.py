"""Which mount a path lies on: the table of a job's remote locations.

Paths here are whole names, `s3://bucket/key`, in the form that `clean` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from pai_runner.location import plain_path

_T = TypeVar("_T")


class Mount(Protocol):
    """A remote location of the job: `options` are its filesystem's, secrets in clear."""

    @property
    def prefix(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def options(self) -> Mapping[str, str]: ...


class MountTable(Generic[_T]):
    """What belongs to each prefix.

    The longest prefix that holds a path is taken; else one that names the same bucket.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, _T]] = []

    def add(self, prefix: str, value: _T) -> None:
        """Add a row; of two for one prefix the first counts."""
        self._rows.append((clean(prefix), value))
        self._rows.sort(key=lambda row: len(row[0]), reverse=True)

    def find(self, path: str) -> _T | None:
        """Return what belongs to a clean path, or None."""
        for prefix, value in self._rows:
            if path == prefix or is_below(path, prefix):
                return value
        bucket = "/".join(path.split("/")[:3])
        for prefix, value in self._rows:
            if prefix == bucket or is_below(prefix, bucket):
                return value
        return None


# The mounts of the job that this process runs a script of. What the script calls (`export`,
# `checkpoint`) is given names of locations only, and has no other way to the options.
_of_job: MountTable[Mapping[str, str]] = MountTable()


def serve_mounts(mounts: Iterable[Mount]) -> None:
    """Make the options of `mounts` known in this process."""
    for mount in mounts:
        _of_job.add(mount.prefix, mount.options)


def mounted_options(path: str) -> dict[str, str] | None:
    """Return the options of the job's mount that `path` lies on, secrets in clear, or None."""
    found = _of_job.find(clean(path))
    return None if found is None else dict(found)


# ====== Paths ======


def clean(path: str) -> str:
    """Return `path` without empty, `.` and `..` parts and without a final `/`.

    TensorFlow's local file system does the same (FileSystem::CleanPath); `..` never leaves the
    bucket.
    """
    protocol, _, rest = plain_path(path).partition("://")
    parts: list[str] = []
    for part in rest.split("/"):
        if part == "..":
            if len(parts) > 1:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return f"{protocol}://{'/'.join(parts)}"


def is_root(path: str) -> bool:
    """Tell whether a clean path names all buckets of a protocol."""
    return path.endswith("://")


def is_below(path: str, directory: str) -> bool:
    """Tell whether a clean path lies somewhere below the clean path `directory`."""
    return path.startswith(directory if is_root(directory) else directory + "/")
