"""The bytes of files on any other fsspec filesystem: see `objects`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pai_runner.storage.filesystems import modified_ns, turn_of
from pai_runner.storage.objects import Bytes, Described, Part, PartUpload

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem


class PlainObjects:
    """`Objects` of a filesystem that has neither parts nor ETags.

    Repeating is its own matter, and nothing tells it when an object is replaced while it is read,
    but its size.
    """

    has_parts = False

    def __init__(self, fs: AbstractFileSystem) -> None:
        self._fs = fs
        self._turn = turn_of(fs)
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True

    def prepare(self, path: str) -> None:
        """Do nothing: the filesystem is there."""

    def read_into(
        self, path: str, start: int, into: memoryview, etag: str | None = None
    ) -> tuple[int, Described]:
        described = self.describe(path)
        end = min(start + len(into), described.size)
        if end <= start:
            return 0, described
        data: bytes = self._call("cat_file", path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(errno.ESTALE, f"{path}: it was changed meanwhile")
        into[: len(data)] = data
        return len(data), described

    def describe(self, path: str) -> Described:
        return _described(self._call("info", path))

    def has_below(self, path: str) -> bool:
        return bool(self._call("isdir", path) and self._call("ls", path, detail=False))

    def put(self, path: str, data: Bytes) -> str:
        self._make_parent(path)
        self._call("pipe_file", path, bytes(data))
        return ""

    def put_file(self, path: str, local: str) -> str:
        """Write a local file, whatever its size; return no ETag. Raises OSError."""
        self._make_parent(path)
        self._call("put_file", local, path)
        return ""

    def upload(self, path: str) -> PartUpload:
        raise NotImplementedError(f"{path}: this filesystem has no uploads in parts")

    def resume(self, path: str, id: str, parts: Mapping[int, Part]) -> PartUpload:
        return self.upload(path)

    def _make_parent(self, path: str) -> None:
        self._call("makedirs", self._fs._parent(path), exist_ok=True)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        with self._turn:
            answer = getattr(self._fs, method)(*arguments, **options)
        if self._is_closed:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the process is ending")
        return answer


def _described(info: Mapping[str, Any]) -> Described:
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, f"{info['name']}: is a directory")
    return Described(int(info.get("size") or 0), "", modified_ns(info))
