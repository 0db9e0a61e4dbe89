"""What the libraries of the object stores log, without its secrets.

At DEBUG they print whole requests: signatures, tokens, signed URLs. The records are cleaned where
Python makes them, so that it does not matter which handler a script installs, or when.
"""

from __future__ import annotations

import logging
from typing import Any

from pai_runner.secret import redact, redact_known

# Loggers of these names and all below them: `oss2.http`, `botocore.auth`.
_LIBRARIES = frozenset(
    {
        "Tea",
        "aiobotocore",
        "aiohttp",
        "alibabacloud",
        "alibabacloud-tea",
        "alibabacloud_credentials",
        "alibabacloud_tea",
        "boto3",
        "botocore",
        "credentials",
        "darabonba",
        "fsspec",
        "oss2",
        "ossfs",
        "requests",
        "s3fs",
        "s3transfer",
        "urllib3",
    }
)


def redact_library_logs() -> None:
    """Clean the records of the libraries' loggers from now on; a second call changes nothing.

    In the records of other loggers known secrets are masked, and nothing else changes.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _CleanRecords):
        logging.setLogRecordFactory(_CleanRecords(make))


class _CleanRecords:
    """Makes records as `make` does, without secrets."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, name: str, *arguments: Any, **options: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(name, *arguments, **options)
        clean = redact if _is_library(name) else redact_known
        try:
            text = _text(record)
        except Exception:  # an argument cannot be printed; logging says so, and not with it
            return record
        cleaned = clean(text)
        if cleaned != text:
            record.msg, record.args = cleaned, ()
        if record.exc_info and record.exc_info[0] is not None:
            traceback = logging.Formatter().formatException(record.exc_info)
            cleaned = clean(traceback)
            if cleaned != traceback:
                # A formatter prints `exc_text`; without `exc_info` none can make its own.
                record.exc_text, record.exc_info = cleaned, None
        return record


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit, and logging says so with all of them
        return f"{record.msg} {record.args}"


def _is_library(name: str | None) -> bool:
    return name is not None and name.partition(".")[0] in _LIBRARIES
