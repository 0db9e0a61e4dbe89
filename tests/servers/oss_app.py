"""What Alibaba's OSS does with requests. moto keeps the buckets, the objects and their order.

The rules are those of OSS's documentation, as far as they differ from S3's: how ranges out of
bounds are answered, appendable objects, x-oss-forbid-overwrite, the limit of a copy, CRC64,
the codes of errors and the form of lists.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from moto.s3.models import FakeKey
from oss_forms import (
    Answer,
    Request,
    buckets,
    check_conditions,
    copied,
    damaged,
    etag_of,
    iso,
    listed,
    metadata_of,
    owner,
    range_of,
    same,
    tag,
    told_of,
    xml,
)
from oss_store import Refused, Store, Upload, crc64, is_kept
from sts_app import Tokens

_SHORTEST_PART = 100 * 1024


@dataclass
class Settings:
    """How the server behaves; a test changes it while the server runs.

    The next `fail` requests get 503; the next `lose` POSTs and the next `lose_puts` PUTs of whole
    objects, too, but are done. The next `truncate` bodies end half way, `corrupt_reads` and
    `corrupt_writes` have a byte changed. The key `retained` is left by deletes of many.
    `slow` is in seconds a request. `bare_heads`: refusals of HEAD say nothing but the status.
    `redirect` is a URL to which all is sent, `ignore_ranges` answers with whole objects. A copy
    of more than `copy_limit` bytes is refused.
    """

    deny_bucket_info: bool = False
    deny_list_parts: bool = False
    bare_heads: bool = False
    fail: int = 0
    lose: int = 0
    lose_puts: int = 0
    slow: float = 0.0
    truncate: int = 0
    corrupt_reads: int = 0
    corrupt_writes: int = 0
    redirect: str = ""
    retained: str = ""
    ignore_ranges: bool = False
    copy_limit: int = 1 << 30
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, name: str) -> bool:
        """Count one of the setting `name` down, and tell whether there was one."""
        with self._lock:
            left = getattr(self, name)
            setattr(self, name, max(left - 1, 0))
            return bool(left)


class Service:
    """Answers requests. `keys` are the access keys of users, `tokens` those that STS gave out."""

    def __init__(self, keys: Mapping[str, str], tokens: Tokens) -> None:
        self.keys = keys
        self.tokens = tokens
        self.settings = Settings()
        self.store = Store()

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request. Raises Refused."""
        self._check_caller(request)
        if not request.bucket:
            return xml("ListAllMyBucketsResult", owner(), buckets(self.store.buckets()))
        operations = _OBJECT if request.key else _BUCKET
        for method, name, operation in operations:
            if method == request.method and (not name or name in request.query):
                return operation(self, request)
        raise Refused(405, "MethodNotAllowed")

    def _check_caller(self, request: Request) -> None:
        claim = request.claim
        if not claim.version:
            raise Refused(403, "AccessDenied", "Anonymous access is forbidden.")
        known = claim.access_key_id
        secret = self.keys.get(known) or self.tokens.secret_of(known)
        if secret is None:
            message = "The OSS Access Key Id you provided does not exist in our records."
            raise Refused(403, "InvalidAccessKeyId", message)
        if not claim.is_signed_with(secret, request):
            raise Refused(403, "SignatureDoesNotMatch", "The signature does not match.")
        if claim.is_late(request):
            raise Refused(403, "AccessDenied", "Request has expired.")
        if known in self.keys:
            return
        state = self.tokens.state(known, claim.token)
        if state == "expired":
            raise Refused(403, "SecurityTokenExpired", "The security token has expired.")
        if state != "valid":
            raise Refused(403, "InvalidSecurityToken", "The security token is invalid.")
        self.check_bucket(request, request.bucket)

    def check_bucket(self, request: Request, bucket: str) -> None:
        """Refuse a bucket that the policy of the caller's token leaves out."""
        known = request.claim.access_key_id
        if known not in self.keys and not self.tokens.allows(known, bucket):
            raise Refused(403, "AccessDenied", "You have no right to access this bucket.")

    def received(self, content: bytes) -> bytes:
        """Return what arrives of `content`: on a bad wire, a byte is another."""
        return damaged(content) if self.settings.take("corrupt_writes") else content

    # ====== Buckets ======

    def make_bucket(self, request: Request) -> Answer:
        if request.bucket not in self.store.buckets():
            self.store.make_bucket(request.bucket)
        return Answer(200)

    def remove_bucket(self, request: Request) -> Answer:
        self.store.remove_bucket(request.bucket)
        return Answer(204)

    def bucket_info(self, request: Request) -> Answer:
        if self.settings.deny_bucket_info:
            raise Refused(403, "AccessDenied", "You have no right to access this bucket.")
        self.store.page(request.bucket, "", "", "", 1)
        inside = (
            tag("Name", request.bucket)
            + tag("CreationDate", iso(0))
            + tag("Location", "oss-cn-hangzhou")
            + tag("ExtranetEndpoint", "oss-cn-hangzhou.aliyuncs.com")
            + tag("IntranetEndpoint", "oss-cn-hangzhou-internal.aliyuncs.com")
            + tag("StorageClass", "Standard")
            + owner()
            + "<AccessControlList><Grant>private</Grant></AccessControlList>"
        )
        return xml("BucketInfo", f"<Bucket>{inside}</Bucket>")

    def list_objects(self, request: Request) -> Answer:
        """Answer GetBucket (version 1) and ListObjectsV2."""
        query = request.query
        is_second = query.get("list-type") == "2"
        encode = quote if query.get("encoding-type") == "url" else same
        token = query.get("continuation-token", "")
        after = unquote(token) or query.get("start-after" if is_second else "marker", "")
        limit = int(query.get("max-keys") or 100)
        if not 0 < limit <= 1000:
            raise Refused(400, "InvalidArgument", "Argument max-keys must be between 1 and 1000")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found, more = self.store.page(request.bucket, prefix, delimiter, after, limit)
        inside = [tag("Name", request.bucket), tag("Prefix", encode(prefix))]
        inside += [tag("MaxKeys", str(limit)), tag("Delimiter", encode(delimiter))]
        inside += [tag("EncodingType", "url")] if encode is quote else []
        inside.append(tag("IsTruncated", str(more).lower()))
        if is_second:
            inside.append(tag("KeyCount", str(len(found))))
        if more:
            last = found[-1] if isinstance(found[-1], str) else found[-1].name
            name = "NextContinuationToken" if is_second else "NextMarker"
            inside.append(tag(name, encode(quote(last) if is_second else last)))
        inside += [listed(one, encode) for one in found]
        return xml("ListBucketResult", *inside)

    def delete_many(self, request: Request) -> Answer:
        digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        if request.headers.get("content-md5") != digest:
            raise Refused(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        encode = quote if request.query.get("encoding-type") == "url" else same
        names = [one.text or "" for one in ElementTree.fromstring(request.body).iter("Key")]
        if not 0 < len(names) <= 1000:
            raise Refused(400, "MalformedXML", "between 1 and 1000 keys")
        gone = [name for name in names if name != self.settings.retained]
        for name in gone:
            self.store.remove(request.bucket, name)
        deleted = [f"<Deleted>{tag('Key', encode(name))}</Deleted>" for name in gone]
        return xml("DeleteResult", tag("EncodingType", "url"), *deleted)

    def list_uploads(self, request: Request) -> Answer:
        if self.settings.deny_list_parts:
            raise Refused(403, "AccessDenied", "You have no right to list uploads.")
        uploads = [
            f"<Upload>{tag('Key', one.key)}{tag('UploadId', number)}"
            f"{tag('Initiated', iso(0))}</Upload>"
            for number, one in self.store.uploads.items()
            if one.bucket == request.bucket
        ]
        more = "<IsTruncated>false</IsTruncated><NextKeyMarker/><NextUploadIdMarker/>"
        return xml("ListMultipartUploadsResult", more, *uploads)

    # ====== Objects ======

    def put(self, request: Request) -> Answer:
        digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        if request.headers.get("content-md5", digest) != digest:
            raise Refused(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        content = self.received(request.body)
        made = self.store.put(request.bucket, request.key, content, request.headers)
        if self.settings.take("lose_puts"):
            raise Refused(503, "ServiceUnavailable", "Please try again later.")
        return Answer(200, headers=told_of(made))

    def copy(self, request: Request) -> Answer:
        source = self._source(request)
        if source.metadata["x-oss-object-type"] == "Appendable":
            raise Refused(400, "OperationNotSupported", "An appendable object is not copied.")
        if source.size > self.settings.copy_limit:
            raise Refused(400, "EntityTooLarge", "The source is larger than a copy may be.")
        headers = {**source.metadata, **metadata_of(request)}
        made = self.store.put(request.bucket, request.key, source.value, headers)
        return copied("CopyObjectResult", made.etag, made.metadata["x-oss-hash-crc64ecma"])

    def append(self, request: Request) -> Answer:
        position = int(request.query["position"])
        made = self.store.append(request.bucket, request.key, position, request.body)
        told = {**told_of(made), "x-oss-next-append-position": str(made.size)}
        return Answer(200, headers=told)

    def get(self, request: Request) -> Answer:
        found = self.store.get(request.bucket, request.key)
        check_conditions(request.headers, found, "")
        content = found.value
        told = {
            **told_of(found),
            **{name: value for name, value in found.metadata.items() if is_kept(name)},
            "Last-Modified": found.last_modified_RFC1123,
            "Accept-Ranges": "bytes",
        }
        headers = {} if self.settings.ignore_ranges else request.headers
        status, span = range_of(headers, len(content))
        if status == 206:
            told["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
            content = content[span.start : span.stop]
        if request.method == "HEAD":
            return Answer(status, headers={**told, "Content-Length": str(len(content))})
        if self.settings.take("corrupt_reads"):
            content = damaged(content)
        return Answer(status, content, told, is_cut=self.settings.take("truncate"))

    def delete(self, request: Request) -> Answer:
        self.store.remove(request.bucket, request.key)
        return Answer(204)

    def _source(self, request: Request) -> FakeKey:
        """Return the object that x-oss-copy-source names, if the conditions on it hold."""
        text = unquote(request.headers["x-oss-copy-source"])
        bucket, _, key = text.removeprefix("/").partition("/")
        self.check_bucket(request, bucket)
        found = self.store.get(bucket, key)
        check_conditions(request.headers, found, "x-oss-copy-source-")
        return found

    # ====== Uploads in parts ======

    def begin_upload(self, request: Request) -> Answer:
        self.store.page(request.bucket, "", "", "", 1)
        if request.headers.get("x-oss-forbid-overwrite") == "true" and self.store.find(
            request.bucket, request.key
        ):
            raise Refused(409, "FileAlreadyExists", "The object you specified already exists.")
        number = uuid.uuid4().hex.upper()
        self.store.uploads[number] = Upload(request.bucket, request.key, request.headers)
        return xml(
            "InitiateMultipartUploadResult",
            tag("Bucket", request.bucket),
            tag("Key", quote(request.key)),
            tag("UploadId", number),
        )

    def put_part(self, request: Request) -> Answer:
        upload = self._upload(request)
        content = self.received(request.body)
        upload.parts[int(request.query["partNumber"])] = content
        told = {"ETag": etag_of(content), "x-oss-hash-crc64ecma": str(crc64(content))}
        return Answer(200, headers=told)

    def copy_part(self, request: Request) -> Answer:
        upload = self._upload(request)
        source = self._source(request)
        span = re.fullmatch(
            r"bytes=(\d+)-(\d+)", request.headers.get("x-oss-copy-source-range", "")
        )
        start, end = (int(span[1]), int(span[2]) + 1) if span else (0, source.size)
        if end > source.size or end - start > self.settings.copy_limit:
            raise Refused(400, "InvalidArgument", "The range of the source is out of bounds.")
        content = source.value[start:end]
        upload.parts[int(request.query["partNumber"])] = content
        return copied("CopyPartResult", etag_of(content), str(crc64(content)))

    def list_parts(self, request: Request) -> Answer:
        if self.settings.deny_list_parts:
            raise Refused(403, "AccessDenied", "You have no right to list parts.")
        parts = [
            f"<Part>{tag('PartNumber', str(number))}{tag('LastModified', iso(0))}"
            f"{tag('ETag', etag_of(content))}{tag('Size', str(len(content)))}</Part>"
            for number, content in sorted(self._upload(request).parts.items())
        ]
        more = "<IsTruncated>false</IsTruncated><NextPartNumberMarker/>"
        return xml("ListPartsResult", more, *parts)

    def complete_upload(self, request: Request) -> Answer:
        upload = self._upload(request)
        contents = []
        for part in ElementTree.fromstring(request.body).iter("Part"):
            content = upload.parts.get(int(part.findtext("PartNumber") or 0))
            claimed = (part.findtext("ETag") or "").strip('"').upper()
            if content is None or etag_of(content) != f'"{claimed}"':
                raise Refused(400, "InvalidPart", "A part could not be found.")
            contents.append(content)
        if any(len(one) < _SHORTEST_PART for one in contents[:-1]):
            raise Refused(400, "EntityTooSmall", "A part is smaller than it may be.")
        digests = b"".join(hashlib.md5(one).digest() for one in contents)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(contents)}"
        headers = {**upload.headers, **request.headers, **metadata_of(upload)}
        made = self.store.put(
            request.bucket, request.key, b"".join(contents), headers, "Multipart", etag
        )
        del self.store.uploads[request.query["uploadId"]]
        answer = xml(
            "CompleteMultipartUploadResult",
            tag("Bucket", request.bucket),
            tag("Key", quote(request.key)),
            tag("ETag", made.etag.upper()),
        )
        return replace(answer, headers={**answer.headers, **told_of(made)})

    def abort_upload(self, request: Request) -> Answer:
        self._upload(request)
        del self.store.uploads[request.query["uploadId"]]
        return Answer(204)

    def _upload(self, request: Request) -> Upload:
        upload = self.store.uploads.get(request.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (request.bucket, request.key):
            raise Refused(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload


_Operation = Callable[[Service, Request], Answer]


def _put(service: Service, request: Request) -> Answer:
    is_copy = "x-oss-copy-source" in request.headers
    if "uploadId" in request.query:
        return service.copy_part(request) if is_copy else service.put_part(request)
    return service.copy(request) if is_copy else service.put(request)


# By method and by a parameter of the query; the first that fits.
_BUCKET: tuple[tuple[str, str, _Operation], ...] = (
    ("GET", "bucketInfo", Service.bucket_info),
    ("GET", "uploads", Service.list_uploads),
    ("GET", "", Service.list_objects),
    ("POST", "delete", Service.delete_many),
    ("PUT", "", Service.make_bucket),
    ("DELETE", "", Service.remove_bucket),
)
_OBJECT: tuple[tuple[str, str, _Operation], ...] = (
    ("GET", "uploadId", Service.list_parts),
    ("GET", "", Service.get),
    ("HEAD", "", Service.get),
    ("PUT", "", _put),
    ("POST", "uploads", Service.begin_upload),
    ("POST", "uploadId", Service.complete_upload),
    ("POST", "append", Service.append),
    ("DELETE", "uploadId", Service.abort_upload),
    ("DELETE", "", Service.delete),
)
