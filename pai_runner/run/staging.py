"""The mover from the supervisor's side: the process that copies staged folders in and back."""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from pai_runner.run import processes
from pai_runner.run.guard import CannotStart, Role, start_process
from pai_runner.run.reports import Reports
from pai_runner.run.verdict import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pai_runner.jobs.directory import JobDirectory

_PROGRAM = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "storage", "mover.py"
)
# A mover that died is started again: the folder's manifest tells it where it was. One that dies
# so often, each time within so many seconds, is left alone until the last copy.
_STARTS = 3
_SHORT_SECONDS = 60.0
# How long one that was told to stop may take to abort its uploads, in seconds.
_STOP_SECONDS = 10.0


class Mover:
    """The mover of one job, over all its starts.

    `is_staged`: the files are there, the script may start. `is_over`: it has said its last word.
    `failure` says why the files are not there, `problem` what is not in the bucket at the end;
    empty for none. `environment` is added to the process's, `folders` are the staged ones.
    """

    def __init__(
        self,
        directory: JobDirectory,
        secrets: Mapping[str, str],
        environment: Mapping[str, str],
        folders: Sequence[str],
        poller: select.poll,
    ) -> None:
        self._directory = directory
        self._secrets = secrets
        self._environment = environment
        self._folders = ", ".join(folders)
        self._poller = poller
        self.pid = 0
        self.from_mover = -1
        self.is_staged = False
        self.is_over = False
        self.failure = ""
        self.problem = ""
        self._to_mover = -1
        self._reports = Reports()
        self._starts = 0
        self._order = ""
        self._last_words = ""
        self._started_at = 0.0
        self._kill_at = float("inf")

    @property
    def is_gone(self) -> bool:
        """Whether all is said and its process has ended."""
        return self.is_over and not self.pid

    def start(self) -> None:
        """Start the process; what keeps it from starting becomes `failure`."""
        self._starts += 1
        self._started_at = time.monotonic()
        commands, to_mover = os.pipe()
        from_mover, reports = os.pipe()
        phase = "attach" if self.is_staged else "stage"
        argv = [sys.executable, "-u", _PROGRAM, self._directory.path]
        argv += [str(commands), str(reports), phase]
        role = Role("mover", argv, self._environment, "/", self._directory.mover, 0.0)
        for descriptor in (commands, reports):
            os.set_inheritable(descriptor, True)
        try:
            self.pid = start_process(role, self._secrets)
        except CannotStart as error:
            os.close(to_mover)
            os.close(from_mover)
            self._give_up(f"the mover cannot be started: {error}")
            return
        finally:
            os.close(commands)
            os.close(reports)
        self._to_mover, self.from_mover = to_mover, from_mover
        self._reports = Reports(from_mover)
        self._poller.register(from_mover, select.POLLIN)
        if self._order:
            self._tell(self._order)

    def read_reports(self) -> None:
        """Take in what the mover has said."""
        for report in self._reports.read():
            self._take(report)

    def _take(self, report: dict[str, Any]) -> None:
        if "staged" in report:
            self.is_staged = True
        elif "failed" in report:
            hint = report.get("hint")
            self._last_words = f"{report['failed']}{f' ({hint})' if hint else ''}"
            # Later on it is as if it had died: the next one goes on.
            if not self.is_staged:
                self.failure = self._last_words
                self._end()
        elif "finished" in report:
            self.problem = _problem(report["finished"], self._folders)
            self._end()

    def ended(self, status: int) -> None:
        """Note that the process has ended; it is started again when it has left work behind."""
        self.read_reports()
        self.pid = 0
        self._close()
        if self.is_over:
            return
        how = self._last_words or f"ended with code {processes.exit_code(status)}"
        if os.WIFSIGNALED(status):
            how = f"was killed by {signal_name(os.WTERMSIG(status))}"
        if time.monotonic() - self._started_at > _SHORT_SECONDS:
            self._starts = 0
        if not self.is_staged or (self._starts >= _STARTS and self._order):
            self._give_up(f"the process that copies staged files: {how}")
        elif self._starts < _STARTS:
            self.start()

    def finish(self, killed: bool) -> None:
        """Have all that is new copied back, once. `killed`: a script was ended by a signal."""
        if self._order:
            return
        self._tell("finish killed" if killed else "finish clean")
        if not self.pid:
            self.start()

    def look(self) -> None:
        """Have what is new copied back now, as far as it is whole."""
        if self.is_staged and not self._order:
            self._write("look")

    def stop(self) -> None:
        """Have everything given up at once."""
        if self._order == "stop" or self.is_over:
            return
        self._tell("stop")
        if self.is_staged:
            self.problem = f"new files may not have been copied back: see {self._folders}"
        self._end()

    def check(self, now: float) -> None:
        """Kill a mover that does not stop."""
        if self.pid and now >= self._kill_at:
            self._kill_at = float("inf")
            processes.send([self.pid], signal.SIGKILL)

    def abandon(self) -> None:
        """Close the pipe to the mover, which tells it that the supervisor is gone."""
        if self._to_mover >= 0:
            os.close(self._to_mover)
            self._to_mover = -1

    def _tell(self, order: str) -> None:
        self._order = order
        self._write(order)

    def _write(self, line: str) -> None:
        if self._to_mover < 0:
            return
        try:
            os.write(self._to_mover, line.encode() + b"\n")
        except BrokenPipeError:
            return  # it has died; `ended` sees to it

    def _give_up(self, text: str) -> None:
        text = f"{text}; see {self._directory.mover.stderr}"
        if self.is_staged:
            self.problem = f"{text}; new files lie in {self._folders}"
        else:
            self.failure = text
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self._kill_at = time.monotonic() + _STOP_SECONDS

    def _close(self) -> None:
        self.abandon()
        if self.from_mover >= 0:
            self._poller.unregister(self.from_mover)
            os.close(self.from_mover)
            self.from_mover = -1


def _problem(finished: Mapping[str, Any], folders: str) -> str:
    """Return what the mover's last report says is not in the bucket, in words; empty if all is."""
    parts = []
    if finished["conflicts"]:
        parts.append(f"changed in the bucket meanwhile: {_listed(finished['conflicts'])}")
    if finished["not_copied"]:
        parts.append(f"not copied back: {_listed(finished['not_copied'])}")
    if finished["error"]:
        parts.append(finished["error"])
    return "; ".join([*parts, f"it lies in {folders}"]) if parts else ""


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
