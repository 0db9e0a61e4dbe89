"""What an oss://, s3://, file:// or plain text means.

A location is read once, from the command; from then on the code passes the `Location` about.
What the script and TensorFlow see is `location.prefix`: a joinable text without a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pai_runner.errors import LocationError, nearest
from pai_runner.secret import MASK, Secret, is_secret_name, mask_account, redact, remember

_SCHEME = re.compile(r"^(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)$", re.DOTALL)
# A query starts at a `?` that a `name=` follows, so that a key may hold a lone `?`.
_QUERY = re.compile(r"\?(?=[A-Za-z_][\w.-]*=)")

# The query options of the protocols that have a fixed set; any other protocol passes its
# options to the fsspec filesystem as they are.
_S3_OPTIONS = {
    "endpoint_url": "endpoint_url",
    "region": "region",
    "profile": "profile",
    "anon": "anon",
    "key": "key",
    "access_key_id": "key",
    "secret": "secret",
    "access_key_secret": "secret",
    "secret_access_key": "secret",
    "token": "token",
    "security_token": "token",
    "session_token": "token",
}
_OSS_OPTIONS = {
    name: name
    for name in (
        "host",
        "role_arn",
        "id",
        "key",
        "access_key_id",
        "access_key_secret",
        "security_token",
    )
}
_OPTIONS = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS, "oss": _OSS_OPTIONS}
# Here a query is the server's, and part of the address.
_WEB = ("http", "https")


@dataclass(frozen=True)
class Location:
    """A place in a file system: its protocol, its path and how to reach it.

    `protocol` is "file" for local ones. `path` is what follows `protocol://` (bucket first), or
    the local path as written. `options` are the query's, secrets as `Secret`.
    """

    protocol: str
    path: str
    options: tuple[tuple[str, str | Secret], ...] = field(default=())

    @classmethod
    def parse(cls, text: str) -> Location:
        """Return the location that `text` names.

        `text` is a plain path, `file://…` or `protocol://bucket/key?option=value&…`, its option
        values percent-decoded. Raises LocationError.
        """
        if not text.strip():
            raise LocationError("an empty location", "give a path, or for example s3://bucket/dir/")
        match = _SCHEME.match(text)
        if match is None:
            _refuse_almost_scheme(text)
            return cls("file", text)
        protocol = match["protocol"].lower()
        _refuse_user(protocol, match["rest"])
        if protocol in _WEB:
            remember(match["rest"].partition("?")[2])  # a signature, more often than not
        if protocol == "file" or protocol in _WEB:
            return cls(protocol, match["rest"])
        path, options = _split_query(protocol, match["rest"])
        if protocol in _OPTIONS and not path.split("/", 1)[0]:
            raise LocationError(
                f"{protocol}:// names no bucket", f"write {protocol}://bucket/directory/"
            )
        return cls(protocol, path, options)

    @property
    def is_local(self) -> bool:
        return self.protocol == "file"

    @property
    def prefix(self) -> str:
        """The text that a script sees: no query, no secret; a local path stays a plain path."""
        return self.path if self.is_local else f"{self.protocol}://{self.path}"

    @property
    def bucket(self) -> str:
        """The first part of the path, for protocols that have buckets."""
        return "" if self.is_local else self.path.split("/", 1)[0]

    @property
    def name(self) -> str:
        """The last part of the path, for example `train.py`."""
        path = self.path.partition("?")[0] if self.protocol in _WEB else self.path
        return path.rstrip("/").rsplit("/", 1)[-1]

    def directory(self) -> Location:
        """Return the same location with a final `/`, so that names can be joined to it."""
        if self.path.endswith("/"):
            return self
        return Location(self.protocol, self.path + "/", self.options)

    def __str__(self) -> str:
        """Return the location as it may be shown: its secrets are masked."""
        if not self.options:
            return redact(self.prefix) if self.protocol in _WEB else self.prefix
        shown = "&".join(f"{name}={_shown(name, value)}" for name, value in self.options)
        return f"{self.prefix}?{shown}"

    __repr__ = __str__


def parse_list(text: str) -> tuple[Location, ...]:
    """Return the locations of a comma-separated list, as `buckets` holds one.

    Raises LocationError.
    """
    return tuple(Location.parse(part.strip()) for part in text.split(",") if part.strip())


def _split_query(protocol: str, rest: str) -> tuple[str, tuple[tuple[str, str | Secret], ...]]:
    found = _QUERY.search(rest)
    if found is None:
        return rest, ()
    from urllib.parse import unquote  # most locations have no query, and it loads slowly

    options: dict[str, str | Secret] = {}
    for pair in rest[found.end() :].split("&"):
        name, _, value = pair.partition("=")
        name = _option_name(protocol, name)
        secret = is_secret_name(name, in_query=True)
        options[name] = Secret(unquote(value)) if secret else unquote(value)
    return rest[: found.start()], tuple(options.items())


def _option_name(protocol: str, name: str) -> str:
    known = _OPTIONS.get(protocol)
    if known is None or name in known:
        return known[name] if known else name
    raise LocationError(
        f"{protocol}:// has no option `{name}`" + _did_you_mean(name, known),
        f"valid options: {', '.join(sorted(known))}",
    )


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    close = nearest(name, valid)
    return f"; did you mean `{close[0]}`?" if close else ""


def _refuse_user(protocol: str, rest: str) -> None:
    """Refuse `user:password@host`: such an address is shown, logged and kept in many places."""
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user and protocol != "file":
        remember(user.partition(":")[2])
        raise LocationError(
            f"{protocol}://: a password does not belong into an address",
            f"write {protocol}://host/…?username=…&password=… where the protocol takes them",
        )


def _refuse_almost_scheme(text: str) -> None:
    """Refuse `oss:/b` and `oss//b`: they would silently become local folders."""
    match = re.match(r"^(oss|s3|file|gs|hdfs|memory)(:/|//)/*(?P<rest>[^?]*)", text)
    if match is None:
        return
    slashes = ":///" if match[1] == "file" else "://"
    raise LocationError(
        f"`{text.split('?')[0]}` is not a location", f"write {match[1]}{slashes}{match['rest']}"
    )


def _shown(name: str, value: str | Secret) -> str:
    if isinstance(value, Secret):
        return MASK
    return mask_account(value) if name == "role_arn" else value
