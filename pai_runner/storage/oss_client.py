"""Requests to OSS: how they are signed, sent, repeated, and what their failures are called.

All requests of the oss:// filesystem go through `Client.call`. It renews credentials that the
server calls stale, repeats what may succeed the next time, and turns the errors of oss2 and
urllib3 into OSErrors whose text holds no secret.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import oss2

from pai_runner.storage.attempts import CONNECT_SECONDS, READ_SECONDS
from pai_runner.storage.bodies import DamagedError, pieces, repeated
from pai_runner.storage.connections import guarded_session
from pai_runner.storage.exits import InPlace
from pai_runner.storage.objects import Bytes, memory_of
from pai_runner.storage.oss_dialect import OSSDialect

if TYPE_CHECKING:
    from pai_runner.storage.credentials import CredentialSource

_T = TypeVar("_T")

_THREADS = 8
_CONNECTIONS = 64

# How often credentials are renewed for one request.
_RENEWALS = 3
_STALE = ("SecurityTokenExpired", "InvalidSecurityToken", "InvalidAccessKeyId")

_REGION = re.compile(
    r"https?://oss-(?P<region>[a-z]{2,4}-[a-z0-9-]+?)(-internal)?\.aliyuncs\.com(:443)?"
)


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
        self.dialect = OSSDialect(endpoint)
        # Set when the process ends: what is under way fails then, and is not repeated.
        self.closing = threading.Event()

    def __repr__(self) -> str:
        return f"<Client {self.endpoint} {self._source.description}>"

    def call(
        self, bucket: str, what: str, action: Callable[[Any], _T], seconds: float = READ_SECONDS
    ) -> _T:
        """Return what `action` returns for the `oss2.Bucket` named `bucket`.

        `what` names the object in errors; `seconds` is how long the server may be silent.
        Raises OSError, and SetupError where there are no credentials or the host is refused.
        """
        if not oss2.utils.is_valid_bucket_name(bucket):
            raise FileNotFoundError(errno.ENOENT, f"`{bucket}` cannot be a bucket's name")
        return self._repeated(what, lambda: self.once(bucket, action, seconds))

    def once(self, bucket: str, action: Callable[[Any], _T], seconds: float = READ_SECONDS) -> _T:
        """Do the same without repeating it, but for stale credentials.

        Raises what oss2 and urllib3 raise, and SetupError.
        """
        return self._renewing(lambda: _explained(action, self._bucket(bucket, seconds)))

    def buckets(self) -> list[Any]:
        """Return the buckets of the account, as oss2 describes them. Raises as `call` does."""

        def listed() -> list[Any]:
            service = oss2.Service(
                self._auth,
                self.endpoint,
                session=self._here.session,
                connect_timeout=(CONNECT_SECONDS, READ_SECONDS),
                region=self.region,
            )
            return list(oss2.BucketIterator(service))

        return self._repeated("the list of buckets", lambda: self._renewing(listed))

    def signed_url(self, bucket: str, key: str, seconds: int) -> str:
        """Return a URL that reads an object without credentials for so many seconds."""
        url: str = self._bucket(bucket, READ_SECONDS).sign_url("GET", key, seconds)
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
            connect_timeout=(CONNECT_SECONDS, seconds),
            enable_crc=False,  # checked by those who call: oss2 does it in pieces of a few KB
            region=self.region,
            is_verify_object_strict=False,  # it refuses keys that begin with `?`
        )

    def _repeated(self, what: str, request: Callable[[], _T]) -> _T:
        return repeated(what, request, self.dialect, self.closing)

    def _renewing(self, request: Callable[[], _T]) -> _T:
        """Return what `request` returns, with renewed credentials where it calls them stale."""
        for is_last in (*(False,) * _RENEWALS, True):
            used = self._source.get()
            try:
                return request()
            except oss2.exceptions.ServerError as error:
                if is_last or not _is_stale(error):
                    raise
                # Another thread may have renewed them meanwhile.
                if self._source.get() == used and not self._source.renew(used):
                    raise
        raise AssertionError("unreachable")


class _Process:
    def __init__(self) -> None:
        self.number = os.getpid()
        self.session = _Session()
        self.pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="oss")


class _Session(oss2.Session):  # type: ignore[misc]
    def __init__(self) -> None:
        self.session = guarded_session(_CONNECTIONS)


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


def body_for(data: Bytes) -> Any:
    """Return what oss2 sends `data` as: bytes as they are, other memory in pieces."""
    return data if isinstance(data, bytes) else _Sent(memory_of(data))


class _Sent:
    """A body that requests sends without a copy; made anew for each attempt."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        return pieces(self._data)


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


def _is_stale(error: Any) -> bool:
    return error.status == 403 and error.code in _STALE
