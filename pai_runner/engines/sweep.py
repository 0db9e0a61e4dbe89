"""What the launcher does when the supervisor was killed: nothing of the job may stay."""

from __future__ import annotations

import os
import signal
import time

from pai_runner.jobs.cancel import job_path_of
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record
from pai_runner.run import processes
from pai_runner.run.ending import LEFTOVER_SECONDS, UNKILLABLE_SECONDS, Ending


class Sweep:
    """Ends the processes that a dead supervisor left; they have come to this process.

    A living guard ends its tree itself and is only waited for. `supervisor` is who died, and
    `grace` the job's, in seconds.
    """

    def __init__(
        self, directory: JobDirectory, record: Record, supervisor: Identity, grace: float
    ) -> None:
        self._directory = directory
        self._record = record
        self._since = int(supervisor.start) if supervisor.start.isdigit() else 0
        self._grace = grace
        self._forced = False
        self._guards: list[Identity] | None = [role.guard for role in record.roles if role.guard]
        self._leaders = [role.process for role in record.roles if role.process]
        # What has come here as a child, and must be collected when it has ended.
        self._adopted = {process.pid for process in (*self._guards, *self._leaders)}
        self._ending = Ending.by_others(
            self.members, time.monotonic(), grace + LEFTOVER_SECONDS + UNKILLABLE_SECONDS
        )

    def force(self) -> None:
        """Give no more grace."""
        self._forced = True
        self._ending.force(time.monotonic())

    def step(self) -> bool:
        """Do what is due. True while something is left that can be ended."""
        now = time.monotonic()
        if self._guards is not None and not any(guard.alive for guard in self._guards):
            # Nobody else does it. The kernel has asked the scripts to end, when it ended these.
            self._guards = None
            self._ending = Ending(self.members, now, self._grace)
            if self._forced:
                self._ending.force(now)
        if self._guards is None and self._leaders and not any(p.alive for p in self._leaders):
            self._leaders = []
            self._ending.leader_left(now)
        self._ending.step(now)
        left = self.members()
        self._collect()
        return bool(left) and not self._ending.given_up(now)

    def _collect(self) -> None:
        """Collect what has ended; only the job's: who called us may have children of its own."""
        for pid in list(self._adopted):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    self._adopted.discard(pid)
            except ChildProcessError:
                # Its parent is still another process of the job, or was to the end.
                continue

    def members(self) -> list[int]:
        """Return the job's processes below this one."""
        if not processes.HAS_SUBREAPER:
            return self._recorded()
        session = os.getsid(0)
        found = []
        for pid, stat in processes.descendants(os.getpid()).items():
            path = None if stat.zombie else job_path_of(pid)
            # A process that has cleared its environment: newer, and never in our session.
            nameless = path is None and stat.session != session and int(stat.start) >= self._since
            if not stat.zombie and (path == self._directory.path or nameless):
                found.append(pid)
        self._adopted.update(found)
        return found

    def _recorded(self) -> list[int]:
        guards = [role.guard for role in self._record.roles if role.guard and role.guard.alive]
        groups = [role.process.pid for role in self._record.roles if role.process]
        return [guard.pid for guard in guards] + [
            pid for group in groups for pid in processes.group_members(group)
        ]


def describe_death(status: int | None) -> str:
    """Return how a process ended, from its wait status: `was killed by SIGKILL (signal 9)`."""
    if status is None:
        return "is gone"
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        return f"was killed by {signal.Signals(signum).name} (signal {signum})"
    return f"ended with code {os.waitstatus_to_exitcode(status)}"
