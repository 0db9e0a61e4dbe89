"""All roles of a job from the supervisor's side: their guards, and what dead guards leave."""

from __future__ import annotations

import os
import select
import signal
import time

from pai_runner.run import processes
from pai_runner.run.ending import Ending
from pai_runner.run.verdict import signal_name
from pai_runner.run.ward import Ward

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pai_runner.jobs.record import RoleProcess
    from pai_runner.run.guard import Role
    from pai_runner.run.verdict import RoleEnd

_now = time.monotonic


class Roles:
    """The roles of one job, in the order of the plan. `grace` is in seconds."""

    def __init__(self, roles: Sequence[Role], grace: float) -> None:
        self._wards = [Ward(role) for role in roles]
        self._grace = grace
        self._orphans: Ending | None = None
        self._forced = False
        # Children of the supervisor that are no part of any role.
        self.strangers: Collection[int] = ()

    def __iter__(self) -> Iterator[Ward]:
        return iter(self._wards)

    def start(self, secrets: Mapping[str, str], poller: select.poll) -> None:
        """Start all of them. Raises OSError."""
        for ward in self._wards:
            ward.start(secrets)
            poller.register(ward.from_guard, select.POLLIN)

    # ====== How they are ======

    @property
    def ends(self) -> list[RoleEnd]:
        return [ward.end for ward in self._wards]

    @property
    def are_started(self) -> bool:
        return any(ward.guard_pid for ward in self._wards)

    @property
    def all_run(self) -> bool:
        """Whether the process of every role is up, or has been."""
        return all(ward.process is not None for ward in self._wards)

    @property
    def are_guarded(self) -> bool:
        """Whether any guard is there."""
        return any(ward.is_running for ward in self._wards)

    @property
    def are_gone(self) -> bool:
        """Whether nothing of them is left that can be ended."""
        if self.are_guarded:
            return False
        orphans = self._orphans
        return orphans is None or orphans.given_up(_now()) or not self._orphaned()

    def to_record(self) -> tuple[RoleProcess, ...]:
        """Return the roles as the record shows them."""
        return tuple(ward.to_record() for ward in self._wards)

    # ====== What happens to them ======

    def read_reports(self, ready: Sequence[int], poller: select.poll) -> None:
        """Take in what the guards have said."""
        for ward in self._wards:
            if ward.from_guard in ready and not ward.read_reports():
                poller.unregister(ward.from_guard)

    def ended(self, pid: int, status: int) -> str:
        """Note that a child has ended. Return what is to be told: a guard went before its time."""
        ward = next((ward for ward in self._wards if ward.guard_pid == pid), None)
        if ward is None:
            leaders = [ward.process.pid for ward in self._wards if ward.process is not None]
            if self._orphans is not None and pid in leaders:
                self._orphans.leader_left(_now())
            return ""
        ward.guard_status = status
        ward.read_reports()
        if ward.done:
            return ""
        how = "failed; see supervisor.log"
        if os.WIFSIGNALED(status):
            how = f"was killed by {signal_name(os.WTERMSIG(status))}"
        return f"the guard of {ward.label} (pid {ward.guard_pid}) {how}; its script was ended"

    def take_over(self, pid: int) -> None:
        """End the tree of a guard that was killed: it has come to this process."""
        now = _now()
        ward = next(ward for ward in self._wards if ward.guard_pid == pid)
        if self._orphans is None:
            self._orphans = Ending(self._orphaned, now, self._grace)
        if ward.process is None or not ward.process.alive:
            self._orphans.leader_left(now)
        elif not processes.HAS_SUBREAPER:
            # Elsewhere the kernel has sent this already, when the guard died.
            processes.send([ward.process.pid], signal.SIGTERM)
        if self._forced:
            self._orphans.force(now)

    def _orphaned(self) -> list[int]:
        """Return the processes that came here from guards that are gone."""
        if processes.HAS_SUBREAPER:
            guards = [ward.guard_pid for ward in self._wards]
            found = processes.descendants(os.getpid(), without=[*guards, *self.strangers])
            return processes.living(found)
        gone = [ward.process for ward in self._wards if not ward.done and ward.process]
        return [pid for process in gone for pid in processes.group_members(process.pid)]

    # ====== What is done to them ======

    def tell(self, line: str) -> None:
        """Send every guard a command."""
        for ward in self._wards:
            ward.tell(line)

    def step(self, now: float) -> float:
        """Go on with ending what dead guards left; return when to come again."""
        return self._orphans.step(now) if self._orphans is not None else float("inf")

    def force(self) -> None:
        """Give no more grace."""
        self._forced = True
        self.tell("kill")
        if self._orphans is not None:
            self._orphans.force(_now())

    def kill_guards(self) -> None:
        """Kill guards that do not answer."""
        silent = [ward.guard_pid for ward in self._wards if ward.is_running]
        processes.send(silent, signal.SIGKILL)

    def abandon(self) -> None:
        """Tell the guards that the supervisor is gone."""
        for ward in self._wards:
            ward.abandon()
