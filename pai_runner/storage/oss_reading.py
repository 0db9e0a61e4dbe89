"""What there is on OSS, and reading it: the half of the oss:// filesystem that changes nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import wait
from datetime import datetime, timezone
from functools import partial
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import isfilelike

from pai_runner.storage.checksums import crc64, crc64_of_parts
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.oss_access import OSSAccess
from pai_runner.storage.oss_client import body_of, check_crc
from pai_runner.storage.oss_upload import BLOCK, Place

_PAGE = 1000

Info = dict[str, Any]


class ReadableOSS(OSSAccess):
    """What `OSSFileSystem` can do without changing anything."""

    # ====== What is there ======

    def info(self, path: str, **options: Any) -> Info:
        """Return name, size in bytes, type, and of a file ETag, LastModified and ContentType.

        Raises FileNotFoundError.
        """
        path = self._strip_protocol(path)
        bucket, key = self.split_path(path)
        if not bucket:
            return _directory("")
        if not key:
            self.has_below(bucket)
            return _directory(bucket)
        place = self.place(path)
        try:
            head = place.client.call(bucket, path, lambda one: one.head_object(key))
        except FileNotFoundError:
            if self.has_below(path):
                return _directory(path)
            raise
        return {
            "name": path,
            "size": head.content_length,
            "type": "file",
            "ETag": head.etag,
            "LastModified": _time(head.last_modified),
            "ContentType": head.content_type,
            "CRC64": head.server_crc,
        }

    def exists(self, path: str, **options: Any) -> bool:
        """Tell whether there is a file or a directory; raises OSError where it cannot be told."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            found: str = self.info(path)["type"]
        except FileNotFoundError:
            return None
        return found

    def has_below(self, path: str) -> bool:
        """Tell, with one request, whether anything is below a directory.

        Raises FileNotFoundError where the bucket is missing.
        """
        bucket, key = self.split_path(self._strip_protocol(path))
        prefix = f"{key}/" if key else ""
        page = self.client(path).call(
            bucket, path, lambda one: one.list_objects_v2(prefix=prefix, max_keys=1)
        )
        return bool(page.object_list)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Return the entries of a directory, sorted; for a file, the file.

        Raises FileNotFoundError.
        """
        path = self._strip_protocol(path)
        if not path:
            entries = [_directory(one.name) for one in self.client("").buckets()]
            return entries if detail else [entry["name"] for entry in entries]
        bucket, key = self.split_path(path)
        marker = f"{key}/" if key else ""
        listed = list(self._list(path, marker, "/"))
        entries = [entry for entry in listed if entry["name"] != f"{bucket}/{marker}"]
        if not listed and key:
            entry = self.info(path)
            entries = [entry] if entry["type"] == "file" else []
        entries.sort(key=lambda entry: str(entry["name"]))
        return entries if detail else [entry["name"] for entry in entries]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        """Return the files below a directory, objects named `…/` included; a file gives itself.

        `withdirs` adds the directories, the one at `path` included. The result is a list of
        names or, with `detail`, a dict from name to info.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        if not path:
            raise ValueError("all buckets cannot be searched; name one")
        _, key = self.split_path(path)
        try:
            found = {entry["name"]: entry for entry in self._list(path, f"{key}/" if key else "")}
        except FileNotFoundError:
            return {} if detail else []
        names = _directories(found, path) if withdirs else set()
        if not found and self._type(path) == "file":
            found = {path: self.info(path)}
        directories = {name: _directory(name) for name in names if name not in found}
        found = {
            name: entry
            for name, entry in sorted({**found, **directories}.items())
            if maxdepth is None or name[len(path) + 1 :].rstrip("/").count("/") < maxdepth
        }
        return found if detail else list(found)

    def _list(self, path: str, prefix: str, delimiter: str = "") -> Iterator[Info]:
        """Yield what has a prefix, page by page: objects and, with a delimiter, directories."""
        bucket, _ = self.split_path(path)
        client = self.client(path)
        token = ""
        while True:
            listing = partial(_page, prefix=prefix, delimiter=delimiter, continuation_token=token)
            page = client.call(bucket, path, listing)
            yield from (_directory(f"{bucket}/{name}"[:-1]) for name in page.prefix_list)
            for one in page.object_list:
                yield {
                    "name": f"{bucket}/{one.key}",
                    "size": one.size,
                    "type": "file",
                    "ETag": one.etag,
                    "LastModified": _time(one.last_modified),
                }
            if not page.is_truncated:
                return
            token = page.next_continuation_token

    def created(self, path: str) -> datetime:
        raise NotImplementedError("OSS keeps no time of creation")

    def modified(self, path: str) -> datetime:
        """Return when a file was last written, in UTC. Raises IsADirectoryError."""
        found: datetime = self._file(path)["LastModified"]
        return found

    def ukey(self, path: str) -> str:
        """Return the ETag of a file: another one for another content."""
        return str(self._file(path)["ETag"])

    def checksum(self, path: str) -> int:
        """Return a number that changes with the content of a file."""
        return int(hashlib.sha256(self.ukey(path).encode()).hexdigest(), 16)

    def _file(self, path: str) -> Info:
        found = self.info(path)
        if found["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, f"{path}: is a directory")
        return found

    def sign(self, path: str, expiration: int = 100, **options: Any) -> str:
        """Return a URL that reads the file for `expiration` seconds, without credentials."""
        place = self.place(path)
        return place.client.signed_url(place.bucket, place.key, expiration)

    # ====== Reading ======

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        """Return a file's bytes from `start` to before `end`; negative ones count from its end.

        Raises FileNotFoundError.
        """
        if not start and end is None:
            return self._read_whole(self.place(path))
        if (start or 0) < 0 or (end or 0) < 0:
            found = self._file(path)
            start, end, _ = slice(start, end).indices(found["size"])
            return self.read_range(path, start, end, found["ETag"])
        if end is not None and end <= (start or 0):
            self._file(path)
            return b""
        return self.read_range(path, start or 0, end)

    def read_range(self, path: str, start: int, end: int | None, etag: str | None = None) -> bytes:
        """Return the bytes from `start` to before `end`, fewer where the file is shorter.

        With `etag` the file must be the one that has it, else OSError (ESTALE).
        """
        if end is not None and end <= start:
            return b""
        place = self.place(path)
        headers = {"x-oss-range-behavior": "standard"}
        if etag is not None:
            headers["If-Match"] = f'"{etag}"'
        span = (start, None if end is None else end - 1)

        def read(bucket: Any) -> bytes:
            result = bucket.get_object(place.key, byte_range=span, headers=headers)
            data = body_of(result)
            # A server that knows no ranges sends the whole.
            return data if result.status == 206 else data[start:end]

        try:
            return place.client.call(place.bucket, place.path, read)
        except RefusedError as error:
            if error.code == "InvalidRange":  # it begins at the file's end, or behind it
                return b""
            raise

    def _read_whole(self, place: Place) -> bytes:
        def read(bucket: Any) -> bytes:
            result = bucket.get_object(place.key)
            data = body_of(result)
            check_crc(result.server_crc, crc64(data))
            return data

        return place.client.call(place.bucket, place.path, read)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[Any]:
        """Return the ranges of the files, read several at once.

        With `on_error="return"` what a range raised stands in its place.
        """
        if max_gap is not None:
            raise NotImplementedError("max_gap")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends are not equally many")
        reads = [
            self.client(path).submit(self.cat_file, path, start, end)
            for path, start, end in zip(paths, starts, ends, strict=True)
        ]
        wait(reads)
        if on_error == "return":
            return [read.exception() or read.result() for read in reads]
        return [read.result() for read in reads]

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **options: Any,
    ) -> None:
        """Copy a file to the local disk, where it appears whole; a directory is made.

        `lpath` or `outfile` may be an open file. Raises OSError.
        """
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        if outfile is not None:
            with self.open(rpath, "rb") as stream:
                callback.set_size(stream.size)
                shutil.copyfileobj(stream, outfile, BLOCK)
            return
        try:
            found = self.info(rpath)
            is_directory = found["type"] == "directory" or rpath.endswith("/")
        except FileNotFoundError:
            if not rpath.endswith("/"):
                raise
            is_directory = True
        if is_directory:
            os.makedirs(lpath, exist_ok=True)
            return
        folder = os.path.dirname(os.path.abspath(lpath))
        os.makedirs(folder, exist_ok=True)
        callback.set_size(found["size"])
        # Not the file's name with an ending: that may be as long as a name can be.
        part = os.path.join(folder, f".{secrets.token_hex(8)}.part")
        try:
            self._download(self.place(rpath), found, part, callback)
            os.replace(part, lpath)
        except BaseException:
            if os.path.exists(part):
                os.remove(part)
            raise

    def _download(self, place: Place, found: Info, part: str, callback: Any) -> None:
        """Write a file to the new local file `part`, blocks of it at once, and check its CRC64."""
        size: int = found["size"]

        def fetch(descriptor: int, start: int) -> tuple[int, int]:
            end = min(start + BLOCK, size)
            data = self.read_range(place.path, start, end, found["ETag"])
            if len(data) != end - start:
                raise OSError(errno.EIO, f"{place.path}: a read ended early")
            os.pwrite(descriptor, data, start)
            return crc64(data), len(data)

        with open(part, "xb") as stream:
            blocks = [
                place.client.submit(fetch, stream.fileno(), start)
                for start in range(0, size, BLOCK)
            ]
            checksums = []
            try:
                for block in blocks:
                    checksums.append(block.result())
                    callback.relative_update(checksums[-1][1])
            finally:
                for block in blocks:
                    block.cancel()
                wait(blocks)  # none may write to a descriptor that is closed
        if found["CRC64"] not in (None, crc64_of_parts(checksums)):
            raise OSError(errno.EIO, f"{place.path}: damaged on its way: another CRC64")


def _page(bucket: Any, **options: str) -> Any:
    return bucket.list_objects_v2(max_keys=_PAGE, **options)


def _directory(name: str) -> Info:
    return {"name": name, "size": 0, "type": "directory"}


def _directories(names: Iterable[str], top: str) -> set[str]:
    """Return the directories that hold `names`, from `top` down."""
    found: set[str] = set()
    for name in names:
        above = name.rpartition("/")[0]
        while len(above) >= len(top) and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
