"""OSS's signatures as the server computes them: versions 1 and 4, in headers and in URLs.

Rules: https://help.aliyun.com/zh/oss/developer-reference/signature-version-1 and -4.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

# The query's parameters that version 1 signs.
_SIGNED_IN_V1 = {
    "acl",
    "append",
    "bucketInfo",
    "continuation-token",
    "delete",
    "location",
    "objectMeta",
    "partNumber",
    "position",
    "response-content-disposition",
    "response-content-type",
    "security-token",
    "stat",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
}


@dataclass(frozen=True)
class Signed:
    """A request, as far as its signature goes. Names of headers are in lower case."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """Who a request says that it comes from. `version` is "V1", "V4" or, without one, ""."""

    version: str = ""
    access_key_id: str = ""
    signature: str = ""
    token: str | None = None
    in_url: bool = False
    scope: str = ""

    @classmethod
    def of(cls, request: Signed) -> Claim:
        """Return what `request` claims; an empty one where it claims nothing."""
        text = request.headers.get("authorization", "")
        token = request.headers.get("x-oss-security-token")
        if text.startswith("OSS "):
            access_key_id, _, signature = text[4:].partition(":")
            return cls("V1", access_key_id, signature, token)
        if text.startswith("OSS4-HMAC-SHA256 "):
            parts = dict(part.strip().partition("=")[::2] for part in text[17:].split(","))
            access_key_id, _, scope = parts["Credential"].partition("/")
            return cls("V4", access_key_id, parts["Signature"], token, scope=scope)
        query = request.query
        if "OSSAccessKeyId" in query:
            token = query.get("security-token")
            return cls("V1", query["OSSAccessKeyId"], query.get("Signature", ""), token, True)
        if "x-oss-credential" in query:
            access_key_id, _, scope = query["x-oss-credential"].partition("/")
            token = query.get("x-oss-security-token")
            return cls("V4", access_key_id, query["x-oss-signature"], token, True, scope)
        return cls()

    def is_signed_with(self, secret: str, request: Signed) -> bool:
        """Tell whether the signature is the one that `secret` gives."""
        expected = (
            _signature_v1(request, secret, self.in_url)
            if self.version == "V1"
            else _signature_v4(request, secret, self)
        )
        return hmac.compare_digest(expected, self.signature)

    def is_late(self, request: Signed) -> bool:
        """Tell whether a signed URL is used after its time."""
        if not self.in_url:
            return False
        if self.version == "V1":
            return int(request.query["Expires"]) < time.time()
        signed = time.strptime(request.query["x-oss-date"] + "UTC", "%Y%m%dT%H%M%SZ%Z")
        return calendar.timegm(signed) + int(request.query["x-oss-expires"]) < time.time()


def _signature_v1(request: Signed, secret: str, in_url: bool) -> str:
    headers = request.headers
    date = request.query["Expires"] if in_url else headers.get("date", "")
    own = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if _is_own(name))
    signed = sorted(name for name in request.query if name in _SIGNED_IN_V1)
    query = "&".join(
        f"{name}={request.query[name]}" if request.query[name] else name for name in signed
    )
    resource = "/" if not request.bucket else f"/{request.bucket}/{request.key}"
    text = "\n".join(
        [
            request.method,
            headers.get("content-md5", ""),
            headers.get("content-type", ""),
            headers.get("x-oss-date", "") or date,
            own + resource + ("?" + query if query else ""),
        ]
    )
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _signature_v4(request: Signed, secret: str, claim: Claim) -> str:
    """Return the hexadecimal signature; the scope is `date/region/oss/aliyun_v4_request`."""
    headers = request.headers
    pairs = sorted(
        (_encoded(name), _encoded(value))
        for name, value in request.query.items()
        if name != "x-oss-signature"
    )
    signed = sorted(
        name for name in headers if _is_own(name) or name in ("content-type", "content-md5")
    )
    canonical = "\n".join(
        [
            request.method,
            quote(f"/{request.bucket}/{request.key}" if request.bucket else "/", safe="/-_.~"),
            "&".join(f"{name}={value}" if value else name for name, value in pairs),
            "".join(f"{name}:{headers[name]}\n" for name in signed),
            "",
            "UNSIGNED-PAYLOAD",
        ]
    )
    date = request.query["x-oss-date"] if claim.in_url else headers.get("x-oss-date", "")
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["OSS4-HMAC-SHA256", date, claim.scope, digest])
    key = f"aliyun_v4{secret}".encode()
    for part in claim.scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _is_own(name: str) -> bool:
    return name.startswith("x-oss-")


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
