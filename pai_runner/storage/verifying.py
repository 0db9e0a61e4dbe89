"""Whether a copy is what its source was: the checksums that stores keep of their objects.

S3's ETag is the MD5 of an object that was written whole, and for one that was written in parts the
MD5 of the MD5s of its parts, with their number behind it (docs.aws.amazon.com/AmazonS3/latest/
userguide/checking-object-integrity.html). OSS keeps a CRC-64 of every object, and its ETag is an
MD5 where the object was written by one PUT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pai_runner.storage.checksums import crc64

MD5 = "MD5"
CRC64 = "CRC64"
PARTS = "MD5 of parts"
# Where a store keeps no checksum: all bytes came, and of one version of the object.
ETAG = "size and ETag"
SIZE = "size"

_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_OF_PARTS = re.compile(r"[0-9a-fA-F]{32}-([1-9]\d*)")


@dataclass(frozen=True)
class Checksum:
    """What a store says of an object's content: by which method, and its value.

    `part` is how many bytes a part has, for PARTS.
    """

    method: str
    value: str
    part: int = 0


def md5_of(etag: str) -> Checksum | None:
    """Return the checksum that an ETag is, where it has the form of an MD5."""
    return Checksum(MD5, etag.lower()) if _MD5.fullmatch(etag) else None


def parts_of(etag: str) -> int:
    """Return of how many parts an ETag tells, or 0."""
    found = _OF_PARTS.fullmatch(etag)
    return int(found[1]) if found else 0


class Digest:
    """Calculates a checksum of bytes that come in order."""

    def __init__(self, checksum: Checksum) -> None:
        self.checksum = checksum
        self._crc = 0
        self._whole = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)
        self._left = checksum.part
        self._parts = 0

    def add(self, data: memoryview) -> None:
        if self.checksum.method == CRC64:
            self._crc = crc64(data, self._crc)
        elif self.checksum.method == MD5:
            self._whole.update(data)
        else:
            self._add_to_parts(data)

    def _add_to_parts(self, data: memoryview) -> None:
        while len(data):
            self._part.update(data[: self._left])
            taken = min(self._left, len(data))
            data = data[taken:]
            self._left -= taken
            if not self._left:
                self._end_part()

    def _end_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part = hashlib.md5(usedforsecurity=False)
        self._left = self.checksum.part
        self._parts += 1

    def matches(self) -> bool:
        """Tell whether what came has the checksum. Nothing may come after."""
        return self._value() == self.checksum.value.lower()

    def _value(self) -> str:
        if self.checksum.method == CRC64:
            return str(self._crc)
        if self.checksum.method == PARTS:
            if self._left < self.checksum.part:
                self._end_part()
            return f"{self._whole.hexdigest()}-{self._parts}"
        return self._whole.hexdigest()


def has(checksum: Checksum | None, feed: Callable[[Digest], Any]) -> bool:
    """Tell whether the bytes that `feed` adds to a digest have a checksum; False without one."""
    if checksum is None:
        return False
    digest = Digest(checksum)
    feed(digest)
    return digest.matches()
