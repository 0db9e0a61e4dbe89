"""`oss://` for fsspec, and so for pandas and others, in the script's process.

`fsspec.open("oss://…")` names no credentials: each path is opened as the mount says that it
lies on, as TensorFlow opens it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from fsspec.utils import stringify_path

from pai_runner.errors import SetupError
from pai_runner.location import plain_path
from pai_runner.script.stores import Stores
from pai_runner.storage.mounts import Mount, clean
from pai_runner.storage.oss import OSSFileSystem
from pai_runner.storage.oss_client import Client

# The job's mounts. fsspec makes its filesystems by itself, and has no place for them.
_stores = Stores()
_first: list[str] = []


def serve(fsspec: ModuleType, mounts: Iterable[Mount]) -> None:
    """Make the `oss` of `fsspec` that of `mounts`."""
    for mount in mounts:
        if mount.protocol == "oss":
            _stores.add(mount)
            _first.append(clean(mount.prefix))
    os.register_at_fork(after_in_child=_stores.after_fork)
    fsspec.register_implementation("oss", MountedOSSFileSystem, clobber=True)


class MountedOSSFileSystem(OSSFileSystem):
    """The job's OSS buckets. With an endpoint or a key of its own it is theirs alone."""

    def __init__(self, endpoint: str | None = None, key: str | None = None, **options: Any) -> None:
        self._is_own = bool(endpoint or key)
        if self._is_own:
            super().__init__(endpoint, key, **options)
            return
        if not _first:
            raise SetupError(
                "the job's oss:// locations are not known in this process",
                "open them in the script's own process, or in one of multiprocessing",
            )
        first: Any = _stores.of(_first[0]).fs  # for what is asked of no path
        super().__init__(first._endpoint, source=first._source, **options)

    def client(self, path: str) -> Client:
        if self._is_own:
            return super().client(path)
        fs: Any = _stores.of(clean(f"oss://{path}")).fs
        client: Client = fs.client(path)
        return client

    def __reduce__(self) -> Any:
        return super().__reduce__() if self._is_own else (MountedOSSFileSystem, ())

    @classmethod
    def bare_path(cls, path: Any) -> str:
        bare: str = super().bare_path(plain_path(stringify_path(path)))
        return bare
