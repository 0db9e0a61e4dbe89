"""Who a process is: a pid alone is used again by another process sooner or later."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


_HAS_PROC = sys.platform == "linux"


class Stat:
    """What /proc/<pid>/stat says. `start` is in clock ticks since the machine's start."""

    __slots__ = ("parent", "session", "start", "zombie")

    def __init__(self, text: str) -> None:
        # The command's name stands in brackets and may itself hold brackets and blanks.
        fields = text[text.rindex(")") + 2 :].split()
        self.zombie = fields[0] in "ZX"
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start = fields[19]


def read_stat(pid: int) -> Stat | None:
    """Return what /proc says about `pid`; None when there is no such process, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return Stat(file.read())
    except (OSError, ValueError):
        # ValueError: the process went away between open and read.
        return None


class Identity:
    """A process on this or another machine: pid, start time, the machine's boot and name."""

    __slots__ = ("boot", "host", "pid", "start")

    def __init__(self, pid: int, start: str, boot: str, host: str) -> None:
        self.pid = pid
        self.start = start
        self.boot = boot
        self.host = host

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return the identity of a process of this machine; `start` is empty if it is gone."""
        return cls(pid, _start_of(pid), boot_id(), os.uname().nodename)

    @property
    def elsewhere(self) -> bool:
        """Whether it lives on another machine, which cannot be asked from here."""
        return self.host != os.uname().nodename

    @property
    def rebooted(self) -> bool:
        """Whether its machine, this one, was started anew since."""
        return not self.elsewhere and self.boot != boot_id()

    @property
    def alive(self) -> bool:
        """Whether the process is there; a zombie is not. Always false for another machine's."""
        if self.elsewhere or self.rebooted or not self.start:
            return False
        return _start_of(self.pid) == self.start

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended."""
        return not self.elsewhere and not self.alive

    def to_json(self) -> dict[str, Any]:
        """Return the identity as plain JSON values."""
        return {"pid": self.pid, "start": self.start, "boot": self.boot, "host": self.host}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Identity | None:
        """Return the identity that `to_json` gave; None for None."""
        if data is None:
            return None
        return cls(int(data["pid"]), str(data["start"]), str(data["boot"]), str(data["host"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other.to_json() == self.to_json()

    def __hash__(self) -> int:
        return hash((self.pid, self.start, self.boot, self.host))

    def __repr__(self) -> str:
        return f"Identity(pid={self.pid}, start={self.start!r})"


def _start_of(pid: int) -> str:
    """Return when `pid` started, in the platform's own terms; empty when it is not alive."""
    if _HAS_PROC:
        stat = read_stat(pid)
        return "" if stat is None or stat.zombie else stat.start
    return _ask("ps", "-o", "lstart=", "-p", str(pid))


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what tells this start of the machine from all others."""
    if _HAS_PROC:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            # A sandbox that hides it; pid and start time have to do.
            return ""
    return _ask("sysctl", "-n", "kern.boottime")


def _ask(*command: str) -> str:
    import subprocess

    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()
