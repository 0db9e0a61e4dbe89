"""What OSS's double keeps: moto's buckets and objects, and uploads in parts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import crcmod
from moto.s3.models import FakeKey, s3_backends

crc64 = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, rev=True, xorOut=0xFFFFFFFFFFFFFFFF)


class Refused(Exception):
    """An answer in the form of OSS's errors."""

    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code
        self.headers = headers


@dataclass
class Upload:
    """An upload in parts that is under way."""

    bucket: str
    key: str
    headers: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class Store:
    """The buckets of one account, kept by moto, and the uploads in parts that are under way."""

    def __init__(self) -> None:
        self._backend = s3_backends["123456789012"]["aws"]
        self._lock = threading.RLock()
        self.uploads: dict[str, Upload] = {}

    def make_bucket(self, name: str) -> None:
        with self._lock:
            self._backend.create_bucket(name, "us-east-1")

    def buckets(self) -> list[str]:
        return sorted(self._backend.buckets)

    def remove_bucket(self, name: str) -> None:
        with self._lock:
            self._bucket(name)
            if self._backend.delete_bucket(name) is None:
                raise Refused(409, "BucketNotEmpty")

    def get(self, bucket: str, key: str) -> FakeKey:
        found = self._bucket(bucket).keys.get(key)
        if found is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def find(self, bucket: str, key: str) -> FakeKey | None:
        found: FakeKey | None = self._bucket(bucket).keys.get(key)
        return found

    def put(
        self,
        bucket: str,
        key: str,
        content: bytes,
        headers: Mapping[str, str],
        kind: str = "Normal",
        etag: str | None = None,
    ) -> FakeKey:
        """Put an object; raises Refused where it exists and must not be replaced."""
        with self._lock:
            self._bucket(bucket)
            if headers.get("x-oss-forbid-overwrite") == "true" and self.find(bucket, key):
                raise Refused(409, "FileAlreadyExists", "The object you specified already exists.")
            made = self._backend.put_object(bucket, key, content, etag=etag)
            kept = {name: value for name, value in headers.items() if is_kept(name)}
            made.set_metadata(
                {
                    "content-type": "application/octet-stream",
                    **kept,
                    "x-oss-object-type": kind,
                    "x-oss-hash-crc64ecma": str(crc64(content)),
                }
            )
            return made

    def append(self, bucket: str, key: str, position: int, content: bytes) -> FakeKey:
        with self._lock:
            before = self.find(bucket, key)
            if before and before.metadata["x-oss-object-type"] != "Appendable":
                raise Refused(409, "ObjectNotAppendable", "The object is not appendable")
            held = before.value if before else b""
            if len(held) != position:
                raise Refused(
                    409,
                    "PositionNotEqualToLength",
                    "Position is not equal to file length",
                    **{"x-oss-next-append-position": str(len(held))},
                )
            return self.put(bucket, key, held + content, {}, "Appendable")

    def remove(self, bucket: str, key: str) -> None:
        with self._lock:
            self._bucket(bucket)
            self._backend.delete_object(bucket, key)

    def page(
        self, bucket: str, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[list[FakeKey | str], bool]:
        """Return up to `limit` objects and common prefixes behind `after`, and if more follow."""
        with self._lock:
            found, more, _ = self._backend.list_objects_v2(
                self._bucket(bucket), prefix, delimiter or None, None, after or None, limit
            )
            return list(found), more

    def _bucket(self, name: str) -> Any:
        bucket = self._backend.buckets.get(name)
        if bucket is None:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        return bucket


def is_kept(name: str) -> bool:
    return name == "content-type" or name.startswith("x-oss-meta-")
