"""The oss:// filesystem: ossfs's, with oss2 for data and heads.

ossfs 2025.5.0 reads ranges one byte too long, takes wrong bytes into its caches, cannot write
more than a block, makes appendable objects, asks for GetBucketInfo and remembers listings that
others change. Here nothing is remembered, a write is whole or not there, and a role that may
only get, list, put and delete suffices.

Names are `bucket/key`. Keys are taken literally, `//` and what looks like a query included.
Directories are what keys have before a `/`; an object named `dir/` shows an empty one. With
`fsspec.open("oss://…", "wb")` an error inside `with` still publishes what was written till
then, as fsspec closes the file without a word of the error; `fs.open` does not.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from operator import methodcaller
from tempfile import TemporaryDirectory
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.core import get_compression

from pai_runner.storage.attempts import SLOW_SECONDS
from pai_runner.storage.credentials import shared_source
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.hosts import check_endpoint
from pai_runner.storage.oss_access import own_endpoint
from pai_runner.storage.oss_client import Client
from pai_runner.storage.oss_objects import OSSObjects
from pai_runner.storage.oss_reading import ReadableOSS
from pai_runner.storage.oss_upload import (
    OSSFile,
    copy_in_parts,
    put_stream,
)

_DELETED_AT_ONCE = 1000
# The keys that XML 1.0 carries as they are: a carriage return would arrive as a line feed.
_FIT_FOR_XML = re.compile(r"[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
# How many keys an error names.
_NAMED = 10

# Refusals of a copy that a copy in parts may mend: too large, or appendable.
_NOT_IN_ONE = ("EntityTooLarge", "InvalidRequest", "InvalidArgument", "OperationNotSupported")


def open_oss(options: Mapping[str, str]) -> OSSFileSystem:
    """Return a filesystem for the options of an oss location, secrets in clear.

    `host` must be one that credentials may be sent to; without it the endpoint is the user's
    own OSS_ENDPOINT. No request is made. Raises SetupError.
    """
    endpoint = (
        check_endpoint(options["host"], "oss:// host") if "host" in options else own_endpoint()
    )
    return OSSFileSystem(endpoint=endpoint, source=shared_source(options))


class OSSFileSystem(ReadableOSS):
    """OSS as an fsspec filesystem; safe among threads, and in a forked child.

    `endpoint`, `key`, `secret` and `token` are those of ossfs; without an endpoint it is
    OSS_ENDPOINT, without a key the credentials are the environment's. `source` gives credentials
    that are renewed. `region` is that of signatures of version 4; else the endpoint's name tells
    it, or OSS_REGION. All failures are OSErrors, but SetupErrors where there is no endpoint or
    there are no credentials.
    """

    # OSS copies up to 1 GB at once (help.aliyun.com/document_detail/31979.html), else in parts.
    copy_part = 256 * 1024 * 1024

    def objects(self) -> OSSObjects:
        """Return what reads and writes the bytes of the objects here: see `objects`."""
        return OSSObjects(self.place, self.has_below)

    # ====== Open files ======

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Return an open file; an error inside its `with` leaves the object as it was.

        Raises NotImplementedError for writing with `compression`: fsspec's compressing files do
        not close the file below them, and could not give it up.
        """
        if "r" not in mode and get_compression(path, options.pop("compression", None)):
            raise NotImplementedError(
                f"{path}: OSS files are not opened for writing with compression; open the file "
                "without it, and write to it through gzip.open(file, mode) or its like"
            )
        if "b" in mode or "r" in mode:
            return super().open(path, mode, **options)
        names = ("encoding", "errors", "newline")
        text = {name: options.pop(name) for name in names if name in options}
        return _TextWriter(super().open(path, mode.replace("t", "") + "b", **options), **text)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> OSSFile:
        if mode == "xb" and self.exists(path):
            raise FileExistsError(errno.EEXIST, f"{path}: it exists")
        options.setdefault("cache_type", self._default_cache_type)
        return OSSFile(
            self,
            path,
            mode,
            block_size=block_size or self._default_block_size,
            autocommit=autocommit,
            cache_options=cache_options,
            **options,
        )

    # ====== Writing ======

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write a file; with `mode="create"` it must not exist: FileExistsError."""
        size = memoryview(value).nbytes
        put_stream(self.place(path), io.BytesIO(value), size, mode == "create")

    def put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **options: Any,
    ) -> None:
        """Write a local file to `rpath`, where it appears whole; a directory needs nothing."""
        if os.path.isdir(lpath):
            return
        with open(lpath, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            callback.set_size(size)
            place = self.place(rpath)
            put_stream(place, stream, size, mode == "create", callback.relative_update)

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Write an empty file; with `truncate=False` only where there is none."""
        if not truncate and self.exists(path):
            raise NotImplementedError("OSS sets times itself")
        self.pipe_file(path, b"")

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copy a file on the server, across buckets too. A directory is passed over."""
        try:
            source, target = self.place(path1), self.place(path2)
        except IsADirectoryError:
            if self.isdir(path1):
                return
            raise
        if source.client is not target.client:
            self._carry(path1, path2)
            return
        try:
            target.client.call(
                target.bucket,
                source.path,
                lambda bucket: bucket.copy_object(source.bucket, source.key, target.key),
                SLOW_SECONDS,
            )
        except FileNotFoundError:
            # The answer does not tell which of the two is missing; a missing source is raised here.
            if self.info(path1)["type"] == "file":
                raise
        except RefusedError as error:
            if error.code not in _NOT_IN_ONE:
                raise
            self._copy_in_parts(path1, path2)

    def _copy_in_parts(self, path1: str, path2: str) -> None:
        found = self.info(path1)
        source, target = self.place(path1), self.place(path2)
        copy_in_parts(source, target, found["size"], found["ETag"], self.copy_part, found["CRC64"])

    def _carry(self, path1: str, path2: str) -> None:
        """Copy between places of different credentials: neither may do both by itself."""
        if self.isdir(path1):
            return
        with TemporaryDirectory() as folder:
            local = os.path.join(folder, "object")
            self.get_file(path1, local)
            self.put_file(local, path2)

    # ====== Removing ======

    def rm_file(self, path: str) -> None:
        """Remove a file. Raises FileNotFoundError, which costs a HEAD: OSS would not tell."""
        place = self.place(path)
        place.client.call(place.bucket, place.path, lambda one: one.head_object(place.key))
        place.client.call(place.bucket, place.path, lambda one: one.delete_object(place.key))

    _rm = rm_file

    def rm(
        self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Remove files and, with `recursive`, directories; never a whole bucket: PermissionError.

        Patterns are expanded, as everywhere in fsspec. Raises FileNotFoundError, and OSError
        where the server leaves some of them.
        """
        paths = path if isinstance(path, list) else [path]
        for one in paths:
            if not self.split_path(self._strip_protocol(one))[1]:
                raise PermissionError(errno.EPERM, f"{one}: a whole bucket is not removed")
        found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        if len(found) == 1 and not recursive:
            self.rm_file(found[0])
            return
        by_client: defaultdict[tuple[Client, str], list[str]] = defaultdict(list)
        for one in found:
            bucket, key = self.split_path(one)
            by_client[self.client(one), bucket].append(key)
        for (client, bucket), keys in by_client.items():
            fit = [key for key in keys if _FIT_FOR_XML.fullmatch(key)]
            for start in range(0, len(fit), _DELETED_AT_ONCE):
                page = fit[start : start + _DELETED_AT_ONCE]
                client.call(bucket, bucket, partial(_delete, keys=page))
            for key in set(keys).difference(fit):
                client.call(bucket, f"{bucket}/{key}", methodcaller("delete_object", key))

    # ====== Directories ======

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Do nothing: a directory comes to be with its first file, and buckets are not made."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing, as `mkdir`."""

    def rmdir(self, path: str) -> None:
        """Remove the object `…/` of an empty directory.

        Raises FileNotFoundError, and OSError (ENOTEMPTY) where something is in it.
        """
        path = self._strip_protocol(path)
        marker = f"{path}/"
        self.place(path)
        below = self.find(path)
        if below == [marker]:
            self.rm_file(marker)
        elif below and below != [path]:
            raise OSError(errno.ENOTEMPTY, f"{path}: the directory is not empty")
        elif below:
            raise NotADirectoryError(errno.ENOTDIR, f"{path}: is a file")
        else:
            raise FileNotFoundError(errno.ENOENT, f"{path}: there is no such directory")


def _delete(bucket: Any, keys: list[str]) -> None:
    left = sorted(set(keys).difference(bucket.batch_delete_objects(keys).deleted_keys))
    if left:
        names = ", ".join(f"`{key}`" for key in left[:_NAMED])
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        raise OSError(errno.EIO, f"{bucket.bucket_name}: not deleted: {names}{more}")


class _TextWriter(io.TextIOWrapper):
    """Text that is written to an OSSFile; an error inside `with` leaves the object as it was."""

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is not None:
            self.buffer.discard()  # type: ignore[attr-defined]
        self.close()
