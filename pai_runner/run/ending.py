"""Ending a tree of processes: the leader first, then all, then by force, until none is left.

A signal to the whole group at once would kill a data loader's workers under the parent that is
writing a checkpoint; hence the leader has most of the grace for itself.
"""

from __future__ import annotations

import signal

from pai_runner.run.processes import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# How much of the grace the leader has before the others are asked to end, too.
_LEADER_PART = 0.8
# What the others have when the leader is gone. They did not end with it: they were left behind.
LEFTOVER_SECONDS = 5.0
# A process that SIGKILL does not end hangs in the kernel; it cannot be waited for for ever.
UNKILLABLE_SECONDS = 10.0
_KILL_STEP = 0.02


class Ending:
    """The timetable of an ending. Times are of the monotonic clock, in seconds.

    `members` gives the pids to end, as they are at the moment. `leader` is one of them.
    """

    def __init__(self, members: Callable[[], list[int]], now: float, grace: float) -> None:
        self._members = members
        self._all_at: float | None = now + _LEADER_PART * grace
        self._kill_at = now + grace

    @classmethod
    def of_leader(
        cls, members: Callable[[], list[int]], now: float, grace: float, leader: int, signum: int
    ) -> Ending:
        """Begin with `signum` to the leader; SIGCONT lets a stopped one act on it."""
        send([leader], signum, signal.SIGCONT)
        return cls(members, now, grace)

    @classmethod
    def of_leftovers(cls, members: Callable[[], list[int]], now: float) -> Ending:
        """Begin with SIGTERM to all: their leader is gone."""
        ending = cls(members, now, LEFTOVER_SECONDS)
        ending._all_at = now
        return ending

    @classmethod
    def by_others(cls, members: Callable[[], list[int]], now: float, grace: float) -> Ending:
        """Only wait: another process is ending these. Whoever is left after `grace` is killed."""
        ending = cls(members, now, grace)
        ending._all_at = None
        return ending

    def leader_left(self, now: float) -> None:
        """The leader has ended: the others are asked now, and get LEFTOVER_SECONDS at most."""
        if self._all_at is not None:
            self._all_at = min(self._all_at, now)
        self._kill_at = min(self._kill_at, now + LEFTOVER_SECONDS)

    def force(self, now: float) -> None:
        """Give no more grace."""
        self._kill_at = min(self._kill_at, now)

    def given_up(self, now: float) -> bool:
        """Whether what is left cannot be killed."""
        return now > self._kill_at + UNKILLABLE_SECONDS

    def step(self, now: float) -> float:
        """Do what is due and return when to come again."""
        if now >= self._kill_at:
            send(self._members(), signal.SIGKILL)
            return now + _KILL_STEP
        if self._all_at is not None and now >= self._all_at:
            self._all_at = None
            send(self._members(), signal.SIGTERM, signal.SIGCONT)
        return self._kill_at if self._all_at is None else self._all_at
