"""How `pai storage cp` and `sync` tell what they do: a bar on a terminal, and a line at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from pai_runner.cli.models_place import size_text
from pai_runner.cli.output import say
from pai_runner.storage.copying import Outcome
from pai_runner.storage.moving import Move

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

# How many failures are shown in full.
_SHOWN = 20


class Progress:
    """A bar for all moves of a command, where standard error is a terminal. Threads share it."""

    def __init__(self, moves: Sequence[Move], is_quiet: bool) -> None:
        self._files = len(moves)
        self._done = 0
        self._lock = Lock()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        if moves and not is_quiet and sys.stderr.isatty():
            self._start(sum(move.entry.size for move in moves))

    def _start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._task = self._bar.add_task(self._text(), total=total)
        self._bar.start()

    def _text(self) -> str:
        return f"{self._done}/{self._files} files"

    def sent(self, count: int) -> None:
        """Note that bytes have moved."""
        with self._lock:
            if self._bar is not None and self._task is not None:
                self._bar.advance(self._task, count)

    def copied(self, move: Move) -> None:
        """Note that a file is there."""
        with self._lock:
            self._done += 1
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, description=self._text())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def summary(outcome: Outcome, same: int, deleted: int) -> str:
    """Return what came of a copy, in one line."""
    rate = (outcome.bytes - outcome.resumed) / 1e6 / max(outcome.seconds, 1e-3)
    parts = [
        f"copied {_files(outcome.files)}, {size_text(outcome.bytes)} in {outcome.seconds:.1f} s"
        f" ({rate:.0f} MB/s)"
    ]
    if outcome.resumed:
        parts.append(f"{size_text(outcome.resumed)} of it were there from an earlier try")
    if same:
        parts.append(f"{same} were the same")
    if deleted:
        parts.append(f"deleted {deleted}")
    if outcome.verified:
        counts = ", ".join(f"{count} by {how}" for how, count in outcome.verified.most_common())
        parts.append(f"verified {counts}")
    if outcome.failures:
        parts.append(f"{len(outcome.failures)} FAILED")
    return "; ".join(parts)


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def say_failures(failures: dict[str, str]) -> None:
    """Name the files that could not be copied or deleted, and why."""
    for name, text in list(failures.items())[:_SHOWN]:
        say(f"error: {name}: {text.removeprefix(f'{name}: ')}")
    if len(failures) > _SHOWN:
        say(f"error: and {len(failures) - _SHOWN} more; --json lists all")
