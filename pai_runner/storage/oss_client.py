"""Requests to OSS: how they are signed, sent, repeated, and what their failures are called.

All requests of the oss:// filesystem go through `Client.call`. It renews credentials that the
server calls stale, repeats what may succeed the next time, and turns the errors of oss2 and
urllib3 into OSErrors whose text holds no secret.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import oss2
import urllib3

from pai_runner.secret import redact
from pai_runner.storage.connections import guarded_session
from pai_runner.storage.exits import InPlace
from pai_runner.storage.failures import cause_of

if TYPE_CHECKING:
    from pai_runner.storage.credentials import CredentialSource

_T = TypeVar("_T")

_CONNECT_SECONDS = 5
_READ_SECONDS = 15
# The server copies or assembles an object before it answers.
SLOW_SECONDS = 120
_ATTEMPTS = 3
_THREADS = 8

_TRANSIENT = (429, 500, 502, 503, 504)
_STALE = ("SecurityTokenExpired", "InvalidSecurityToken", "InvalidAccessKeyId")

_REGION = re.compile(
    r"https?://oss-(?P<region>[a-z]{2,4}-[a-z0-9-]+?)(-internal)?\.aliyuncs\.com(:443)?"
)


class DamagedError(Exception):
    """What arrived is not what was sent: its length or its CRC64 is another."""


_FAILURES = (oss2.exceptions.OssError, urllib3.exceptions.HTTPError, DamagedError)


class Client:
    """One server and one set of credentials; safe among threads and in a forked child.

    `endpoint` is a URL. `region` is for signatures of version 4; the names of Alibaba's own
    endpoints tell it, for others (own domains, CNAMEs) the user may set OSS_REGION, as in
    `cn-hangzhou`. Where it is not known, requests are signed with version 1.
    """

    def __init__(self, endpoint: str, source: CredentialSource, region: str | None = None) -> None:
        known = _REGION.fullmatch(endpoint)
        self.endpoint = endpoint
        self.region = region or (known["region"] if known else os.environ.get("OSS_REGION"))
        self._source = source
        signer = oss2.ProviderAuthV4 if self.region else oss2.ProviderAuth
        self._auth = signer(_Provider(source))
        self._process: _Process | None = None

    def __repr__(self) -> str:
        return f"<Client {self.endpoint} {self._source.description}>"

    def call(
        self, bucket: str, what: str, action: Callable[[Any], _T], seconds: float = _READ_SECONDS
    ) -> _T:
        """Return what `action` returns for the `oss2.Bucket` named `bucket`.

        `what` names the object in errors; `seconds` is how long the server may be silent.
        Raises OSError, and SetupError where there are no credentials or the host is refused.
        """
        if not oss2.utils.is_valid_bucket_name(bucket):
            raise FileNotFoundError(errno.ENOENT, f"`{bucket}` cannot be a bucket's name")
        return self._repeated(what, lambda: _explained(action, self._bucket(bucket, seconds)))

    def buckets(self) -> list[Any]:
        """Return the buckets of the account, as oss2 describes them. Raises as `call` does."""

        def listed() -> list[Any]:
            service = oss2.Service(
                self._auth,
                self.endpoint,
                session=self._here.session,
                connect_timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                region=self.region,
            )
            return list(oss2.BucketIterator(service))

        return self._repeated("the list of buckets", listed)

    def signed_url(self, bucket: str, key: str, seconds: int) -> str:
        """Return a URL that reads an object without credentials for so many seconds."""
        url: str = self._bucket(bucket, _READ_SECONDS).sign_url("GET", key, seconds)
        return url

    def submit(self, work: Callable[..., _T], *arguments: Any) -> Future[_T]:
        """Start `work` on a thread. It must not submit work itself."""
        try:
            return self._here.pool.submit(work, *arguments)
        except RuntimeError:  # the process is ending, and starts no more threads
            return InPlace().submit(work, *arguments)

    @property
    def _here(self) -> _Process:
        """The connections and threads of this process: a forked child makes its own."""
        process = self._process
        if process is None or process.number != os.getpid():
            process = self._process = _Process()
        return process

    def _bucket(self, name: str, seconds: float) -> Any:
        return oss2.Bucket(
            self._auth,
            self.endpoint,
            name,
            session=self._here.session,
            connect_timeout=(_CONNECT_SECONDS, seconds),
            enable_crc=False,  # checked by those who call: oss2 does it in pieces of a few KB
            region=self.region,
            is_verify_object_strict=False,  # it refuses keys that begin with `?`
        )

    def _repeated(self, what: str, request: Callable[[], _T]) -> _T:
        renewals = 0
        attempt = 1
        while True:
            used = self._source.get()
            try:
                return request()
            except _FAILURES as error:
                failure = error
            if _is_stale(failure) and renewals < _ATTEMPTS:
                renewals += 1
                # Another thread may have renewed them meanwhile.
                if self._source.get() != used or self._source.renew(used):
                    continue
            if attempt == _ATTEMPTS or not _is_transient(failure):
                raise _os_error(failure, what, self.endpoint) from None
            time.sleep(random.uniform(0.25, 0.5) * 2**attempt)
            attempt += 1


class _Process:
    def __init__(self) -> None:
        self.number = os.getpid()
        self.session = _Session()
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="oss")


class _Session(oss2.Session):  # type: ignore[misc]
    def __init__(self) -> None:
        self.session = guarded_session(2 * _THREADS)


class _Provider(oss2.credentials.CredentialsProvider):  # type: ignore[misc]
    """Gives oss2 the credentials for each request."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source

    def get_credentials(self) -> Any:
        found = self._source.get()
        return oss2.credentials.Credentials(
            found.access_key_id, found.access_key_secret, found.security_token or ""
        )


