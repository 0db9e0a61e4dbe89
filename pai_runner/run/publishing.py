"""The publisher from the supervisor's side: the process that makes exports into versions."""

from __future__ import annotations

import os
import select
import signal
import time

from pai_runner.jobs.state import Reason, State
from pai_runner.run import processes
from pai_runner.run.guard import CannotStart, Role, start_process
from pai_runner.run.reports import Reports
from pai_runner.run.verdict import signal_name, with_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pai_runner.jobs.directory import JobDirectory
    from pai_runner.run.verdict import Verdict

# The publisher's program. The package need not be installed in the interpreter that runs it.
_PROGRAM = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models", "publish.py"
)
# How long one that is done, or was told to stop and removes what it has staged, may take to end, in
# seconds.
_STOP_SECONDS = 10.0


class Publisher:
    """The publisher of one job: if it is wanted it is started once, after the script.

    `is_over`: all is said; so it is as long as nobody wants it.
    """

    def __init__(self, directory: JobDirectory, poller: select.poll) -> None:
        self._directory = directory
        self._poller = poller
        self._role: Mapping[str, Any] = {}
        self._secrets: Mapping[str, str] = {}
        self._reports = Reports()
        self._is_finished = False
        self._is_stopped = False
        self._kill_at = float("inf")
        self._from_publisher = -1
        self._problem = ""
        self._message = ""
        self.pid = 0
        self.is_waiting = False
        self.is_over = True

    @property
    def is_gone(self) -> bool:
        """Whether all is said and its process has ended."""
        return self.is_over and not self.pid

    def want(self, role: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        """Wait for the script; `role` of the plan gives the interpreter and the environment."""
        self._role, self._secrets = role, secrets
        self.is_waiting, self.is_over = True, False

    def start(self) -> None:
        """Start the process."""
        self.is_waiting = False
        from_publisher, reports = os.pipe()
        os.set_inheritable(reports, True)
        argv = [self._role["interpreter"], "-u", _PROGRAM]
        argv += ["--job", self._directory.path, "--report", str(reports)]
        directory = self._directory.publisher
        role = Role("publisher", argv, self._role["environment"], "/", directory, 0.0)
        try:
            self.pid = start_process(role, self._secrets)
        except CannotStart as error:
            os.close(from_publisher)
            self._problem = f"the process that publishes its exports cannot be started: {error}"
            self.is_over = True
            return
        finally:
            os.close(reports)
        self._from_publisher = from_publisher
        self._reports = Reports(from_publisher)
        self._poller.register(from_publisher, select.POLLIN)

    def drop(self, has_succeeded: bool) -> None:
        """Publish nothing, because of how the job ends; `has_succeeded` is said of the script."""
        self.is_waiting = False
        if has_succeeded:
            self._problem = "what the script exported was not published"
        self.is_over = True

    def advance(self, ready: Sequence[int], now: float) -> None:
        """Take in what it has said, and kill one that should have ended long ago."""
        if self._from_publisher in ready:
            self._read_reports()
        if self.pid and now >= self._kill_at:
            self._kill_at = float("inf")
            self.kill()

    def _read_reports(self) -> None:
        for report in self._reports.read():
            self._is_finished = True
            self._kill_at = time.monotonic() + _STOP_SECONDS
            self._problem, self._message = report["problem"], report["message"]

    def ended(self, status: int) -> None:
        """Note that the process has ended."""
        self._read_reports()
        self.pid = 0
        self.is_over = True
        self._poller.unregister(self._from_publisher)
        os.close(self._from_publisher)
        self._from_publisher = -1
        if self._is_finished:
            return
        how = f"ended with code {processes.exit_code(status)}"
        if os.WIFSIGNALED(status):
            how = f"was killed by {signal_name(os.WTERMSIG(status))}"
        if self._is_stopped:
            how = "was ended"
        self._problem = (
            f"the process that publishes its exports {how}: what it had not published yet is "
            f"published when the command is run again; see {self._directory.publisher.path}"
        )

    def stop(self) -> None:
        """Have it end; what is under way is given up."""
        if self.pid and not self._is_stopped:
            self._is_stopped = True
            self._kill_at = time.monotonic() + _STOP_SECONDS
            processes.send([self.pid], signal.SIGTERM, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self.pid:
            self._is_stopped = True
            processes.send([self.pid], signal.SIGKILL)

    def judge(self, verdict: Verdict) -> Verdict:
        """Return the verdict of the job with what came of publishing."""
        if self._problem:
            return with_problem(verdict, self._problem, Reason.NOT_PUBLISHED)
        if verdict.state is State.SUCCEEDED:
            verdict.message = self._message
        return verdict
