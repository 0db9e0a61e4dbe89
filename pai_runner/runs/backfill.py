"""Back-filling: the same file for a range of dates, each once, some at a time.

Each date is a `pai` of its own, as a scheduler would start it: a date that a run of the name has
succeeded for, by hand, at night or in a back-fill before, is not run again.
"""

from __future__ import annotations

import calendar
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import cached_property
from typing import NoReturn

from pai_runner.api import current_folder
from pai_runner.entry import pai_command
from pai_runner.errors import ExitCode, SetupError, UsageError
from pai_runner.jobs.directory import home
from pai_runner.jobs.runs import Run, list_runs
from pai_runner.jobs.state import State
from pai_runner.runs.once import has_succeeded
from pai_runner.runs.starting import recorded_folder
from pai_runner.runs.stopping import Stopped, handled

Say = Callable[[str], None]

# What a calendar shows of a date.
DONE, FAILED, BUSY, OPEN = "+", "!", "~", "."
LEGEND = f"{DONE} succeeded  {FAILED} failed  {BUSY} is under way elsewhere  {OPEN} not run"


@dataclass(frozen=True)
class Backfill:
    """What to run for which dates. `first` and `last` are business dates, both included.

    The cyctime of a date is `at` o'clock of the day behind it. `words` are further options of
    `pai`; they must hold no secrets, since they are arguments of processes.
    """

    file: str
    name: str
    first: date
    last: date
    at: time
    words: tuple[str, ...] = ()

    def dates(self) -> list[date]:
        """Return all business dates, the first one first."""
        count = (self.last - self.first).days + 1
        return [self.first + timedelta(days) for days in range(count)]

    def command(self, day: date) -> list[str]:
        """Return the command that runs one date."""
        cyctime = f"{day + timedelta(1)}T{self.at:%H:%M}"
        once = ["--once-per", "bizdate", "--name", self.name, "--cyctime", cyctime]
        return pai_command("-f", self.file, *once, *self.words)

    def log(self, day: date) -> str:
        """Return the file of what a date prints."""
        return os.path.join(home(), "backfills", self.name, f"{day:%Y%m%d}.log")

    def known(self) -> dict[date, str]:
        """Return what is on record of each date. Raises SetupError.

        Done is what any run of the name has succeeded for, also one that succeeds once per cyctime.
        """
        done = {run.bizdate for run in self._succeeded}
        return {
            day: DONE if text in done or has_succeeded(self.name, text) else OPEN
            for day, text in ((day, f"{day:%Y%m%d}") for day in self.dates())
        }

    def other_folders(self) -> list[str]:
        """Return in which folders, beside this one, runs of the name have succeeded for a date."""
        dates = {f"{day:%Y%m%d}" for day in self.dates()}
        folders = {recorded_folder(run.id) for run in self._succeeded if run.bizdate in dates}
        return sorted(folders - {"", str(current_folder())})

    @cached_property
    def _succeeded(self) -> list[Run]:
        """The runs of the name that had succeeded when it was first asked for."""
        return list_runs(name=self.name, states={State.SUCCEEDED})


def day_of(text: str) -> date:
    """Return the date of 2026-10-01 or 20261001. Raises UsageError."""
    try:
        plain = text.replace("-", "") if len(text) == 10 else text
        if len(plain) != 8 or not plain.isdecimal():
            raise ValueError
        return date(int(plain[:4]), int(plain[4:6]), int(plain[6:]))
    except ValueError:
        raise UsageError(f"`{text}` is not a date", "write 2026-10-01 or 20261001") from None


def run(backfill: Backfill, parallel: int, say: Say) -> dict[date, str]:
    """Run what is not done yet, `parallel` dates at once, and return what came of each date.

    SIGTERM, SIGHUP and Ctrl-C end it with all that it runs: Stopped or KeyboardInterrupt is raised
    then, and the same call goes on later. Raises SetupError when nothing can be started.
    """
    results = backfill.known()
    todo = [day for day, result in results.items() if result != DONE]
    if len(todo) < len(results):
        say(f"{len(results) - len(todo)} of {len(results)} dates have succeeded before")
        for folder in backfill.other_folders():
            say(
                f"runs of `{backfill.name}` were started in {folder}: if that is another project, "
                "give this one a --name of its own"
            )
    os.makedirs(os.path.dirname(backfill.log(backfill.first)), mode=0o700, exist_ok=True)
    children = _Children()
    with handled((signal.SIGTERM, signal.SIGHUP), _stop), ThreadPoolExecutor(parallel) as pool:
        try:
            for day, code in pool.map(lambda day: children.run(backfill, day), todo):
                results[day] = _result(code)
                if code is not None:
                    say(_line(backfill, day, code))
        except BaseException:
            children.stop()
            raise
    return results


class _Children:
    """The processes of a back-fill, which threads start and wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_over = False

    def run(self, backfill: Backfill, day: date) -> tuple[date, int | None]:
        """Run a date and return its exit code; None when all is over."""
        try:
            with open(backfill.log(day), "ab", opener=_private) as log, self._lock:
                if self._is_over:
                    return day, None
                child = subprocess.Popen(
                    backfill.command(day),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is ours to pass on
                )
                self._running.add(child)
        except OSError as error:
            raise SetupError(
                f"{day} cannot be started: {error}", "free some space, or set PAI_HOME elsewhere"
            ) from error
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return day, code

    def stop(self) -> None:
        """Ask all to end, and start no other."""
        with self._lock:
            self._is_over = True
            for child in self._running:
                child.terminate()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _stop(signum: int, _: object) -> NoReturn:
    raise Stopped(signum)


def _result(code: int | None) -> str:
    if code is None:
        return OPEN
    return {ExitCode.OK.value: DONE, ExitCode.BUSY.value: BUSY}.get(code, FAILED)


def _line(backfill: Backfill, day: date, code: int) -> str:
    if code == 0:
        return f"{day}: succeeded"
    return f"{day}: ended with code {code}; see {backfill.log(day)}"


def calendar_text(results: Mapping[date, str]) -> str:
    """Return the months of the dates, a mark behind each day."""
    days: Sequence[date] = sorted(results)
    months = sorted({(day.year, day.month) for day in days})
    return "\n\n".join(_month(year, month, results) for year, month in months)


def _month(year: int, month: int, results: Mapping[date, str]) -> str:
    lines = [f"{year}-{month:02d}", " Mo  Tu  We  Th  Fr  Sa  Su"]
    for week in calendar.Calendar().monthdatescalendar(year, month):
        cells = [
            f"{day.day:3d}{results.get(day, ' ')}" if day.month == month else " " * 4
            for day in week
        ]
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)
