"""OSS's double behind WSGI: requests as they come over the wire, and faults of the way."""

from __future__ import annotations

import base64
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from oss_app import Service
from oss_forms import Answer, Request, error
from oss_store import Refused

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def oss_application(
    service: Service, note: Callable[[Request], None], control: Application
) -> Application:
    """Return OSS as a WSGI application. Requests below `/_control` go to `control`."""

    def application(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environment["RAW_URI"].startswith("/_control"):
            return control(environment, start_response)
        request = request_of(environment)
        note(request)
        number = uuid.uuid4().hex[:24].upper()
        answer = _answer(service, request, number)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        headers["x-oss-request-id"] = number
        start_response(f"{answer.status} .", list(headers.items()))
        return _cut(answer.body, environment) if answer.is_cut else [answer.body]

    return application


def _answer(service: Service, request: Request, number: str) -> Answer:
    settings = service.settings
    time.sleep(settings.slow)
    if settings.redirect:
        target = f"{settings.redirect}/{request.bucket}/{quote(request.key, safe='')}"
        return Answer(307, headers={"Location": target})
    try:
        if settings.take("fail"):
            raise Refused(503, "ServiceUnavailable", "Please try again later.")
        answer = service.answer(request)
        if request.method == "POST" and settings.take("lose"):
            raise Refused(503, "ServiceUnavailable", "Please try again later.")
        return answer
    except Refused as refusal:
        answer = error(request, refusal, number)
    if request.method != "HEAD":
        return answer
    told = {} if settings.bare_heads else {"x-oss-err": base64.b64encode(answer.body).decode()}
    return replace(answer, body=b"", headers={**answer.headers, **told})


def _cut(body: bytes, environment: Mapping[str, Any]) -> Iterator[bytes]:
    """Send the first half of a body, and hang up."""
    yield body[: len(body) // 2]
    environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def request_of(environment: Mapping[str, Any]) -> Request:
    path, _, query = environment["RAW_URI"].partition("?")
    bucket, _, key = path.removeprefix("/").partition("/")
    names = [name for name in environment if name.startswith("HTTP_")]
    headers = {name[5:].replace("_", "-").lower(): environment[name] for name in names}
    headers["content-type"] = environment.get("CONTENT_TYPE") or ""
    if environment.get("wsgi.input_terminated"):
        body = environment["wsgi.input"].read()
    else:
        size = int(environment.get("CONTENT_LENGTH") or 0)
        body = environment["wsgi.input"].read(size)
        if len(body) < size:
            raise ConnectionAbortedError("the sender hung up: nothing of it counts")
    return Request(
        method=environment["REQUEST_METHOD"],
        bucket=unquote(bucket),
        key=unquote(key),
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers={name: value for name, value in headers.items() if value},
        body=body,
    )
