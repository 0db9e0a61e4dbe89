"""A role from the supervisor's side."""

from __future__ import annotations

import os
import time

from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import RoleProcess
from pai_runner.run.guard import Role, fork_guard
from pai_runner.run.reports import Reports
from pai_runner.run.verdict import RoleEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Ward:
    """A role from the supervisor's side: its guard and what is known of its process."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.label = role.label
        self.end = RoleEnd(role.label, role.directory)
        self.guard: Identity | None = None
        self.guard_pid = 0
        self.guard_status: int | None = None
        self.process: Identity | None = None
        # The guard has said its last word, so its own end is no surprise.
        self.done = False
        self._to_guard = -1
        self.from_guard = -1
        self._reports = Reports()

    @property
    def is_running(self) -> bool:
        """Whether its guard has been started and is there."""
        return self.guard_pid != 0 and self.guard_status is None

    def start(self, secrets: Mapping[str, str]) -> None:
        """Fork the guard, which starts the role. Raises OSError."""
        self.guard_pid, self._to_guard, self.from_guard = fork_guard(self.role, secrets)
        self._reports = Reports(self.from_guard)
        self.guard = Identity.of(self.guard_pid)

    def tell(self, line: str) -> None:
        """Send the guard a command; a guard that is gone needs none."""
        if self.guard_status is None and self._to_guard >= 0:
            try:
                os.write(self._to_guard, line.encode() + b"\n")
            except BrokenPipeError:
                return

    def read_reports(self) -> bool:
        """Take in what the guard has said. False at the end of its pipe."""
        for report in self._reports.read():
            self._take(report)
        return not self._reports.is_at_end

    def _take(self, report: dict[str, Any]) -> None:
        if "started" in report:
            self.process = Identity.of(report["started"])
        elif "failed" in report:
            self.end.failure = report["failed"]
            self.end.at = time.monotonic()
            self.done = True
        elif "exited" in report:
            self.end.status = report["exited"]
            self.end.at = report["at"]
        elif "left" in report:
            self.end.left = tuple(report["left"])
            self.done = True

    def to_record(self) -> RoleProcess:
        """Return the role as the record shows it."""
        return RoleProcess(self.label, self.guard, self.process, self.end.exit_code)

    def abandon(self) -> None:
        """Close the pipe to the guard, which tells it that the supervisor is gone."""
        if self._to_guard >= 0:
            os.close(self._to_guard)
            self._to_guard = -1
