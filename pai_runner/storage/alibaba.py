"""alibabacloud-credentials, held at arm's length.

It is imported late (0.4 s). Its loggers print whole signed URLs on handlers of their own, and
its errors hold them; both are taken away here.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.secret import redact
from pai_runner.storage.failures import cause_of
from pai_runner.storage.keys import Credentials

_LOGGERS = ("credentials", "alibabacloud-tea")
_URL = re.compile(r"with url: \S+")


def import_library() -> Any:
    """Return the module `alibabacloud_credentials`, its log silent. Raises SetupError."""
    try:
        import alibabacloud_credentials.provider
    except ImportError as error:
        raise SetupError(
            f"Alibaba's credentials need the package alibabacloud-credentials ({error})",
            "pip install alibabacloud-credentials",
        ) from error
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            if type(handler) is logging.StreamHandler and handler.formatter is None:
                logger.removeHandler(handler)
        # Without a handler Python would print the warnings itself; what failed is raised anyway.
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    return alibabacloud_credentials


def from_library(made: Any) -> Credentials:
    """Return the library's credentials as ours."""
    expires = made.get_expiration()
    return Credentials(
        access_key_id=made.get_access_key_id(),
        access_key_secret=made.get_access_key_secret(),
        security_token=made.get_security_token() or None,
        expires=None if expires is None else float(expires),
    )


def to_library(credentials: Credentials) -> Any:
    """Return a provider of the library that always gives these credentials."""
    providers = import_library().provider
    if credentials.security_token is None:
        return providers.StaticAKCredentialsProvider(
            access_key_id=credentials.access_key_id,
            access_key_secret=credentials.access_key_secret,
        )
    return providers.StaticSTSCredentialsProvider(
        access_key_id=credentials.access_key_id,
        access_key_secret=credentials.access_key_secret,
        security_token=credentials.security_token,
    )


def reason_of(error: Exception) -> str:
    """Return what an error of the library says, in one line and without its URL."""
    return cause_of(error) or " ".join(redact(_URL.sub("", str(error))).split())


def forget_connections() -> None:
    """Drop the connections that the library keeps: after a fork they are the parent's as well."""
    core = sys.modules.get("Tea.core")
    if core is not None:
        core.TeaCore._sessions.clear()
