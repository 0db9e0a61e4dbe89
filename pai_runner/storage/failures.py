"""What the failures of filesystems mean, whatever library raised them."""

from __future__ import annotations

import errno
import re
from enum import Enum

from pai_runner.secret import redact


class Failure(Enum):
    """The kinds of failure that a caller tells apart, whatever library raised them."""

    MISSING = "missing"
    DENIED = "access denied"
    NO_CREDENTIALS = "no credentials"
    UNAVAILABLE = "the server does not answer"
    OTHER = "an error"


# By class name, along the class's ancestors: botocore, aiohttp and requests name alike, and
# need not be imported to ask.
_UNAVAILABLE = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "Timeout",
    "TimeoutError",
}
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "SSOError",
    "TokenRetrievalError",
}


# s3fs: EBUSY is a 503 or SlowDown, EREMOTEIO a 500. macOS has no such number.
_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY))


class RefusedError(OSError):
    """A store does not do what it was asked; `code` is its word for why."""

    def __init__(self, number: int, text: str, code: str) -> None:
        super().__init__(number, text)
        self.code = code


def failure_of(error: BaseException) -> Failure:
    """Return what kind of failure an error of a filesystem is."""
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    if isinstance(error, FileNotFoundError):
        return Failure.MISSING
    if isinstance(error, PermissionError):
        return Failure.DENIED
    if names & _NO_CREDENTIALS:
        return Failure.NO_CREDENTIALS
    busy = isinstance(error, OSError) and error.errno in _BUSY
    return Failure.UNAVAILABLE if busy or names & _UNAVAILABLE else Failure.OTHER


def describe_error(error: BaseException) -> str:
    """Return an error's text in one line, without secrets."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(redact(text or type(error).__name__).split())


# The telling part of what urllib3 says of a connection that failed.
_CAUSE = re.compile(r"\[Errno -?\d+\] [^'\")]+|[^'\"(:]*timed out|\[SSL: [^'\"]+")


def cause_of(error: BaseException) -> str:
    """Return why a connection failed, of what urllib3 says; empty where it does not tell."""
    found = _CAUSE.search(str(error))
    return " ".join(redact(found[0]).split()) if found else ""
