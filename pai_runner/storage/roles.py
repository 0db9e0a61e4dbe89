"""A RAM role, assumed by STS: what the session may do, and what a refusal means."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.secret import mask_account
from pai_runner.storage.alibaba import (
    forget_connections,
    from_library,
    import_library,
    reason_of,
    to_library,
)
from pai_runner.storage.keys import Credentials, CredentialSource

# STS takes no longer policy or session name.
_LONGEST_POLICY = 2048
_LONGEST_NAME = 64
_REFUSED = re.compile(r"http_code: (?P<status>\d+), result: (?P<body>\{.*\})", re.DOTALL)
_KEY_ERRORS = ("InvalidAccessKeyId", "InvalidSecurityToken", "SignatureDoesNotMatch")
_OWN_KEYS = "with --role ignore (or PAI_ROLE=ignore) your own keys are used instead"


@dataclass(frozen=True)
class Role:
    """A role to assume with the credentials of `base`; `endpoint` "" is STS's usual one."""

    arn: str
    session: str
    policy: str | None
    endpoint: str
    base: CredentialSource

    @property
    def description(self) -> str:
        return f"{mask_account(self.arn)}, assumed by {self.base.description}"

    def credentials(self) -> Credentials:
        """Assume the role and return its credentials. Raises SetupError."""
        caller = self.base.get()
        try:
            try:
                return self._assume(caller)
            except Exception as error:
                if not (_is_about_token(error) and self.base.renew(caller)):
                    raise
            return self._assume(self.base.get())
        except SetupError:
            raise
        except Exception as error:
            raise self._failure(error) from None  # the library's text holds the signed URL

    def forget(self) -> None:
        """Use no connection of before; each call asks for new credentials anyway."""
        forget_connections()

    def _assume(self, caller: Credentials) -> Credentials:
        # A provider for each call: its cache would ask again at every use where a token lives
        # for less than 15 minutes.
        provider = import_library().provider.RamRoleArnCredentialsProvider(
            credentials_provider=to_library(caller),
            role_arn=self.arn,
            role_session_name=self.session,
            policy=self.policy,
            sts_endpoint=self.endpoint or None,
        )
        return from_library(provider.get_credentials())

    def _failure(self, error: Exception) -> SetupError:
        role = mask_account(self.arn)
        answer = _refusal(error)
        if answer is None:
            return SetupError(
                f"{role}: STS does not answer ({reason_of(error)}), so the role cannot be assumed",
                f"check the network, or PAI_STS_ENDPOINT where it is set; {_OWN_KEYS}",
            )
        code = str(answer.get("Code"))
        wrong = "the access key" if code.startswith(_KEY_ERRORS) else "the role's name and trust"
        return SetupError(
            f"{role}: STS refuses the role to {self.base.description} "
            f"({code}; {_without_request(str(answer.get('Message')))})",
            f"check {wrong}; {_OWN_KEYS}",
        )


def _without_request(message: str) -> str:
    """Return an answer's text without the request that STS repeats, token included."""
    return re.split(r"[;,.]?\s*server string to sign", message, flags=re.IGNORECASE)[0]


def _is_about_token(error: Exception) -> bool:
    """Tell whether STS refused the caller's own session token."""
    answer = _refusal(error)
    return answer is not None and str(answer.get("Code")).startswith("InvalidSecurityToken")


def _refusal(error: Exception) -> dict[str, Any] | None:
    """Return STS's own words if it refused (a status of 4xx), else None."""
    found = _REFUSED.search(str(error))
    if found is None or not found["status"].startswith("4"):
        return None
    try:
        answer: dict[str, Any] = json.loads(found["body"])
    except ValueError:
        return None
    return answer


def session_name(text: str) -> str:
    """Return `text` as a session's name: up to 64 characters of [A-Za-z0-9.@_-], 2 at least."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "-", text)[:_LONGEST_NAME].ljust(2, "-")


def session_policy(buckets: str) -> str | None:
    """Return a policy that allows these buckets (a comma list) alone; None if there are none.

    It holds no blank: the library signs one in a way that STS refuses. Raises SetupError when
    it is longer than STS takes.
    """
    names = sorted({name.strip() for name in buckets.split(",")} - {""})
    if not names:
        return None
    places = [f"acs:oss:*:*:{name}{end}" for name in names for end in ("", "/*")]
    statement = {"Effect": "Allow", "Action": "oss:*", "Resource": places}
    policy = json.dumps({"Version": "1", "Statement": [statement]}, separators=(",", ":"))
    if len(policy) > _LONGEST_POLICY:
        raise SetupError(
            f"the role's session policy for {len(names)} buckets has {len(policy)} characters, "
            f"and STS takes {_LONGEST_POLICY}",
            f"use fewer buckets in one job, or shorter names; {_OWN_KEYS}",
        )
    return policy
