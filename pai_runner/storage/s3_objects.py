"""The bytes of objects on S3: see `objects`."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import unescape
from typing import Any, TypeVar

from pai_runner.errors import SetupError
from pai_runner.storage.attempts import SLOW_SECONDS
from pai_runner.storage.bodies import DamagedError, fill, repeated
from pai_runner.storage.checksums import crc32c, has_crc32c, md5_base64
from pai_runner.storage.failures import RefusedError, describe_error
from pai_runner.storage.objects import Bytes, Described, Part, memory_of
from pai_runner.storage.s3_requests import (
    Refusal,
    Requests,
    described,
    etag_of,
    refusal_in,
)

_T = TypeVar("_T")

_CRC32C = "x-amz-checksum-crc32c"
_ALGORITHM = "x-amz-checksum-algorithm"


class S3Objects:
    """`Objects` on S3 and on servers that speak as it does.

    Requests are signed; bodies carry a checksum that the server verifies: CRC32C for parts, where
    a server offers it, and Content-MD5 elsewhere.
    """

    has_parts = True

    def __init__(self, options: Mapping[str, str]) -> None:
        """`options` are those of the location, secrets in clear. Raises SetupError."""
        self._requests = Requests(options)
        self._closing = threading.Event()

    def prepare(self, path: str) -> None:
        bucket = path.partition("/")[0]
        try:
            self._requests.prepare(bucket)
        except Exception as error:
            raise SetupError(
                f"s3://{bucket}: {describe_error(error)}",
                "check the location's options and AWS's settings: profile, region, endpoint_url",
            ) from error

    def close(self) -> None:
        self._closing.set()

    def read_into(
        self, path: str, start: int, into: memoryview, etag: str | None = None
    ) -> tuple[int, Described]:
        if not len(into):
            return 0, self.describe(path)
        open_range = partial(self._requests.open_range, path)
        return fill(path, open_range, start, into, etag, self._requests.dialect, self._closing)

    def describe(self, path: str) -> Described:
        return self.call(path, lambda: described(self._requests.ask("HEAD", path, {})[0]))

    def has_below(self, path: str) -> bool:
        bucket, _, key = path.partition("/")
        query = {"list-type": "2", "prefix": f"{key}/" if key else "", "max-keys": "1"}
        _, page = self.call(path, lambda: self._requests.ask("GET", f"{bucket}/", query))
        return b"<Key>" in page

    def put(self, path: str, data: Bytes) -> str:
        body = memory_of(data)
        headers = {"Content-MD5": md5_base64(body)}
        put = partial(self._requests.ask, "PUT", path, {}, headers=headers, body=body)
        answer, _ = self.call(path, put)
        return etag_of(answer)

    def upload(self, path: str) -> S3Upload:
        return self.call(path, lambda: S3Upload.begin(self, self._requests, path))

    def resume(self, path: str, id: str, parts: Mapping[int, Part]) -> S3Upload:
        has_checksums = any(part.checksum for part in parts.values())
        return S3Upload(self, self._requests, path, id, has_checksums, parts)

    def call(self, path: str, request: Callable[[], _T]) -> _T:
        """Return what `request` returns, repeated as is right. Raises OSError."""
        return repeated(path, request, self._requests.dialect, self._closing)


class S3Upload:
    """`PartUpload` on S3."""

    def __init__(
        self,
        objects: S3Objects,
        requests: Requests,
        path: str,
        id: str,
        has_checksums: bool,
        parts: Mapping[int, Part] | None = None,
    ) -> None:
        self.id = id
        self.parts = dict(parts or {})
        self._objects = objects
        self._requests = requests
        self._path = path
        self._has_checksums = has_checksums

    @classmethod
    def begin(cls, objects: S3Objects, requests: Requests, path: str) -> S3Upload:
        """Make the request that begins an upload. Raises Refusal."""
        asked = {_ALGORITHM: "CRC32C"} if has_crc32c() else {}
        try:
            answer, body = requests.ask("POST", path, {"uploads": ""}, headers=asked)
        except Refusal as refusal:
            if not asked or refusal.status not in (400, 501):
                raise
            answer, body = requests.ask("POST", path, {"uploads": ""})
        # A server that does not offer the checksum does not repeat its name.
        return cls(objects, requests, path, _text(body, "UploadId"), _ALGORITHM in answer.headers)

    def send(self, number: int, data: Bytes) -> None:
        body = memory_of(data)
        checksum = ""
        if self._has_checksums:
            checksum = _base64(crc32c(body))
            headers = {_CRC32C: checksum}
        else:
            headers = {"Content-MD5": md5_base64(body)}
        query = {"partNumber": str(number), "uploadId": self.id}
        answer, _ = self._call("PUT", query, headers=headers, body=body)
        self.parts[number] = Part(etag_of(answer), len(body), checksum)

    def complete(self) -> str:
        parts = [(number, self.parts[number]) for number in sorted(self.parts)]
        text = "".join(_xml(number, part) for number, part in parts)
        body = memory_of(f"<CompleteMultipartUpload>{text}</CompleteMultipartUpload>".encode())

        def complete() -> str:
            answer, told = self._requests.ask(
                "POST", self._path, {"uploadId": self.id}, body=body, seconds=SLOW_SECONDS
            )
            # The status is sent before the parts are put together.
            if b"<Error>" in told:
                raise refusal_in(told, answer.status, answer.headers)
            return _text(told, "ETag").strip('"')

        try:
            return self._objects.call(self._path, complete)
        except RefusedError as error:
            if error.code != "NoSuchUpload":
                raise
            return self._made([part for _, part in parts], error)

    def _made(self, parts: Sequence[Part], error: OSError) -> str:
        """Return the ETag of the object, if an attempt whose answer was lost has made it.

        Only checksums of its parts tell it from an older object: checkpoints have the same sizes
        each time. An ETag is none where a key of KMS encrypts the object.
        """
        headers = {"x-amz-checksum-mode": "ENABLED"} if self._has_checksums else {}
        try:
            answer, _ = self._call("HEAD", {}, headers=headers)
        except FileNotFoundError:
            raise error from None
        etag = etag_of(answer)
        if etag == _etag_of(parts) or answer.headers.get(_CRC32C, "") == _crc32c_of(parts):
            return etag
        raise error

    def abort(self) -> None:
        """Give the upload up; one that is gone already is no error. Raises OSError."""
        try:
            self._call("DELETE", {"uploadId": self.id})
        except RefusedError as error:
            if error.code != "NoSuchUpload":
                raise

    def _call(self, method: str, query: Mapping[str, str], **options: Any) -> Any:
        request = partial(self._requests.ask, method, self._path, query, **options)
        return self._objects.call(self._path, request)


# Of objects made of parts: docs.aws.amazon.com/AmazonS3/latest/userguide/
# checking-object-integrity.html, "Composite".


def _etag_of(parts: Sequence[Part]) -> str | None:
    """Return the ETag of an object of these parts; None where theirs are no MD5s."""
    try:
        digests = b"".join(bytes.fromhex(part.etag) for part in parts)
    except ValueError:
        return None
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _crc32c_of(parts: Sequence[Part]) -> str | None:
    """Return the checksum of an object of these parts; None where they have none."""
    if not all(part.checksum for part in parts):
        return None
    checksums = b"".join(base64.b64decode(part.checksum) for part in parts)
    return f"{_base64(crc32c(checksums))}-{len(parts)}"


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _xml(number: int, part: Part) -> str:
    checksum = f"<ChecksumCRC32C>{part.checksum}</ChecksumCRC32C>" if part.checksum else ""
    etag = f"<ETag>&quot;{part.etag}&quot;</ETag>"
    return f"<Part><PartNumber>{number}</PartNumber>{etag}{checksum}</Part>"


def _text(xml: bytes, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), xml)
    if found is None:
        raise DamagedError(f"the answer has no {name}")
    return unescape(found[1].decode())
