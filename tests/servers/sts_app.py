"""Alibaba's STS, as far as AssumeRole and AssumeRoleWithOIDC go: a WSGI application.

Signatures, parameters and errors follow Alibaba's documentation of its RPC interface (Version
2015-04-01). `Tokens` is what a server of OSS asks about the credentials that were handed out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, quote

_ROLE = re.compile(r"acs:ram::\d+:role/[\w.@-]+")
_SESSION_NAME = re.compile(r"[A-Za-z0-9.@_-]{2,64}")
_LONGEST_POLICY = 2048
_SECONDS = range(900, 43201)

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass(frozen=True)
class Call:
    """A request as the server understood it. `answer` is the error's code, or "OK"."""

    action: str
    caller: str
    role_arn: str
    session_name: str
    policy: str | None
    answer: str


@dataclass
class _Token:
    secret: str
    token: str
    policy: dict[str, Any] | None
    expires: float
    uses_left: int | None


@dataclass
class Tokens:
    """The credentials that were handed out.

    `lifetime` replaces the seconds that are asked for; `uses` is after how many uses a token
    counts as expired. Both hold for tokens issued from then on.
    """

    lifetime: int | None = None
    uses: int | None = None
    calls: list[Call] = field(default_factory=list)
    _issued: dict[str, _Token] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def issue(
        self, role_arn: str, session_name: str, policy: str | None, seconds: int
    ) -> dict[str, str]:
        """Return new credentials, as `Credentials` in STS's answer."""
        life = seconds if self.lifetime is None else self.lifetime
        expires = int(time.time()) + life
        made = _Token(
            secret=secrets.token_urlsafe(33),
            token="CAIS" + secrets.token_urlsafe(200),
            policy=None if policy is None else json.loads(policy),
            expires=expires,
            uses_left=self.uses,
        )
        access_key_id = "STS.N" + secrets.token_hex(12)
        with self._lock:
            self._issued[access_key_id] = made
        return {
            "AccessKeyId": access_key_id,
            "AccessKeySecret": made.secret,
            "SecurityToken": made.token,
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires)),
        }

    def given_out(self) -> list[str]:
        """Return every id, secret and token that was handed out."""
        return [
            text for name, one in self._issued.items() for text in (name, one.secret, one.token)
        ]

    def secret_of(self, access_key_id: str) -> str | None:
        """Return the secret of a key id that was handed out."""
        found = self._issued.get(access_key_id)
        return None if found is None else found.secret

    def state(self, access_key_id: str, token: str | None) -> str:
        """Return "valid", "expired" or "unknown"; it counts as a use."""
        with self._lock:
            found = self._issued.get(access_key_id)
            if found is None or found.token != token:
                return "unknown"
            if found.expires <= time.time() or found.uses_left == 0:
                return "expired"
            if found.uses_left is not None:
                found.uses_left -= 1
            return "valid"

    def allows(self, access_key_id: str, bucket: str) -> bool:
        """Tell whether a token's session policy lets it at a bucket."""
        found = self._issued.get(access_key_id)
        if found is None:
            return False
        if found.policy is None:
            return True
        return any(
            fnmatchcase(bucket, resource.split(":", 4)[4].partition("/")[0])
            for statement in found.policy["Statement"]
            if statement["Effect"] == "Allow" and _has_oss(statement["Action"])
            for resource in _listed(statement["Resource"])
            if resource.startswith("acs:oss:")
        )

    def expire_all(self) -> None:
        """Make every token that was handed out expired."""
        with self._lock:
            for one in self._issued.values():
                one.expires = 0

    def note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)


def _has_oss(action: str | list[str]) -> bool:
    return any(one in ("*", "oss:*") for one in _listed(action))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# ====== The application ======


