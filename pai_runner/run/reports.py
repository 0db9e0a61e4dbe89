"""Lines of JSON in a pipe: what a child reports, read without waiting, and what it is told."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Reports:
    """The reading end of one child's pipe, which becomes non-blocking; -1 is at its end."""

    def __init__(self, descriptor: int = -1) -> None:
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self.is_at_end = descriptor < 0
        self._buffer = b""

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what has come; `is_at_end` tells whether more can."""
        while not self.is_at_end:
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return
            self.is_at_end = not data
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


def read_line(descriptor: int) -> dict[str, Any] | None:
    """Return the object on the first line of a pipe; None when it ends before."""
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            return None
        data += part
    values: dict[str, Any] = json.loads(data)
    return values
