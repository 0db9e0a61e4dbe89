"""When a request is repeated: the same for all stores.

What may succeed the next time is asked again: a connection that broke, an answer 500, a server that
asks to slow down. A server that is silent is asked a few times only; one that answers, but is busy,
for longer. Waits grow, and are random, so that many clients do not come back at once. The error
that is raised in the end says what was tried.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pai_runner.storage.settings import number_set

# How long a connection may take to be made, and a server may be silent, in seconds.
CONNECT_SECONDS = 5
READ_SECONDS = 15
# The server copies or assembles an object before it answers.
SLOW_SECONDS = 120

TRANSIENT = (408, 429, 500, 502, 503, 504)
# Refusals with another status after which the same request may succeed: its body came too slowly,
# or damaged; another write of the object was under way.
TRANSIENT_CODES = (
    "RequestTimeout",
    "BadDigest",
    "InvalidDigest",
    "ConditionalRequestConflict",
    "OperationAborted",
)
_BUSY = (429, 503)

_TRIES = 3
# A busy server is asked again for so many seconds.
_BUSY_SECONDS = "PAI_RETRY_SECONDS"
_DEFAULT_BUSY_SECONDS = 60.0
# The first wait is at most so long, each later one four times as long.
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 10.0

# Told whenever a server asks to slow down: whoever has many requests under way makes fewer.
_listeners: list[Callable[[], None]] = []


def on_busy(listener: Callable[[], None]) -> None:
    """Call `listener`, on any thread, whenever a server says that it is asked too much."""
    _listeners.append(listener)


def retry_seconds() -> float:
    """Return how long a busy server is asked again, in seconds. Raises SetupError."""
    return number_set(_BUSY_SECONDS, _DEFAULT_BUSY_SECONDS, "seconds, for example 60")


class Attempts:
    """Counts how often one request was made; `closing` ends the waiting when it is set."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self._began = time.monotonic()
        self._busy_seconds = retry_seconds()
        self._failures = 0
        self._in_a_row = 0

    def progressed(self) -> None:
        """Note that bytes came: what failed before does not count any more."""
        self._in_a_row = 0

    def may_repeat(self, status: int | None) -> bool:
        """Wait as long as it is right after a failure; False when it was the last attempt.

        `status` is the one that the server answered, or None where there was no answer.
        """
        self._failures += 1
        self._in_a_row += 1
        is_busy = status in _BUSY
        if is_busy:
            for listener in _listeners:
                with suppress(RuntimeError):  # its threads are gone: the process is ending
                    listener()
        is_asked_again = is_busy and time.monotonic() - self._began < self._busy_seconds
        if self._in_a_row >= _TRIES and not is_asked_again:
            return False
        # The exponent is bounded, as powers of floats are.
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 4.0 ** min(self._in_a_row - 1, 9))
        return not self._closing.wait(random.uniform(longest / 2, longest))

    def __str__(self) -> str:
        if self._failures < 2:
            return ""
        seconds = time.monotonic() - self._began
        return f" ({self._failures} attempts in {seconds:.0f} s)"