class _Refused(Exception):
    def __init__(self, status: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def sts_application(
    tokens: Tokens,
    callers: Mapping[str, str],
    refused: Container[str] = (),
    missing: Container[str] = (),
    oidc_tokens: Container[str] = (),
) -> Application:
    """Return STS for `callers` (key ids and their secrets).

    Roles in `refused` may not be assumed, those in `missing` do not exist; `oidc_tokens` are
    the tokens of an identity provider that are accepted. Every call is noted in `tokens.calls`.
    """

    def answer(query: Mapping[str, str], method: str) -> dict[str, Any]:
        action = query.get("Action", "")
        if action == "AssumeRole":
            _check_caller(query, method, tokens, callers)
        elif action != "AssumeRoleWithOIDC":
            raise _Refused("404 Not Found", "InvalidAction.NotFound", "no such action")
        elif query.get("OIDCToken") not in oidc_tokens:
            raise _Refused("400 Bad Request", "AuthenticationFail.OIDCToken.Invalid", "bad token")
        _check_request(query)
        role = query["RoleArn"]
        if role in missing:
            raise _Refused("404 Not Found", "EntityNotExist.Role", "The role not exists.")
        if role in refused:
            raise _Refused(
                "403 Forbidden",
                "NoPermission",
                "You are not authorized to do this action. You should be authorized by RAM.",
            )
        session = query["RoleSessionName"]
        seconds = int(query.get("DurationSeconds", "3600"))
        return {
            "RequestId": _request_id(),
            "AssumedRoleUser": {
                "Arn": f"{role.replace(':role/', ':assumed-role/')}/{session}",
                "AssumedRoleId": f"344584339364951186:{session}",
            },
            "Credentials": tokens.issue(role, session, query.get("Policy"), seconds),
        }

    def application(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environment["REQUEST_METHOD"]
        query = _parameters(environment)
        status, code = "200 OK", "OK"
        try:
            body = answer(query, method)
        except _Refused as refusal:
            status, code = refusal.status, refusal.code
            body = _error(environment.get("HTTP_HOST", ""), refusal)
        tokens.note(
            Call(
                action=query.get("Action", ""),
                caller=query.get("AccessKeyId", ""),
                role_arn=query.get("RoleArn", ""),
                session_name=query.get("RoleSessionName", ""),
                policy=query.get("Policy"),
                answer=code,
            )
        )
        content = json.dumps(body).encode()
        start_response(
            status,
            [
                ("Content-Type", "application/json;charset=utf-8"),
                ("Content-Length", str(len(content))),
            ],
        )
        return [content]

    return application


@contextmanager
def served(application: Application, tls: tuple[str, str] | None = None) -> Iterator[str]:
    """Yield the URL at which `application` answers, on a thread of this process.

    `tls`: the files of a certificate and its key; the URL then is to be written with https.
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Say nothing: the requests are noted elsewhere."""

    server = make_server(
        "127.0.0.1", 0, application, threaded=True, request_handler=Quiet, ssl_context=tls
    )
    # The argument is how often it looks whether it is to stop.
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parameters(environment: Mapping[str, Any]) -> dict[str, str]:
    text = environment.get("QUERY_STRING", "")
    length = int(environment.get("CONTENT_LENGTH") or 0)
    body = environment["wsgi.input"].read(length).decode() if length else ""
    return dict(parse_qsl(f"{text}&{body}", keep_blank_values=True))


def _check_caller(
    query: Mapping[str, str], method: str, tokens: Tokens, callers: Mapping[str, str]
) -> None:
    """Check the signature (HMAC-SHA1, version 1.0), and the token of a caller that has one."""
    caller = query.get("AccessKeyId", "")
    secret = callers.get(caller) or tokens.secret_of(caller)
    if secret is None:
        raise _Refused(
            "404 Not Found", "InvalidAccessKeyId.NotFound", "Specified access key is not found."
        )
    signed = {name: value for name, value in query.items() if name != "Signature"}
    if not hmac.compare_digest(_signature(method, signed, secret), query.get("Signature", "")):
        raise _Refused(
            "400 Bad Request",
            "SignatureDoesNotMatch",
            "Specified signature is not matched with our calculation.",
        )
    if caller not in callers:
        state = tokens.state(caller, query.get("SecurityToken"))
        if state != "valid":
            code = "Expired" if state == "expired" else "Malformed"
            raise _Refused(
                "400 Bad Request",
                f"InvalidSecurityToken.{code}",
                f"Specified SecurityToken is {code.lower()}.",
            )


def _signature(method: str, query: Mapping[str, str], secret: str) -> str:
    pairs = "&".join(f"{_encoded(name)}={_encoded(query[name])}" for name in sorted(query))
    text = f"{method}&%2F&{_encoded(pairs)}"
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _check_request(query: Mapping[str, str]) -> None:
    if query.get("Version") != "2015-04-01":
        raise _Refused("400 Bad Request", "InvalidVersion", "Specified version is not valid.")
    if not _ROLE.fullmatch(query.get("RoleArn", "")):
        raise _invalid("RoleArn")
    if not _SESSION_NAME.fullmatch(query.get("RoleSessionName", "")):
        raise _invalid("RoleSessionName")
    seconds = query.get("DurationSeconds", "3600")
    if not seconds.isdigit() or int(seconds) not in _SECONDS:
        raise _invalid("DurationSeconds")
    policy = query.get("Policy")
    if policy is not None and not _is_policy(policy):
        raise _invalid("Policy")


def _is_policy(text: str) -> bool:
    if len(text) > _LONGEST_POLICY:
        return False
    try:
        policy = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(policy, dict)
        and policy.get("Version") == "1"
        and isinstance(policy.get("Statement"), list)
        and all({"Effect", "Action", "Resource"} <= set(one) for one in policy["Statement"])
    )


def _invalid(name: str) -> _Refused:
    return _Refused(
        "400 Bad Request", f"InvalidParameter.{name}", f"The parameter {name} is wrongly formed."
    )


def _error(host: str, refusal: _Refused) -> dict[str, str]:
    request_id = _request_id()
    return {
        "RequestId": request_id,
        "Message": str(refusal),
        "Recommend": f"https://api.aliyun.com/troubleshoot?q={refusal.code}&requestId={request_id}",
        "HostId": host,
        "Code": refusal.code,
    }


def _request_id() -> str:
    return str(uuid.uuid4()).upper()
