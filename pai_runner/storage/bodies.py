"""Ranges of objects on their way into memory: what `Objects.read_into` does for every store."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import Any, Protocol, TypeVar

import urllib3

from pai_runner.secret import redact
from pai_runner.storage.attempts import Attempts
from pai_runner.storage.failures import cause_of
from pai_runner.storage.objects import Described

_T = TypeVar("_T")

# A transfer that breaks goes on after the last piece of so many bytes that came whole.
_PIECE = 1024 * 1024
# Sent at once: each piece has the time that a connection may be stuck.
_SENT_AT_ONCE = 256 * 1024
# RFC 9110, section 14.4. Without the whole's size an object could seem to end with the range.
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class DamagedError(Exception):
    """What arrived is not what was sent: its length or its checksum is another."""


def unanswered(what: str, server: str, cause: BaseException, tried: str) -> OSError:
    """Return the error to be raised where a server has not answered a request about `what`."""
    told = cause_of(cause) or redact(str(cause))
    text = f"{what}: {server} does not answer: {told}{tried}"
    if any("Timeout" in ancestor.__name__ for ancestor in type(cause).__mro__):
        return TimeoutError(errno.ETIMEDOUT, text)
    return ConnectionError(errno.ECONNABORTED, text)


class Dialect(Protocol):
    """What the failed requests of one kind of store mean."""

    failures: tuple[type[Exception], ...]

    def trouble(self, failure: Exception) -> tuple[bool, int | None]:
        """Return whether the request may succeed later, and the status that was answered."""

    def explained(self, failure: Exception, what: str, tried: str) -> OSError:
        """Return the error to be raised for a request about the object `what`."""


def repeated(
    what: str, request: Callable[[], _T], dialect: Dialect, closing: threading.Event
) -> _T:
    """Return what `request` returns, made as often as `attempts` finds right.

    Raises what the dialect makes of its last failure.
    """
    attempts = Attempts(closing)
    while True:
        try:
            return request()
        except dialect.failures as error:
            # Without its frames, which would keep in memory what was sent until Python's collector
            # comes by.
            failure = error.with_traceback(None)
        is_transient, status = dialect.trouble(failure)
        if not is_transient or not attempts.may_repeat(status):
            raise dialect.explained(failure, what, str(attempts)) from None


class Body:
    """The answer to a request for a range of the object `described`."""

    def __init__(self, response: urllib3.BaseHTTPResponse | None, described: Described) -> None:
        """Without a response there is nothing to come: the object ends before the range."""
        self.described = described
        self.count = 0
        self._response = response

    @classmethod
    def of(cls, answer: urllib3.BaseHTTPResponse, start: int, etag: str, modified_ns: int) -> Body:
        """Return the answer to a GET of the bytes from `start` on.

        Raises DamagedError and what the connection raises; the answer is closed then.
        """
        try:
            size = size_told(answer.status, answer.headers, start)
            body = cls(answer, Described(size, etag, modified_ns))
            if answer.status == 200:  # a server that knows no ranges sends the whole
                body._skip(min(start, size))
        except BaseException:
            answer.close()
            raise
        return body

    def _skip(self, count: int) -> None:
        left = memoryview(bytearray(min(count, _PIECE)))
        while count:
            count -= self._read(left[: min(count, len(left))])

    def fill(self, into: memoryview, closing: threading.Event) -> None:
        """Fill `into`; `count` is how many bytes have come, also where the transfer breaks.

        Raises what the connection raises, and ConnectionError where the answer ends early.
        """
        while self.count < len(into):
            self.count += self._read(into[self.count : self.count + _PIECE])
            if closing.is_set():
                raise ConnectionAbortedError(errno.ECONNABORTED, "the process is ending")

    def _read(self, into: memoryview) -> int:
        # urllib3's answer would copy each piece twice more than the library's that it wraps.
        source: Any = getattr(self._response, "_fp", None) or self._response
        try:
            count: int = source.readinto(into)
        except TimeoutError:
            raise
        except (OSError, HTTPException) as error:  # of TLS or of chunks; no route any more
            raise ConnectionResetError(errno.ECONNRESET, f"the answer broke off: {error}") from None
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the answer ended early")
        return count

    def release(self) -> None:
        """Give the connection back where the answer was read to its end, else end it."""
        if self._response is None:
            return
        source: Any = getattr(self._response, "_fp", None)
        if source is not None and source.isclosed():
            self._response.release_conn()
        else:
            self._response.close()


def fill(
    what: str,
    open_range: Callable[[int, int, str | None], Body],
    start: int,
    into: memoryview,
    etag: str | None,
    dialect: Dialect,
    closing: threading.Event,
) -> tuple[int, Described]:
    """Do what `Objects.read_into` promises for the object `what`.

    `open_range(start, count, etag)` makes a request.
    """
    attempts = Attempts(closing)
    done = 0
    described: Described | None = None
    while True:
        try:
            body = open_range(start + done, len(into) - done, etag)
            try:
                found = body.described
                is_other = described not in (None, found) or (etag and found.etag not in ("", etag))
                if is_other:  # a server that ignores If-Match
                    raise OSError(errno.ESTALE, f"{what}: it was changed meanwhile")
                described = found
                etag = described.etag or None
                end = max(done, min(len(into), described.size - start))
                body.fill(into[done:end], closing)
                return end, described
            finally:
                body.release()
                done += body.count
                if body.count:
                    attempts.progressed()
        except dialect.failures as error:
            failure = error.with_traceback(None)
        is_transient, status = dialect.trouble(failure)
        if not is_transient or not attempts.may_repeat(status):
            raise dialect.explained(failure, what, str(attempts)) from None


def size_told(status: int, headers: Mapping[str, str], start: int = 0) -> int:
    """Return how long the whole object is, in bytes, of an answer that begins at its byte `start`.

    Raises DamagedError where the answer begins elsewhere, or does not tell.
    """
    if status == 206:
        told = headers.get("Content-Range", "")
        found = _RANGE.fullmatch(told)
        if found is None or int(found[1]) != start:
            raise DamagedError(f"bytes from {start} on were asked for, the answer has `{told}`")
        return int(found[2])
    length = headers.get("Content-Length", "")
    if not length.isdecimal():
        raise DamagedError("the answer does not tell how long the object is")
    return int(length)


def pieces(data: memoryview) -> Iterator[memoryview]:
    """Yield a request's body in pieces."""
    for start in range(0, len(data), _SENT_AT_ONCE):
        yield data[start : start + _SENT_AT_ONCE]
