"""What the benchmarks' object server takes and gives: requests, answers, objects, and their XML."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from xml.sax.saxutils import escape

from pai_runner.storage.checksums import crc64, crc64_combined


class Refused(Exception):
    """An answer in the form of the stores' errors."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Request:
    """`headers` have lower-case names; `key` is empty for a bucket."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: memoryview

    @property
    def is_oss(self) -> bool:
        signed = self.headers.get("authorization", "").startswith("OSS")
        return signed or any(name.startswith("x-oss-") for name in self.headers)

    def header(self, name: str) -> str:
        """Return the header that is `x-amz-NAME` or `x-oss-NAME`, or nothing."""
        return self.headers.get(f"x-oss-{name}") or self.headers.get(f"x-amz-{name}", "")


@dataclass(frozen=True)
class Answer:
    """`length` is the Content-Length of an answer to HEAD, whose body is not sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: list[memoryview] = field(default_factory=list)
    length: int | None = None


class Piece:
    """Bytes as they came, or a part of them; their checksum is kept once it was asked for."""

    def __init__(self, view: memoryview) -> None:
        self.view = view

    @cached_property
    def crc64(self) -> int:
        return crc64(self.view)


@dataclass(frozen=True)
class Object:
    """An object or a part. `told` are the headers that its writer gave it."""

    pieces: tuple[Piece, ...]
    etag: str
    told: Mapping[str, str] = field(default_factory=dict)
    modified: float = field(default_factory=time.time)

    @cached_property
    def size(self) -> int:
        return sum(len(piece.view) for piece in self.pieces)

    @cached_property
    def crc64(self) -> int:
        """CRC-64/XZ, which OSS calls CRC64-ECMA."""
        whole = 0
        for piece in self.pieces:
            whole = crc64_combined(whole, piece.crc64, len(piece.view))
        return whole

    def between(self, start: int, end: int) -> list[memoryview]:
        """Return the bytes from `start` up to `end` as views."""
        found = []
        for piece in self.pieces:
            size = len(piece.view)
            if start < size and end > 0:
                found.append(piece.view[max(start, 0) : end])
            start, end = start - size, end - size
        return found


# ====== Forms ======


def tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def xml(root: str, *inside: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{"".join(inside)}</{root}>'
    return Answer(200, {"Content-Type": "application/xml"}, [memoryview(text.encode())])


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def listed(name: str, one: Object | None) -> str:
    if one is None:
        return f"<CommonPrefixes>{tag('Prefix', name)}</CommonPrefixes>"
    inside = tag("Key", name) + tag("LastModified", iso(one.modified))
    inside += tag("ETag", f'"{one.etag}"') + tag("Type", "Normal")
    inside += tag("Size", str(one.size)) + tag("StorageClass", "STANDARD")
    return f"<Contents>{inside}</Contents>"


def described(request: Request, made: Object) -> dict[str, str]:
    """Return the headers that tell of an object in every answer."""
    told = {"ETag": f'"{made.etag}"'}
    if request.is_oss:
        told |= {"x-oss-hash-crc64ecma": str(made.crc64), "x-oss-object-type": "Normal"}
    return told


def copied(root: str, made: Object) -> Answer:
    return xml(root, tag("LastModified", iso(made.modified)), tag("ETag", f'"{made.etag}"'))
