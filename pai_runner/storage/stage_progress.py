"""How the mover tells what it does: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from pai_runner.secret import redact

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

# The least time between two lines, in seconds.
_PERIOD = 10.0
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def say(line: str) -> None:
    """Print one of our own lines, without secrets."""
    # A full disk of the log must not end the copies: the report carries their outcome.
    with suppress(OSError):
        print(f"pai: {redact(line)}", file=sys.stderr, flush=True)


def in_words(size: int) -> str:
    """Return a number of bytes as text, for example `1.2 GB`."""
    if size == 1:
        return "1 byte"
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


class Progress:
    """The progress of one transfer of `total` bytes. Threads may share it.

    `what` is for example `staging s3://b/dir/`. Where `quiet`, nothing is told before the first
    period is over.
    """

    def __init__(
        self,
        what: str,
        total: int,
        quiet: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._what = redact(what)
        self._total = total
        self._done = 0
        self._said = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if quiet:
            return
        if environment.get("PAI_PROGRESS") == "tty":
            self._start_bar(environment)
        else:
            say(f"{self._what}: {in_words(total)}")

    def add(self, size: int) -> None:
        """Count `size` more bytes."""
        with self._lock:
            self._done += size
            if self._bar is not None and self._task is not None:
                self._bar.advance(self._task, size)
            elif time.monotonic() - self._said >= _PERIOD:
                self._said = time.monotonic()
                say(f"{self._what}: {in_words(self._done)} of {in_words(self._total)}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with suppress(OSError):  # as in `say`
                self._bar.stop()

    def _start_bar(self, environment: Mapping[str, str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = environment.get("COLUMNS", "")
        console = Console(
            file=sys.stderr, force_terminal=True, width=int(columns) if columns.isdigit() else None
        )
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(self._what, total=self._total)
        with suppress(OSError):  # as in `say`
            self._bar.start()
