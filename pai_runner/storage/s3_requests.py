"""Single requests to S3, signed as botocore signs, over connections that are checked.

botocore's own client finds credentials and says where a bucket's objects are. It is not asked for
the bytes themselves: each call of it costs about a millisecond of Python.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import botocore
import botocore.session
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError

from pai_runner.secret import redact
from pai_runner.storage.attempts import (
    CONNECT_SECONDS,
    READ_SECONDS,
    TRANSIENT,
    TRANSIENT_CODES,
)
from pai_runner.storage.bodies import Body, DamagedError, pieces, size_told, unanswered
from pai_runner.storage.connections import guarded_pool
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.filesystems import is_true
from pai_runner.storage.hosts import check_endpoint, refuse_metadata
from pai_runner.storage.objects import Described

_CONNECTIONS = 64
# A body need not be hashed for the signature: a checksum of it is signed.
_UNSIGNED_BODY = Config(s3={"payload_signing_enabled": False})
_TAG = re.compile(rb"<(Code|Message|RequestId|Region)>([^<]*)</")
# Without keys an unsigned request is made; botocore must not look for keys to tell the place.
_UNSIGNED = Config(signature_version=botocore.UNSIGNED)
# Parts of a path that urllib3 would take for directories. The server reads the key as it is.
_DOTS = re.compile(r"(?<=/)\.{1,2}(?=/|$)")


class Refusal(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status: int, told: Mapping[str, str], region: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.code = told.get("Code", "")
        self.message = told.get("Message", "")
        self.request = told.get("RequestId", "")
        self.region = region or told.get("Region", "")


class Requests:
    """What reaches one server with one set of credentials; safe among threads."""

    def __init__(self, options: Mapping[str, str]) -> None:
        """`options` are those of an s3 location, secrets in clear. Raises SetupError."""
        self._options = options
        self._endpoint = None
        if "endpoint_url" in options:
            self._endpoint = check_endpoint(options["endpoint_url"], "endpoint_url")
            refuse_metadata(urlsplit(self._endpoint).hostname or "")
        self.dialect = S3Dialect(self._endpoint or "S3")
        self._lock = threading.RLock()
        self._session: Any = None
        self._is_anonymous = is_true(options.get("anon", ""))
        # Those that refusals have named, by bucket.
        self._regions: dict[str, str] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._pools: dict[str, urllib3.PoolManager] = {}

    def prepare(self, bucket: str) -> None:
        """Do what takes time before the first request to a bucket. Raises what botocore raises."""
        self._place(bucket)

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: memoryview | None = None,
        seconds: float = READ_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        """Return the open answer of a request that succeeds.

        Raises Refusal for one that does not, and what urllib3 raises.
        """
        bucket, _, key = path.partition("/")
        for _ in range(2):
            place, region = self._place(bucket)
            url = place + quote(key, safe="/~")
            signed = self._signed(method, region, url, query, headers)
            if body is not None:
                signed["Content-Length"] = str(len(body))
            sent = _DOTS.sub(lambda dots: dots[0].replace(".", "%2E"), url)
            answer = self._pool(url).urlopen(
                method,
                sent + (f"?{urlencode(query, quote_via=quote)}" if query else ""),
                body=None if body is None else _Pieces(body),
                headers=signed,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds),
            )
            if answer.status < 300:
                return answer
            refusal = _refusal(answer)
            if not self._learns_region(bucket, region, refusal):
                break
        raise refusal

    def ask(self, method: str, path: str, query: Mapping[str, str], **options: Any) -> Any:
        """Return the answer and its whole body. Raises as `send` does."""
        answer = self.send(method, path, query, options.pop("headers", {}), **options)
        return answer, read_whole(answer)

    def open_range(self, path: str, start: int, count: int, etag: str | None) -> Body:
        """Return the answer to a GET of `count` bytes; an empty one behind the object's end."""
        headers = {"Range": f"bytes={start}-{start + count - 1}"}
        if etag:
            headers["If-Match"] = f'"{etag}"'
        try:
            answer = self.send("GET", path, {}, headers)
        except Refusal as refusal:
            if refusal.status == 416:
                return self._end_of(path)
            raise
        return Body.of(answer, start, etag_of(answer), _modified_ns(answer))

    def _end_of(self, path: str) -> Body:
        answer, _ = self.ask("HEAD", path, {})
        return Body(None, described(answer))

    # ====== Where, and with which signature ======

    def _signed(
        self, method: str, region: str, url: str, query: Mapping[str, str], headers: Any
    ) -> dict[str, str]:
        if self._is_anonymous:
            return dict(headers)
        request = AWSRequest(method, url, headers=headers, params=dict(query))
        request.context["client_config"] = _UNSIGNED_BODY
        S3SigV4Auth(self._credentials(), "s3", region).add_auth(request)
        return {str(name): str(value) for name, value in request.headers.items()}

    def _credentials(self) -> Any:
        """Return the keys of this moment; they are renewed. Raises PermissionError."""
        try:
            credentials = self._here().get_credentials()
            if credentials is None:
                raise NoCredentialsError
            return credentials.get_frozen_credentials()
        except BotoCoreError as error:
            text = f"no credentials for {self._endpoint or 'S3'}: {redact(str(error))}"
            raise PermissionError(errno.EACCES, text) from error

    def _here(self) -> Any:
        """Return botocore's session, with the credentials that it keeps and renews."""
        with self._lock:
            if self._session is None:
                self._session = botocore.session.Session(profile=self._options.get("profile"))
                given = [self._options.get(name) for name in ("key", "secret", "token")]
                if given[0]:
                    self._session.set_credentials(*given)
            return self._session

    def _place(self, bucket: str) -> tuple[str, str]:
        """Return the URL of a bucket's objects, with a final `/`, and the bucket's region."""
        with self._lock:
            if bucket not in self._places:
                region = self._regions.get(bucket) or self._options.get("region")
                client = self._here().create_client(
                    "s3",
                    region_name=region,
                    endpoint_url=self._endpoint,
                    config=_UNSIGNED,  # it is asked where, not who
                )
                url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
                place = url.partition("?")[0].removesuffix("k")
                self._places[bucket] = place, client.meta.region_name
            return self._places[bucket]

    def _learns_region(self, bucket: str, asked: str, refusal: Refusal) -> bool:
        """Tell whether a refusal named another region than was asked, to be asked instead."""
        if refusal.region in ("", asked):
            return False
        if refusal.code == "AuthorizationHeaderMalformed" or refusal.status in (301, 307, 400):
            with self._lock:
                if self._regions.get(bucket) != refusal.region:  # else another thread knows it
                    self._regions[bucket] = refusal.region
                    self._places.pop(bucket, None)
            return True
        return False

    def _pool(self, url: str) -> urllib3.PoolManager:
        with self._lock:
            parts = urlsplit(url)
            server = f"{parts.scheme}://{parts.netloc}"
            if server not in self._pools:
                bundle = self._here().get_config_variable("ca_bundle")
                self._pools[server] = guarded_pool(server, _CONNECTIONS, bundle)
            return self._pools[server]


