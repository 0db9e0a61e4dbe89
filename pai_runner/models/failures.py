"""Failures of storage, as the errors that users see."""

from __future__ import annotations

import errno
import tempfile

from pai_runner.errors import SetupError
from pai_runner.storage.failures import Failure, describe_error, failure_of


def as_setup_error(what: str, error: BaseException) -> SetupError:
    """Return a failure of storage as an error for the user; `what` is the file or directory."""
    if isinstance(error, SetupError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(
            f"{what}: no space is left on a disk of this machine ({describe_error(error)})",
            f"make room there, and in {tempfile.gettempdir()} (TMPDIR)",
        )
    kind = failure_of(error)
    detail = describe_error(error)
    if kind is Failure.MISSING:
        return SetupError(f"{what}: there is no such file or bucket ({detail})", "check the name")
    if kind is Failure.DENIED:
        return SetupError(
            f"{what}: access denied ({detail})",
            "check the credentials, and that they may list, read and write here",
        )
    if kind is Failure.NO_CREDENTIALS:
        return SetupError(f"{what}: no credentials ({detail})", "see `pai doctor` for what is set")
    if kind is Failure.UNAVAILABLE:
        return SetupError(
            f"{what}: the server does not answer ({detail})", "check the host and the network"
        )
    return SetupError(f"{what}: {detail}", "check the location and its options")
