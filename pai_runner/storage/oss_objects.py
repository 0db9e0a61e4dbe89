"""The bytes of objects on OSS: see `objects`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import oss2

from pai_runner.storage.bodies import Body, fill
from pai_runner.storage.objects import Bytes, Described, Part
from pai_runner.storage.oss_upload import Parts, Place


class OSSObjects:
    """`Objects` of an OSSFileSystem, which tells by `place` what a path means."""

    has_parts = True

    def __init__(self, place: Callable[[str], Place], has_below: Callable[[str], bool]) -> None:
        self._place = place
        self._has_below = has_below
        self._clients: set[Any] = set()
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True
        for client in list(self._clients):
            client.closing.set()

    def prepare(self, path: str) -> None:
        """Do nothing: a first request takes no longer than others."""

    def read_into(
        self, path: str, start: int, into: memoryview, etag: str | None = None
    ) -> tuple[int, Described]:
        place = self._at(path)
        if not len(into):
            return 0, self.describe(path)
        open_range = partial(_open_range, place)
        client = place.client
        return fill(place.path, open_range, start, into, etag, client.dialect, client.closing)

    def describe(self, path: str) -> Described:
        place = self._at(path)
        return _described(place.call(lambda bucket: bucket.head_object(place.key)))

    def has_below(self, path: str) -> bool:
        return self._has_below(path)

    def put(self, path: str, data: Bytes) -> str:
        return self._at(path).put(data)

    def upload(self, path: str) -> Parts:
        return Parts.begin(self._at(path))

    def resume(self, path: str, id: str, parts: Mapping[int, Part]) -> Parts:
        return Parts(self._at(path), id, parts)

    def _at(self, path: str) -> Place:
        place = self._place(path)
        self._clients.add(place.client)
        if self._is_closed:
            place.client.closing.set()
        return place


def _described(head: Any) -> Described:
    return Described(head.content_length, head.etag, _modified_ns(head))


def _modified_ns(answer: Any) -> int:
    return int(answer.last_modified or 0) * 10**9


def _open_range(place: Place, start: int, count: int, etag: str | None) -> Body:
    headers = {"x-oss-range-behavior": "standard"}
    if etag:
        headers["If-Match"] = f'"{etag}"'
    span = (start, start + count - 1)

    def opened(bucket: Any) -> Body:
        try:
            result = bucket.get_object(place.key, byte_range=span, headers=headers)
        except oss2.exceptions.ServerError as error:
            if error.status != 416:
                raise
            # It begins at the object's end, or behind it.
            return Body(None, _described(bucket.head_object(place.key)))
        return Body.of(result.resp.response.raw, start, result.etag, _modified_ns(result))

    return place.client.once(place.bucket, opened)
