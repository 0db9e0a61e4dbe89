"""With which credentials OSS is spoken to, and how they stay fresh.

First come the keys that the location holds, then those of the user's settings
(`credential_chain`). A role is assumed with them by STS, for the buckets of the job alone; what
STS hands out lives for an hour or less, so it is asked again in time, also in jobs of days.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pai_runner.errors import SetupError, UsageError
from pai_runner.location import ROLE_ARN
from pai_runner.secret import mask_account, redact
from pai_runner.storage.credential_chain import Chain, from_variables
from pai_runner.storage.keys import Credentials, CredentialSource, key_pair
from pai_runner.storage.roles import Role, session_name, session_policy

__all__ = ["CredentialSource", "Credentials", "credential_source", "shared_source"]

# A token is replaced when this is left of its life, or a tenth of it where that is less.
_MARGIN_SECONDS = 300.0
# How often the library is asked for a token whose end it does not tell; it keeps that itself.
_UNKNOWN_END_SECONDS = 60.0
# The pause after a failure, while the old token is still good.
_RETRY_SECONDS = 30.0

# The sources of this process; a source itself notices a fork.
_shared: dict[tuple[object, ...], CredentialSource] = {}
# What a source depends on beside its options.
_SETTINGS = ("ALIBABA_CLOUD_", "OSS_", "PAI_STS_ENDPOINT", "HOME")


def credential_source(
    options: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> CredentialSource:
    """Return the source of credentials for the options of an oss location.

    No request is made before the first `get()`; only then may it turn out that there are no
    credentials. Raises SetupError, or UsageError for a role that is none.
    """
    base = _own_keys(options, environment)
    role = options.get("role_arn", "")
    if not role:
        return base
    if not ROLE_ARN.fullmatch(role):
        raise UsageError(
            f"`{mask_account(redact(role))}` is not a role",
            "give the role's ARN, as RAM's console shows it",
        )
    return RefreshedSource(
        Role(
            arn=role,
            session=session_name(options.get("role_session") or f"pai-{os.getpid()}"),
            policy=session_policy(options.get("role_buckets", "")),
            endpoint=environment.get("PAI_STS_ENDPOINT", ""),
            base=base,
        )
    )


def shared_source(options: Mapping[str, str]) -> CredentialSource:
    """Return the source for `options`, one for all in this process that ask for the same.

    STS limits how often it is asked, and a job's filesystems come and go. Raises as
    `credential_source` does.
    """
    settings = [(name, text) for name, text in os.environ.items() if name.startswith(_SETTINGS)]
    asked = [(name, text) for name, text in options.items() if name != "host"]
    key = (tuple(sorted(asked)), tuple(sorted(settings)))
    found = _shared.get(key)
    # Making one asks nobody; of two threads that make one, both get the first's.
    return found or _shared.setdefault(key, credential_source(options))


def _own_keys(options: Mapping[str, str], environment: Mapping[str, str]) -> CredentialSource:
    given = key_pair(options, "access_key_id", "access_key_secret", ("security_token",))
    if given is not None:
        return FixedSource(given, "the location")
    set_there = from_variables(environment)
    if set_there is not None:
        return FixedSource(*set_there)
    return RefreshedSource(Chain(environment))


# ====== Sources ======


class FixedSource:
    """Credentials that are given and stay."""

    def __init__(self, credentials: Credentials, origin: str) -> None:
        self._credentials = credentials
        self._origin = origin

    @property
    def description(self) -> str:
        return f"access key {self._credentials.shown_id} from {self._origin}"

    def get(self) -> Credentials:
        return self._credentials

    def renew(self, refused: Credentials | None = None) -> bool:
        return False


class Origin(Protocol):
    """Whoever hands out credentials that end."""

    @property
    def description(self) -> str:
        """Whose credentials these are, without anything secret."""

    def credentials(self) -> Credentials:
        """Return credentials, made anew if need be. Raises SetupError."""

    def forget(self) -> None:
        """Keep nothing of what was handed out before, nor of the parent's after a fork."""


@dataclass(frozen=True)
class _Held:
    credentials: Credentials
    refresh_at: float

    def is_good(self, now: float) -> bool:
        return self.credentials.expires is None or now < self.credentials.expires


class RefreshedSource:
    """Credentials that an origin hands out, kept until shortly before they end.

    One thread asks while the others go on with the old ones; where those have ended, they wait
    for it and share its result, be it a failure. While the old ones are good, a failure is only
    said, once, and it is tried again later.
    """

    def __init__(self, origin: Origin, clock: Callable[[], float] = time.time) -> None:
        self._origin = origin
        self._clock = clock
        self._held: _Held | None = None
        self._failure: SetupError | None = None
        self._asked = 0
        self._warned = False
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def description(self) -> str:
        return self._origin.description

    def get(self) -> Credentials:
        asked = self._asked  # read before what it counts
        held = self._held
        now = self._clock()
        if held is not None and now < held.refresh_at:
            return held.credentials
        lock = self._lock_of_this_process()
        if not lock.acquire(blocking=held is None or not held.is_good(now)):
            assert held is not None
            return held.credentials
        try:
            if self._asked == asked or (self._held is None and self._failure is None):
                self._refresh()
            if self._held is not None:
                return self._held.credentials
            assert self._failure is not None
            raise SetupError(self._failure.message, self._failure.hint) from self._failure
        finally:
            lock.release()

    def renew(self, refused: Credentials | None = None) -> bool:
        with self._lock_of_this_process():
            held = self._held
            if held is None or (refused is not None and held.credentials is not refused):
                return True
            if held.credentials.security_token is None:
                return False
            self._held = self._failure = None
            self._origin.forget()
            return True

    def _refresh(self) -> None:
        """Ask anew: afterwards either `_held` is good, or `_failure` says why there is none."""
        try:
            made = self._origin.credentials()
        except SetupError as error:
            self._failure = error
            self._keep_or_drop(error)
        else:
            self._held = _Held(made, self._refresh_time(made))
            self._failure = None
            self._warned = False
        finally:
            self._asked += 1

    def _refresh_time(self, made: Credentials) -> float:
        if made.security_token is None:
            return math.inf
        now = self._clock()
        if made.expires is None:
            return now + _UNKNOWN_END_SECONDS
        return made.expires - min(_MARGIN_SECONDS, (made.expires - now) / 10)

    def _keep_or_drop(self, error: SetupError) -> None:
        now, held = self._clock(), self._held
        if held is None or not held.is_good(now):
            self._held = None
            return
        end = held.credentials.expires or math.inf
        self._held = _Held(held.credentials, min(now + _RETRY_SECONDS, end))
        if not self._warned:
            self._warned = True
            print(f"pai: {redact(str(error))}; the old token is used on", file=sys.stderr)

    def _lock_of_this_process(self) -> threading.Lock:
        """Return the lock, made anew after a fork: a thread of the parent may hold the old one."""
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._process = os.getpid()
            self._origin.forget()
        return self._lock
