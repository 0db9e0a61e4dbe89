"""What the benchmarks' object server does with requests: enough of S3 and of OSS for all clients.

Objects are kept in memory, as the pieces in which they came, so that nothing is copied when an
upload is completed. A request is OSS's when it carries that dialect's headers, else S3's; both see
the same buckets. ETags are fresh numbers, not MD5s: the server shares the machine with the clients
that it measures, and a store may do so (S3's with KMS are none). Signatures are not checked.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import re
import threading
import time
import uuid
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from object_forms import (
    Answer,
    Object,
    Piece,
    Refused,
    Request,
    copied,
    described,
    iso,
    listed,
    tag,
    xml,
)

from pai_runner.storage.checksums import crc32c, md5_base64

# What is verified of a body, by the last part of the header x-amz-checksum-NAME.
_CHECKSUMS: dict[str, Callable[[memoryview], bytes]] = {
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "crc32c": lambda body: crc32c(body).to_bytes(4, "big"),
    "sha1": lambda body: hashlib.sha1(body).digest(),
    "sha256": lambda body: hashlib.sha256(body).digest(),
}


@dataclass
class Upload:
    """A multipart upload that is under way."""

    bucket: str
    key: str
    told: Mapping[str, str]
    parts: dict[int, Object] = field(default_factory=dict)


class Service:
    """The buckets and the multipart uploads of one server. Safe among threads."""

    def __init__(self) -> None:
        self._buckets: dict[str, dict[str, Object]] = {}
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request, refusals included."""
        try:
            for method, name, operation in _OBJECT if request.key else _BUCKET:
                if method == request.method and (not name or name in request.query):
                    return operation(self, request)
            raise Refused(405, "MethodNotAllowed")
        except Refused as refusal:
            inside = tag("Code", refusal.code) + tag("Message", str(refusal))
            inside += tag("BucketName", request.bucket) + tag("RequestId", uuid.uuid4().hex)
            answer = xml("Error", inside)
            return Answer(refusal.status, answer.headers, answer.body)

    def find(self, bucket: str, key: str) -> Object:
        """Return an object. Raises Refused."""
        found = self._bucket(bucket).get(key)
        if found is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return found

    def _bucket(self, name: str) -> dict[str, Object]:
        bucket = self._buckets.get(name)
        if bucket is None:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        return bucket

    def objects(self, bucket: str, prefix: str) -> dict[str, Object]:
        """Return the objects whose keys begin with `prefix`, by their keys. Raises Refused."""
        with self._lock:
            found = self._bucket(bucket)
            return {key: one for key, one in found.items() if key.startswith(prefix)}

    def remove(self, bucket: str, keys: Iterable[str]) -> None:
        """Remove objects, where they are there. Raises Refused."""
        with self._lock:
            found = self._bucket(bucket)
            for key in keys:
                found.pop(key, None)

    # ====== Buckets ======

    def make_bucket(self, request: Request) -> Answer:
        self._buckets.setdefault(request.bucket, {})
        return Answer(200)

    def head_bucket(self, request: Request) -> Answer:
        self._bucket(request.bucket)
        return Answer(200)

    def list_objects(self, request: Request) -> Answer:
        """Answer ListObjectsV2."""
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
        limit = int(query.get("max-keys") or (100 if request.is_oss else 1000))
        encode = quote if query.get("encoding-type") == "url" else str
        found, last, more = self._page(request.bucket, prefix, delimiter, after, limit)
        inside = [tag("Name", request.bucket), tag("Prefix", encode(prefix))]
        inside += [tag("MaxKeys", str(limit)), tag("KeyCount", str(len(found)))]
        inside += [tag("EncodingType", "url")] if encode is quote else []
        inside.append(tag("IsTruncated", str(more).lower()))
        inside += [tag("NextContinuationToken", quote(last))] if more else []
        inside += [listed(encode(name), one) for name, one in found]
        return xml("ListBucketResult", *inside)

    def _page(
        self, bucket: str, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[list[tuple[str, Object | None]], str, bool]:
        """Return names and objects (None: a common prefix), the last name, and if more follow."""
        objects = self.objects(bucket, prefix)
        names = sorted(objects)
        found: list[tuple[str, Object | None]] = []
        last = after
        for name in names[bisect.bisect_right(names, after) :]:
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            shown = prefix + head + cut if cut else name
            if cut and last.startswith(shown):
                continue
            if len(found) == limit:
                return found, last, True
            found.append((shown, None if cut else objects[name]))
            last = shown
        return found, last, False

    def delete_many(self, request: Request) -> Answer:
        _check_digests(request)
        encode = quote if request.query.get("encoding-type") == "url" else str
        found = ElementTree.fromstring(bytes(request.body)).iterfind("{*}Object/{*}Key")
        names = [one.text or "" for one in found]
        self.remove(request.bucket, names)
        deleted = [f"<Deleted>{tag('Key', encode(name))}</Deleted>" for name in names]
        return xml("DeleteResult", *deleted)

    def list_uploads(self, request: Request) -> Answer:
        prefix = request.query.get("prefix", "")
        uploads = [
            f"<Upload>{tag('Key', one.key)}{tag('UploadId', number)}"
            f"{tag('Initiated', iso(0))}</Upload>"
            for number, one in list(self._uploads.items())
            if one.bucket == request.bucket and one.key.startswith(prefix)
        ]
        more = "<IsTruncated>false</IsTruncated><NextKeyMarker/><NextUploadIdMarker/>"
        return xml("ListMultipartUploadsResult", more, *uploads)

    # ====== Objects ======

    def put(self, request: Request) -> Answer:
        if request.header("copy-source"):
            source = self._source(request)
            made = self._keep(request, source.pieces, source.told)
            return copied("CopyObjectResult", made)
        _check_digests(request)
        made = self._keep(request, (Piece(request.body),), _told(request))
        return Answer(200, {**described(request, made), **_checksums(request)})

    def get(self, request: Request) -> Answer:
        found = self.find(request.bucket, request.key)
        _check_conditions(request, found)
        span = _range(request, found.size)
        start, end = span or (0, found.size)
        told = {**described(request, found), "Accept-Ranges": "bytes"}
        told["Last-Modified"] = time.strftime(_HTTP_DATE, time.gmtime(found.modified))
        # Checksums are of the whole object, and told to those who ask.
        with_checksums = not span and request.header("checksum-mode") == "ENABLED"
        for name, value in found.told.items():
            if with_checksums or not name.startswith("x-amz-checksum-"):
                told[name] = value
        if span:
            told["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        body = [] if request.method == "HEAD" else found.between(start, end)
        return Answer(206 if span else 200, told, body, end - start)

    def delete(self, request: Request) -> Answer:
        self.remove(request.bucket, [request.key])
        return Answer(204)

    def _source(self, request: Request) -> Object:
        """Return what a copy is made of; of a part's copy, its range."""
        bucket, _, key = unquote(request.header("copy-source")).lstrip("/").partition("/")
        found = self.find(bucket, key)
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", request.header("copy-source-range")):
            pieces = found.between(int(span[1]), int(span[2]) + 1)
            return Object(tuple(map(Piece, pieces)), found.etag)
        return found

    def _keep(
        self,
        request: Request,
        pieces: tuple[Piece, ...],
        told: Mapping[str, str],
        parts: int = 0,
    ) -> Object:
        """Publish an object, if the conditions of the request hold."""
        made = Object(pieces, f"{uuid.uuid4().hex.upper()}-{parts}", told)
        with self._lock:
            bucket = self._bucket(request.bucket)
            before = bucket.get(request.key)
            if before and request.headers.get("x-oss-forbid-overwrite") == "true":
                raise Refused(409, "FileAlreadyExists", "The object exists.")
            if before and request.headers.get("if-none-match") == "*":
                raise Refused(412, "PreconditionFailed", "The object exists.")
            wanted = request.headers.get("if-match")
            if wanted and (before is None or before.etag != wanted.strip('"')):
                raise Refused(412, "PreconditionFailed", "The object is another one.")
            bucket[request.key] = made
        return made

    # ====== Multipart uploads ======

    def begin_upload(self, request: Request) -> Answer:
        self._bucket(request.bucket)
        number = uuid.uuid4().hex.upper()
        self._uploads[number] = Upload(request.bucket, request.key, _told(request))
        names = ("x-amz-checksum-algorithm", "x-amz-checksum-type")
        echoed = {name: request.headers[name] for name in names if name in request.headers}
        answer = xml(
            "InitiateMultipartUploadResult",
            tag("Bucket", request.bucket) + tag("Key", request.key) + tag("UploadId", number),
        )
        return Answer(200, {**answer.headers, **echoed}, answer.body)

    def put_part(self, request: Request) -> Answer:
        upload, number = self._upload(request), int(request.query["partNumber"])
        etag = uuid.uuid4().hex.upper()
        if request.header("copy-source"):
            made = upload.parts[number] = Object(self._source(request).pieces, etag)
            return copied("CopyPartResult", made)
        _check_digests(request)
        made = upload.parts[number] = Object((Piece(request.body),), etag)
        return Answer(200, {**described(request, made), **_checksums(request)})

    def complete_upload(self, request: Request) -> Answer:
        upload = self._upload(request)
        chosen = []
        for listed_part in ElementTree.fromstring(bytes(request.body)).iterfind("{*}Part"):
            part = upload.parts.get(int(listed_part.findtext("{*}PartNumber") or 0))
            if part is None or part.etag != (listed_part.findtext("{*}ETag") or "").strip('"'):
                raise Refused(400, "InvalidPart", "A part could not be found.")
            chosen.append(part)
        pieces = tuple(piece for one in chosen for piece in one.pieces)
        made = self._keep(request, pieces, upload.told, len(chosen))
        self._uploads.pop(request.query["uploadId"], None)
        answer = xml(
            "CompleteMultipartUploadResult",
            tag("Bucket", request.bucket) + tag("Key", request.key),
            tag("ETag", f'"{made.etag}"'),
        )
        return Answer(200, {**described(request, made), **answer.headers}, answer.body)

    def abort_upload(self, request: Request) -> Answer:
        self._upload(request)
        self._uploads.pop(request.query["uploadId"], None)
        return Answer(204)

    def list_parts(self, request: Request) -> Answer:
        parts = [
            f"<Part>{tag('PartNumber', str(number))}{tag('LastModified', iso(one.modified))}"
            f"{tag('ETag', one.etag)}{tag('Size', str(one.size))}</Part>"
            for number, one in sorted(self._upload(request).parts.items())
        ]
        more = "<IsTruncated>false</IsTruncated><NextPartNumberMarker/>"
        return xml("ListPartsResult", more, *parts)

    def _upload(self, request: Request) -> Upload:
        upload = self._uploads.get(request.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (request.bucket, request.key):
            raise Refused(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload


_Operation = Callable[[Service, Request], Answer]

# By method and by a parameter of the query; the first that fits.
_BUCKET: tuple[tuple[str, str, _Operation], ...] = (
    ("GET", "uploads", Service.list_uploads),
    ("GET", "", Service.list_objects),
    ("HEAD", "", Service.head_bucket),
    ("POST", "delete", Service.delete_many),
    ("PUT", "", Service.make_bucket),
)
_OBJECT: tuple[tuple[str, str, _Operation], ...] = (
    ("GET", "uploadId", Service.list_parts),
    ("GET", "", Service.get),
    ("HEAD", "", Service.get),
    ("PUT", "uploadId", Service.put_part),
    ("PUT", "", Service.put),
    ("POST", "uploads", Service.begin_upload),
    ("POST", "uploadId", Service.complete_upload),
    ("DELETE", "uploadId", Service.abort_upload),
    ("DELETE", "", Service.delete),
)


# ====== Rules ======

_HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"


def _check_conditions(request: Request, found: Object) -> None:
    """Refuse to read an object that is not the one that is asked for. Raises Refused."""
    if request.headers.get("if-match", "*").strip('"') not in ("*", found.etag):
        raise Refused(412, "PreconditionFailed", "The object is another one.")
    if request.headers.get("if-none-match", "").strip('"') == found.etag:
        raise Refused(304, "NotModified")


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """Return where the range that is asked for starts and ends, or None for the whole object.

    S3 cuts a range at the object's end and refuses one behind it. So does OSS where
    `x-oss-range-behavior: standard` is sent; else it ignores the range.
    """
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if asked is None or asked[1] == asked[2] == "":
        return None
    if asked[1]:
        start, end = int(asked[1]), int(asked[2] or size - 1) + 1
    else:
        start, end = size - int(asked[2]), size
    is_standard = not request.is_oss or request.headers.get("x-oss-range-behavior") == "standard"
    if not is_standard and not 0 <= start < end <= size:
        return None
    if start >= size:
        raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
    return max(start, 0), min(end, size)


def _check_digests(request: Request) -> None:
    """Refuse a body that is not what the checksums in the headers say. Raises Refused."""
    wanted = request.headers.get("content-md5")
    if wanted and wanted != md5_base64(request.body):
        code = "InvalidDigest" if request.is_oss else "BadDigest"
        raise Refused(400, code, "The Content-MD5 is another one.")
    for name, checksum in _CHECKSUMS.items():
        wanted = request.headers.get(f"x-amz-checksum-{name}")
        if wanted and wanted != base64.b64encode(checksum(request.body)).decode():
            raise Refused(400, "BadDigest", f"The {name.upper()} is another one.")


def _checksums(request: Request) -> dict[str, str]:
    """Return the headers with checksums that were verified."""
    names = {f"x-amz-checksum-{name}" for name in _CHECKSUMS}
    return {name: value for name, value in request.headers.items() if name in names}


def _told(request: Request) -> dict[str, str]:
    """Return the headers that stay with an object."""
    kept = ("content-type", "x-amz-meta-", "x-oss-meta-")
    told = {name: value for name, value in request.headers.items() if name.startswith(kept)}
    return {**told, **_checksums(request)}