class _Pieces:
    """A body for urllib3, which can be sent once more when a kept connection was gone."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    def __iter__(self) -> Iterator[memoryview]:
        return pieces(self._body)


# ====== Answers ======


def read_whole(answer: urllib3.BaseHTTPResponse) -> bytes:
    """Return the rest of an answer, and give its connection back."""
    try:
        data: bytes = answer.read()
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return data


def etag_of(answer: urllib3.BaseHTTPResponse) -> str:
    return str(answer.headers.get("ETag", "")).strip('"')


def described(answer: urllib3.BaseHTTPResponse) -> Described:
    """Return what the answer to a HEAD says of the object. Raises DamagedError."""
    return Described(
        size_told(answer.status, answer.headers), etag_of(answer), _modified_ns(answer)
    )


def _modified_ns(answer: urllib3.BaseHTTPResponse) -> int:
    time = parsedate_tz(answer.headers.get("Last-Modified", ""))
    return int(mktime_tz(time)) * 10**9 if time else 0


def _refusal(answer: urllib3.BaseHTTPResponse) -> Refusal:
    refusal = refusal_in(read_whole(answer), answer.status, answer.headers)
    # The answer to a HEAD has no body.
    refusal.code = refusal.code or ("" if answer.status == 404 else answer.reason or "")
    return refusal


def refusal_in(body: bytes, status: int, headers: Mapping[str, str]) -> Refusal:
    """Return the refusal that an answer's XML says."""
    told = {name.decode(): value.decode(errors="replace") for name, value in _TAG.findall(body)}
    told.setdefault("RequestId", headers.get("x-amz-request-id", ""))
    return Refusal(status, told, headers.get("x-amz-bucket-region", ""))


class S3Dialect:
    """What failed requests to S3 mean; `server` is named where nobody answers."""

    failures: tuple[type[Exception], ...] = (
        Refusal,
        urllib3.exceptions.HTTPError,
        DamagedError,
        ConnectionError,
        TimeoutError,
    )

    def __init__(self, server: str) -> None:
        self._server = server

    def trouble(self, failure: Exception) -> tuple[bool, int | None]:
        if isinstance(failure, Refusal):
            # A completed upload may turn out to be a failure behind its status of 200.
            may_succeed = failure.status in (*TRANSIENT, 200) or failure.code in TRANSIENT_CODES
            return may_succeed, failure.status
        return True, None

    def explained(self, failure: Exception, what: str, tried: str) -> OSError:
        if isinstance(failure, Refusal):
            return _refused(failure, what, tried)
        if isinstance(failure, DamagedError):
            return OSError(errno.EIO, f"{what}: damaged on its way: {failure}{tried}")
        return unanswered(what, self._server, failure, tried)


def _refused(refusal: Refusal, what: str, tried: str) -> OSError:
    words = " ".join(str(one) for one in (refusal.status, refusal.code, refusal.message) if one)
    number = f" (request {refusal.request})" if refusal.request else ""
    text = f"{what}: {redact(words)}{number}{tried}"
    if refusal.code == "NoSuchBucket":
        bucket = what.partition("/")[0]
        return FileNotFoundError(errno.ENOENT, f"{what}: there is no bucket `{bucket}`")
    if refusal.status == 404 and refusal.code in ("NoSuchKey", ""):
        return FileNotFoundError(errno.ENOENT, f"{what}: there is no such object")
    if refusal.status in (401, 403):
        return PermissionError(errno.EACCES, text)
    if refusal.status == 412:
        return OSError(errno.ESTALE, f"{what}: it was changed meanwhile")
    if refusal.status in TRANSIENT:
        return OSError(errno.EBUSY, text)
    return RefusedError(errno.EIO, text, refusal.code)
