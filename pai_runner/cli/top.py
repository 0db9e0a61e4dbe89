"""`pai top`: the jobs that run, their processes, devices, steps a second and last lines.

On a terminal it is drawn anew until q or Ctrl-C; elsewhere, and with --once, it is printed once.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from pai_runner.cli.jobs_chart import length_text
from pai_runner.cli.output import print_json, print_table
from pai_runner.errors import UsageError
from pai_runner.run.glance import Glance, JobView, RoleView
from pai_runner.run.options import parse_duration

if TYPE_CHECKING:
    from rich.table import Table

_HEADER = ("id", "name", "state", "age", "role", "pid", "devices", "step", "step/s", "last line")
# Of a GPU's UUID so much tells it from the others of a machine.
_DEVICE_LETTERS = 12
# How much of a line is printed where nothing limits it.
_LINE_LETTERS = 120


def run(arguments: Sequence[str]) -> int:
    """Show the jobs. Returns the exit code."""
    parser = argparse.ArgumentParser("pai top", description=__doc__)
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="T", help="between two looks; default 2s"
    )
    parser.add_argument("--once", action="store_true", help="print one table")
    parser.add_argument("--json", action="store_true", help="print JSON, once")
    options = parser.parse_args(arguments)
    glance = Glance()
    if options.json:
        print_json([asdict(job) for job in glance.look(time.time())])
    elif options.once or not sys.stdout.isatty():
        _print_once(glance.look(time.time()))
    else:
        _watch(glance, options.interval)
    return 0


def _interval(text: str) -> float:
    seconds = parse_duration(text)
    if not 0.1 <= seconds <= 86400:
        raise UsageError(f"`{text}` is not between 0.1s and 1d", "2s is the default")
    return seconds


def _print_once(jobs: Sequence[JobView]) -> None:
    if not jobs:
        print("no job runs")
        return
    print_table([_HEADER, *((*row[:-1], row[-1][:_LINE_LETTERS]) for row in rows(jobs))])


def rows(jobs: Sequence[JobView], is_short: bool = False) -> list[tuple[str, ...]]:
    """Return the table's cells: a row for each role, the job itself in the first of them.

    `is_short` leaves of an id its last part, by which every verb finds the job, too.
    """
    found = []
    for job in jobs:
        shown = job.id.rpartition("-")[2] if is_short else job.id
        about = (shown, _printable(job.name), job.state, length_text(job.seconds))
        for role in job.roles or (None,):
            found.append((*about, *_role_cells(role)))
            about = ("", "", "", "")
    return found


def _role_cells(role: RoleView | None) -> tuple[str, ...]:
    if role is None:
        return ("", "", "", "", "", "")
    devices = ",".join(device[:_DEVICE_LETTERS] for device in role.devices) or "cpu"
    step = "" if role.step is None else str(role.step)
    rate = "" if role.steps_per_second is None else _rate(role.steps_per_second)
    return (role.label, str(role.pid or ""), devices, step, rate, role.last_line)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())


# ====== On a terminal ======


def _watch(glance: Glance, interval: float) -> None:
    """Draw the table on the terminal's other screen until q or Ctrl-C."""
    from rich.live import Live

    before = signal.signal(signal.SIGTERM, _end)
    try:
        with _keys() as keys, Live(screen=True, auto_refresh=False) as live:
            while True:
                live.update(_table(glance.look(time.time())), refresh=True)
                if _is_over(keys, interval):
                    return
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: object) -> NoReturn:
    """End by way of all `finally`: the terminal gets its screen back."""
    sys.exit(128 + number)


def _table(jobs: Sequence[JobView]) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{len(jobs)} {'job runs' if len(jobs) == 1 else 'jobs run'}; q ends"
    table = Table(box=None, pad_edge=False, expand=True, title=title, title_justify="left")
    for name in _HEADER:
        heading = Text(name, no_wrap=True, overflow="ellipsis")
        # Where the terminal is narrow, it is these that are cut.
        table.add_column(heading, no_wrap=name not in ("name", "devices", "last line"))
    for row in rows(jobs, is_short=True):
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    return table


@contextmanager
def _keys() -> Iterator[int | None]:
    """Yield the descriptor from which single keys can be read; None without such a terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _is_over(keys: int | None, seconds: float) -> bool:
    """Wait for so long; return at once, with True, for a q or the end of the keys."""
    deadline = time.monotonic() + seconds
    watched = [] if keys is None else [keys]
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], left)
        if ready and os.read(ready[0], 1) in (b"q", b"Q", b""):
            return True
    return False
