"""What failed requests to OSS mean: see `bodies.Dialect`."""

from __future__ import annotations

import errno
from typing import Any

import oss2
import urllib3

from pai_runner.secret import redact
from pai_runner.storage.attempts import TRANSIENT, TRANSIENT_CODES
from pai_runner.storage.bodies import DamagedError, unanswered
from pai_runner.storage.failures import RefusedError


class OSSDialect:
    """What the errors of oss2 and urllib3 mean; `endpoint` is named where nobody answers."""

    failures: tuple[type[Exception], ...] = (
        oss2.exceptions.OssError,
        urllib3.exceptions.HTTPError,
        DamagedError,
        ConnectionError,
        TimeoutError,
    )

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def trouble(self, failure: Exception) -> tuple[bool, int | None]:
        if isinstance(failure, oss2.exceptions.ServerError):
            may_succeed = failure.status in TRANSIENT or failure.code in TRANSIENT_CODES
            return may_succeed, failure.status
        return not isinstance(failure, oss2.exceptions.ClientError), None

    def explained(self, failure: Exception, what: str, tried: str) -> OSError:
        """Return the OSError that stands for a failed request; its text holds no secret."""
        if isinstance(failure, oss2.exceptions.ServerError):
            return _refusal(failure, what, tried)
        if isinstance(failure, DamagedError):
            return OSError(errno.EIO, f"{what}: damaged on its way: {failure}{tried}")
        if isinstance(failure, oss2.exceptions.ClientError):
            return OSError(errno.EINVAL, f"{what}: {redact(str(failure.body))}")
        cause = getattr(failure, "exception", failure)
        return unanswered(what, self._endpoint, cause, tried)


def _refusal(error: Any, what: str, tried: str) -> OSError:
    text = f"{what}: {_told(error)}{tried}"
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
    if error.status in TRANSIENT:
        return OSError(errno.EBUSY, text)
    if error.status // 100 == 3:
        return OSError(errno.EIO, f"{what}: the server redirects elsewhere, which is not followed")
    return RefusedError(errno.EIO, text, error.code)


def _told(error: Any) -> str:
    """Return what a server says of its refusal: code, message, and the number to ask it by."""
    words = [str(error.status), error.code, error.message]
    number = f" (request {error.request_id})" if error.request_id else ""
    return redact(" ".join(word for word in words if word)) + number