# ====== Bodies ======


def crc64(data: bytes) -> int:
    """Return the checksum that OSS keeps of every object (CRC-64/XZ)."""
    checksum = oss2.utils.Crc64()
    checksum.update(data)
    value: int = checksum.crc
    return value


def crc64_of_parts(parts: Iterable[tuple[int, int]]) -> int:
    """Return the checksum of parts that follow each other: (checksum, bytes) of each."""
    combine = oss2.utils.Crc64().combine
    total = 0
    for checksum, size in parts:
        total = combine(total, checksum, size)
    return total


def check_crc(expected: int | None, found: int | None) -> None:
    """Raise DamagedError where both checksums are known and differ."""
    if expected is not None and found is not None and expected != found:
        raise DamagedError(f"the CRC64 is {found}, and should be {expected}")


def body_of(result: Any) -> bytes:
    """Return the whole body of an oss2 GetObjectResult, as it is stored."""
    data: bytes = result.resp.response.raw.read(decode_content=False)
    if result.content_length not in (None, len(data)):
        raise DamagedError(f"{len(data)} bytes came of {result.content_length}")
    return data


# ====== Failures ======


def _explained(action: Callable[[Any], _T], bucket: Any) -> _T:
    """Return what `action` returns; where it is refused without a code, say why.

    A refused HEAD may have no body. Only a request that has one tells a stale token from a right
    that is missing.
    """
    try:
        return action(bucket)
    except oss2.exceptions.ServerError as error:
        if error.status == 403 and not error.code:
            bucket.list_objects_v2(max_keys=1)
        raise


def _is_stale(error: Exception) -> bool:
    return (
        isinstance(error, oss2.exceptions.ServerError)
        and error.status == 403
        and error.code in _STALE
    )


def _is_transient(error: Exception) -> bool:
    if isinstance(error, oss2.exceptions.ServerError):
        return error.status in _TRANSIENT
    return not isinstance(error, oss2.exceptions.ClientError)


def _os_error(error: Exception, what: str, endpoint: str) -> OSError:
    """Return the OSError that stands for a failed request."""
    if isinstance(error, oss2.exceptions.ServerError):
        return _refusal(error, what)
    if isinstance(error, DamagedError):
        return OSError(errno.EIO, f"{what}: damaged on its way: {error}")
    if isinstance(error, oss2.exceptions.ClientError):
        return OSError(errno.EINVAL, f"{what}: {redact(str(error.body))}")
    cause = getattr(error, "exception", error)
    text = f"{what}: {endpoint} does not answer: {cause_of(cause) or redact(str(cause))}"
    if any("Timeout" in ancestor.__name__ for ancestor in type(cause).__mro__):
        return TimeoutError(errno.ETIMEDOUT, text)
    return ConnectionError(errno.ECONNABORTED, text)


def _refusal(error: Any, what: str) -> OSError:
    text = f"{what}: {_told(error)}"
    if error.code == "NoSuchBucket":
        bucket = error.details.get("BucketName", what)
        return FileNotFoundError(errno.ENOENT, f"{what}: there is no bucket `{bucket}`")
    if error.status == 404 and error.code in ("NoSuchKey", ""):
        return FileNotFoundError(errno.ENOENT, f"{what}: there is no such object")
    if error.status == 403:
        return PermissionError(errno.EACCES, text)
    if error.code == "FileAlreadyExists":
        return FileExistsError(errno.EEXIST, f"{what}: it exists")
    if error.status == 412:
        return OSError(errno.ESTALE, f"{what}: it was changed meanwhile")
    if error.status in _TRANSIENT:
        return OSError(errno.EBUSY, text)
    if error.status // 100 == 3:
        return OSError(errno.EIO, f"{what}: the server redirects elsewhere, which is not followed")
    return RefusedError(errno.EIO, text, error.code)


class RefusedError(OSError):
    """OSS does not do what it was asked; `code` is its word for why."""

    def __init__(self, number: int, text: str, code: str) -> None:
        super().__init__(number, text)
        self.code = code


def _told(error: Any) -> str:
    """Return what a server says of its refusal: code, message, and the number to ask it by."""
    words = [str(error.status), error.code, error.message]
    number = f" (request {error.request_id})" if error.request_id else ""
    return redact(" ".join(word for word in words if word)) + number
