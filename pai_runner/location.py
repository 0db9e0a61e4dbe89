"""What an oss://, s3://, file:// or plain text means.

A location is read once, from the command; from then on the code passes the `Location` about.
What the script and TensorFlow see is `location.prefix`: a joinable text without a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pai_runner.errors import LocationError, nearest
from pai_runner.secret import MASK, Secret, is_secret_name, mask_account, redact, remember

# Protocols whose paths are `bucket/key`: directories are nothing but beginnings of keys.
OBJECT_STORES = ("oss", "s3", "s3a")

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
    "host": "host",
    "role_arn": "role_arn",
    "id": "access_key_id",
    "access_key_id": "access_key_id",
    "key": "access_key_secret",
    "access_key_secret": "access_key_secret",
    "security_token": "security_token",
}
_OPTIONS = {"s3": _S3_OPTIONS, "s3a": _S3_OPTIONS, "oss": _OSS_OPTIONS}
# How the script gets at a location: TensorFlow reads and writes the bucket itself, or the
# files are copied to a local folder and back.
MOUNTS = ("stream", "stage")
# Here a query is the server's, and part of the address.
_WEB = ("http", "https")

# tensorflow-io's form, oss://bucket\x01id=…\x02key=…\x02host=…/dir: with the control characters
# themselves, as people type them, and as PAI's own unescaping leaves them (`x01`).
_CONTROL_START = re.compile(r"(?:\x01|\\?x01)(?=(?:id|key|host)=)")
_CONTROL_NEXT = re.compile(r"(?:\x02|\\?x02)(?=(?:id|key|host)=)")
# A role of RAM, as its console shows it.
ROLE_ARN = re.compile(r"acs:ram::[0-9]+:role/[\w.@-]+", re.ASCII)
# What a script's oss:// path may carry of a location; any other `?` belongs to a key.
_OSS_QUERY = re.compile(rf"\?(?=(?:{'|'.join(_OSS_OPTIONS)})=)")
# The last option ends where a path goes on that was joined to the text. A role has one `/`,
# a host may have a scheme; in any other value a `/` is written %2F.
_WITH_REST = re.compile(
    r"(?P<pair>role_arn=[^/]*?(?:/|%2F)[^/]*|host=https?://[^/]*|[^/]*)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Location:
    """A place in a file system: its protocol, its path and how to reach it.

    `protocol` is "file" for local ones. `path` is what follows `protocol://` (bucket first), or
    the local path as written. `options` are the query's by their one name, in order of name,
    secrets as `Secret`; so equal locations are equal, however they were written. `mount` is one
    of MOUNTS, or empty where the location does not say.
    """

    protocol: str
    path: str
    options: tuple[tuple[str, str | Secret], ...] = field(default=())
    mount: str = ""

    @classmethod
    def parse(cls, text: str) -> Location:
        """Return the location that `text` names.

        `text` is a plain path, `file://…` or `protocol://bucket/key?option=value&…`, its option
        values percent-decoded. An oss:// location may have its host behind the bucket
        (`oss://bucket.oss-cn-x.aliyuncs.com/dir/`), tensorflow-io's `\x01` form, and a path
        joined to its query, as scripts do that take it for a prefix. Raises LocationError.
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
        rest = _plain_query(match["rest"]) if protocol == "oss" else match["rest"]
        path, options = _split_query(protocol, rest)
        mount = _mount(options)
        if protocol == "oss":
            path = _take_host(path, options)
        if protocol in _OPTIONS and not path.split("/", 1)[0]:
            raise LocationError(
                f"{protocol}:// names no bucket", f"write {protocol}://bucket/directory/"
            )
        return cls(protocol, path, tuple(sorted(options.items())), mount)

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
        return replace(self, path=self.path + "/")

    def plain_options(self) -> dict[str, str]:
        """Return the options with their secrets in clear, for who opens the location."""
        return {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in self.options
        }

    def with_oss_defaults(self, host: str | None, role_arn: str | None) -> Location:
        """Return the location with the endpoint and role of the whole command.

        Its own host wins; a role is for a location that names neither a role nor keys.
        """
        if self.protocol != "oss":
            return self
        options = dict(self.options)
        if host and "host" not in options:
            options["host"] = _plain_host(host)
        if role_arn and not options.keys() & {"role_arn", "access_key_id", "access_key_secret"}:
            options["role_arn"] = role_arn
        return replace(self, options=tuple(sorted(options.items())))

    def __str__(self) -> str:
        """Return the location as it may be shown: its secrets are masked."""
        if not self.options and not self.mount:
            return redact(self.prefix) if self.protocol in _WEB else self.prefix
        shown = [f"{name}={_shown(name, value)}" for name, value in self.options]
        if self.mount:
            shown.append(f"mount={self.mount}")
        return f"{self.prefix}?{'&'.join(shown)}"

    __repr__ = __str__


