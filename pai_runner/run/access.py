"""How the locations of one job are opened: with which role, limited to which buckets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pai_runner.errors import SetupError, UsageError
from pai_runner.location import OBJECT_STORES, ROLE_ARN, Location
from pai_runner.secret import mask_account

ROLES = ("assume", "ignore")

_WEB = ("http", "https")
# Of other protocols some have buckets, too, and no name server is to be asked for those.
_LIKE_A_HOST = re.compile(r"[.:]|^\d")


@dataclass(frozen=True)
class Access:
    """What a job may use: `session` names it to Alibaba's STS, `buckets` are its OSS buckets.

    With `ignores_roles` the user's own keys open what a role would open.
    """

    session: str
    buckets: tuple[str, ...]
    ignores_roles: bool = False

    @classmethod
    def of(cls, locations: Iterable[Location], job_id: str, ignores_roles: bool) -> Access:
        """Return the access of the job that names `locations`."""
        buckets = {location.bucket for location in locations if location.protocol == "oss"}
        return cls(f"pai-{job_id}", tuple(sorted(buckets)), ignores_roles)

    def options(self, location: Location) -> dict[str, str]:
        """Return the options for a location's filesystem, secrets in clear.

        Raises UsageError for a role that is none.
        """
        options = location.plain_options()
        if "role_arn" not in options:
            return options
        if self.ignores_roles:
            del options["role_arn"]
            return options
        if not ROLE_ARN.fullmatch(options["role_arn"]):
            raise UsageError(
                f"{location}: `{mask_account(options['role_arn'])}` is not a role",
                "give the role's ARN, as RAM's console shows it; with --role ignore your own keys "
                "are used instead",
            )
        return {**options, "role_session": self.session, "role_buckets": ",".join(self.buckets)}

    def notices(self, locations: Iterable[Location]) -> tuple[str, ...]:
        """Return a line for each role that is not assumed."""
        roles = {str(dict(location.options).get("role_arn", "")) for location in locations}
        if not self.ignores_roles:
            return ()
        return tuple(
            f"the role {mask_account(role)} is ignored: your own keys are used"
            for role in sorted(filter(None, roles))
        )


def ignores_roles(role: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell what `--role`, or else PAI_ROLE, says. Raises UsageError for what is neither.

    A script finds the name of its own role in PAI_ROLE; a `pai` that it starts is not to take
    that for an order.
    """
    word = role or environment.get("PAI_ROLE") or "assume"
    if word not in ROLES and (role is not None or "PAI_ROLE_DIR" not in environment):
        raise UsageError(
            f"{'--role' if role else 'PAI_ROLE='}{' ' if role else ''}{word}: no such choice",
            "assume: locations are opened with the role that they name; ignore: with your own keys",
        )
    return word == "ignore"


def check_servers(locations: Iterable[Location]) -> None:
    """Check that the servers which the command names may be spoken to.

    Those of object stores must be known, as they get credentials; none may be a metadata
    service. Raises SetupError.
    """
    for location in locations:
        try:
            _check_servers(location)
        except SetupError as error:
            raise SetupError(f"{location}: {error.message}", error.hint) from error


def _check_servers(location: Location) -> None:
    if location.is_local:
        return
    # Here, not above: a job on local folders needs none of it.
    from urllib.parse import urlsplit

    from pai_runner.storage.hosts import check_endpoint, refuse_metadata

    for name, text in location.plain_options().items():
        if name == "endpoint_url" or (name, location.protocol) == ("host", "oss"):
            check_endpoint(text, f"{name}=")
        elif name == "host":
            refuse_metadata(text)
    authority = urlsplit(location.prefix)
    if location.protocol in _WEB or (
        location.protocol not in OBJECT_STORES and _LIKE_A_HOST.search(authority.netloc)
    ):
        refuse_metadata(authority.hostname or "")
