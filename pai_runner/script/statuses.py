"""From a Python exception to TensorFlow's status: a code and a text without secrets."""

from __future__ import annotations

import errno
from enum import IntEnum

from pai_runner.storage.failures import Failure, describe_error, failure_of


class Code(IntEnum):
    """TensorFlow's status codes (TF_Code in tensorflow/c/tf_status.h) that are used here."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


# As TensorFlow's local file system does (absl::ErrnoToStatusCode).
_BY_ERRNO = {
    errno.EBADF: Code.FAILED_PRECONDITION,
    errno.EDQUOT: Code.RESOURCE_EXHAUSTED,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.EFBIG: Code.OUT_OF_RANGE,
    errno.EINVAL: Code.INVALID_ARGUMENT,
    errno.EISDIR: Code.FAILED_PRECONDITION,
    errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENAMETOOLONG: Code.INVALID_ARGUMENT,
    errno.ESTALE: Code.FAILED_PRECONDITION,
    errno.ENFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
    errno.ENOSYS: Code.UNIMPLEMENTED,
    errno.ENOTDIR: Code.FAILED_PRECONDITION,
    errno.ENOTEMPTY: Code.FAILED_PRECONDITION,
}

_BY_CLASS: tuple[tuple[type[BaseException], Code], ...] = (
    (FileExistsError, Code.ALREADY_EXISTS),
    (IsADirectoryError, Code.FAILED_PRECONDITION),
    (NotADirectoryError, Code.FAILED_PRECONDITION),
    (NotImplementedError, Code.UNIMPLEMENTED),
    (MemoryError, Code.RESOURCE_EXHAUSTED),
)

_BY_FAILURE = {
    Failure.MISSING: Code.NOT_FOUND,
    Failure.DENIED: Code.PERMISSION_DENIED,
    Failure.NO_CREDENTIALS: Code.PERMISSION_DENIED,
    Failure.UNAVAILABLE: Code.UNAVAILABLE,
}


def code_of(error: BaseException) -> Code:
    """Return the code of an exception; INTERNAL where nothing says more."""
    if not isinstance(error, Exception):  # KeyboardInterrupt, SystemExit
        return Code.CANCELLED
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    failure = _BY_FAILURE.get(failure_of(error))
    if failure is not None:
        return failure
    number = error.errno if isinstance(error, OSError) else None
    return _BY_ERRNO.get(number, Code.INTERNAL) if number is not None else Code.INTERNAL


def message_of(error: BaseException, path: str = "") -> str:
    """Return `path; what is wrong`, the form of TensorFlow's own messages."""
    text = describe_error(error)
    if not isinstance(error, OSError):
        text = f"{type(error).__name__}: {text}"
    return f"{path}; {text}" if path else text
