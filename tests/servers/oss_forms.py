"""Requests and answers of OSS's double: its rules about them, and their form as XML."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

from moto.s3.models import FakeKey
from oss_signature import Claim, Signed
from oss_store import Refused, Upload


@dataclass(frozen=True)
class Request(Signed):
    """A request and its body."""

    body: bytes

    @property
    def claim(self) -> Claim:
        return Claim.of(self)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False


# ====== Rules ======


def range_of(headers: Mapping[str, str], size: int) -> tuple[int, range]:
    """Return the status, and the bytes that a Range header asks for.

    Without `x-oss-range-behavior: standard` a range out of bounds gives the whole object.
    """
    whole = 200, range(size)
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
    if found is None or found[1] == found[2] == "":
        return whole
    is_standard = headers.get("x-oss-range-behavior") == "standard"
    if found[1]:
        start, end = int(found[1]), int(found[2]) + 1 if found[2] else size
    else:
        start, end = size - int(found[2]), size
    if found[1] and found[2] and end <= start:
        return whole
    if not is_standard and (start < 0 or start >= size or end > size):
        return whole
    if start >= size:
        raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
    return 206, range(max(start, 0), min(end, size))


def check_conditions(headers: Mapping[str, str], found: FakeKey, prefix: str) -> None:
    tag = found.etag.strip('"').upper()
    expected = headers.get(f"{prefix}if-match")
    if expected is not None and expected.strip('"').upper() != tag:
        raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions failed.")
    unwanted = headers.get(f"{prefix}if-none-match")
    if unwanted is not None and unwanted.strip('"').upper() == tag:
        raise Refused(304, "NotModified")


def damaged(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:] if content else content


# ====== Forms ======


def same(text: str) -> str:
    return text


def tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def xml(root: str, *inside: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}>{"".join(inside)}</{root}>'
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest().upper()}"'


def owner() -> str:
    return "<Owner><ID>1234567890</ID><DisplayName>1234567890</DisplayName></Owner>"


def buckets(names: Iterable[str]) -> str:
    inside = "".join(
        f"<Bucket>{tag('Name', name)}{tag('CreationDate', iso(0))}"
        f"{tag('Location', 'oss-cn-hangzhou')}{tag('StorageClass', 'Standard')}"
        f"{tag('ExtranetEndpoint', 'oss-cn-hangzhou.aliyuncs.com')}"
        f"{tag('IntranetEndpoint', 'oss-cn-hangzhou-internal.aliyuncs.com')}</Bucket>"
        for name in names
    )
    return f"<Buckets>{inside}</Buckets>"


def listed(one: FakeKey | str, encode: Callable[[str], str]) -> str:
    if isinstance(one, str):
        return f"<CommonPrefixes>{tag('Prefix', encode(one))}</CommonPrefixes>"
    inside = (
        tag("Key", encode(one.name))
        + tag("LastModified", one.last_modified_ISO8601)
        + tag("ETag", one.etag.upper())
        + tag("Type", one.metadata["x-oss-object-type"])
        + tag("Size", str(one.size))
        + tag("StorageClass", "Standard")
    )
    return f"<Contents>{inside}</Contents>"


def told_of(found: FakeKey) -> dict[str, str]:
    """Return the headers that tell of an object in every answer."""
    names = ("x-oss-object-type", "x-oss-hash-crc64ecma")
    return {"ETag": found.etag.upper(), **{name: found.metadata[name] for name in names}}


def copied(root: str, etag: str, crc: str) -> Answer:
    answer = xml(root, tag("LastModified", iso(time.time())), tag("ETag", etag.upper()))
    told = {"ETag": etag.upper(), "x-oss-hash-crc64ecma": crc}
    return replace(answer, headers={**answer.headers, **told})


def metadata_of(request: Request | Upload) -> dict[str, str]:
    names = {"x-oss-forbid-overwrite"}
    return {k: v for k, v in request.headers.items() if k in names or k.startswith("x-oss-meta-")}


def error(request: Request, refusal: Refused, number: str) -> Answer:
    text = xml(
        "Error",
        tag("Code", refusal.code),
        tag("Message", str(refusal)),
        tag("RequestId", number),
        tag("HostId", request.headers.get("host", "")),
        tag("BucketName", request.bucket),
    )
    return replace(text, status=refusal.status, headers={**text.headers, **refusal.headers})