def plain_path(path: str) -> str:
    """Return a path that a script uses, as `protocol://bucket/key`.

    Scripts written for PAI join names to an oss:// location in any of its forms, query and host
    included. Raises LocationError.
    """
    if not path.startswith("oss://"):
        return path
    rest = path[len("oss://") :]
    carries = "." in rest.partition("/")[0] or _OSS_QUERY.search(rest) or _control_start(rest)
    return Location.parse(path).prefix if carries else path


def parse_list(text: str) -> tuple[Location, ...]:
    """Return the locations of a comma-separated list, as `buckets` holds one.

    Raises LocationError.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if "://" not in part and _OSS_QUERY.search(part):
            raise LocationError(
                f"`{redact(part)}` is not a location",
                "a comma separates two locations; a path with a comma in it cannot be given",
            )
    return tuple(map(Location.parse, parts))


_Options = dict[str, str | Secret]


def _split_query(protocol: str, rest: str) -> tuple[str, _Options]:
    found = _QUERY.search(rest)
    if found is None:
        return rest, {}
    from urllib.parse import unquote  # most locations have no query, and it loads slowly

    path, options = rest[: found.start()], {}
    *pairs, last = rest[found.end() :].split("&")
    if protocol == "oss":
        last, joined = _split_rest(last)
        path = f"{path.rstrip('/')}/{joined.lstrip('/')}" if joined else path
    for pair in (*pairs, last):
        name, _, value = pair.partition("=")
        name = _option_name(protocol, name)
        secret = is_secret_name(name, in_query=True)
        options[name] = Secret(unquote(value)) if secret else unquote(value)
    return path, options


def _plain_query(rest: str) -> str:
    """Return an oss:// text with tensorflow-io's control characters as a query."""
    found = _control_start(rest)
    if found is None:
        return rest
    return f"{rest[: found.start()]}?{_CONTROL_NEXT.sub('&', rest[found.end() :])}"


def _control_start(rest: str) -> re.Match[str] | None:
    """Return where the options of tensorflow-io's form begin: behind the bucket, or nowhere."""
    return _CONTROL_START.search(rest.partition("/")[0])


def _split_rest(pair: str) -> tuple[str, str]:
    """Return the last option of an oss:// query, and the path that was joined to it."""
    found = _WITH_REST.fullmatch(pair)
    assert found is not None
    return found["pair"], found["rest"]


def _take_host(path: str, options: _Options) -> str:
    """Return an oss:// path whose bucket is a bare name; a host behind it becomes an option.

    A bucket's name has no dot. A host in the query was given on purpose, and wins.
    """
    authority, slash, key = path.partition("/")
    bucket, dot, host = authority.partition(".")
    if dot:
        options.setdefault("host", host)
    if "host" in options:
        options["host"] = _plain_host(str(options["host"]))
    return f"{bucket}{slash}{key}"


def _plain_host(host: str) -> str:
    """Return a host as it is compared: https is what is meant without a scheme."""
    return host.strip().rstrip("/").lower().removeprefix("https://")


def _mount(options: _Options) -> str:
    """Take the mount mode out of `options` and return it. Raises LocationError."""
    mount = options.pop("mount", "")
    if mount and mount not in MOUNTS:
        raise LocationError(f"mount={mount} is not a mount mode", f"one of {', '.join(MOUNTS)}")
    return str(mount)


def _option_name(protocol: str, name: str) -> str:
    known = _OPTIONS.get(protocol)
    if name == "mount":
        return name
    if known is None or name in known:
        return known[name] if known else name
    raise LocationError(
        f"{protocol}:// has no option `{name}`" + _did_you_mean(name, known),
        f"valid options: {', '.join(sorted((*known, 'mount')))}",
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
    shown = redact(text).split("?")[0]
    raise LocationError(
        f"`{shown}` is not a location",
        f"write {match[1]}{slashes}{shown[match.start('rest') :]}",
    )


def _shown(name: str, value: str | Secret) -> str:
    if isinstance(value, Secret):
        return MASK
    return mask_account(value) if name == "role_arn" else value
