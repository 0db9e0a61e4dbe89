"""What a supervisor watches from outside: whether a job gets on, and whether memory ran out."""

from __future__ import annotations

import os

from pai_runner.errors import ExitCode
from pai_runner.jobs.state import Reason, State
from pai_runner.run.verdict import Cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pai_runner.jobs.directory import RoleDirectory

_CGROUPS = "/sys/fs/cgroup"


class Limits:
    """A plan's limits on the monotonic clock: `grace` in seconds, and what may have been passed.

    Progress is that one of the watched files changes, as this process sees it: a file's own
    time may come from another machine's clock. It counts from `watch` on.
    """

    def __init__(self, limits: Mapping[str, float | None], now: float) -> None:
        self.grace = float(limits["grace_seconds"] or 0.0)
        self._total = limits["total_seconds"]
        self._no_progress = limits["no_progress_seconds"]
        self._began = now
        self._latest = now
        self._paths: list[str] = []
        self._seen: list[tuple[int, int]] = []

    def watch(self, directories: Sequence[RoleDirectory], now: float) -> None:
        """Begin to ask for progress in these roles."""
        self._paths = [
            path for role in directories for path in (role.stdout, role.stderr, role.heartbeat)
        ]
        self._latest = now

    def due(self) -> float:
        """Return when a limit may be passed next; infinity for never."""
        times = [float("inf")]
        if self._total is not None:
            times.append(self._began + self._total)
        if self._no_progress is not None and self._paths:
            times.append(self._latest + self._no_progress)
        return min(times)

    def passed(self, now: float) -> Cause | None:
        """Return the limit that is passed now, as a cause to stop."""
        if self._total is not None and now >= self._began + self._total:
            message = f"the job passed its time limit of {self._total:g} s"
            code = ExitCode.TIMED_OUT.value
            return Cause(State.TIMED_OUT, Reason.TIME_LIMIT, message, exit_code=code)
        if self._no_progress is None or not self._paths:
            return None
        seen = [_size_and_time(path) for path in self._paths]
        if seen != self._seen:
            self._seen, self._latest = seen, now
        if now < self._latest + self._no_progress:
            return None
        message = f"nothing was printed or saved for {self._no_progress:g} s"
        return Cause(State.TIMED_OUT, Reason.NO_PROGRESS, message, exit_code=ExitCode.HUNG.value)


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def memory_kills() -> int:
    """Return how often the kernel has killed for want of memory in this process's cgroup.

    From memory.events (cgroup v2), memory.oom_control (v1), or for the whole machine from
    /proc/vmstat. 0 where none of them can be read.
    """
    for path in (*_memory_files(), "/proc/vmstat"):
        try:
            with open(path, encoding="ascii") as file:
                words = [line.split() for line in file]
        except OSError:
            continue
        counts = [int(pair[1]) for pair in words if len(pair) == 2 and pair[0] == "oom_kill"]
        if counts:
            return counts[0]
    return 0


def _memory_files() -> list[str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    files: list[str] = []
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            files.append(f"{_CGROUPS}/memory{path}/memory.oom_control")
        elif not controllers:
            files.append(f"{_CGROUPS}{path}/memory.events")
    return files


def tail_lines(path: str, count: int, most_bytes: int = 65536, width: int = 2000) -> list[str]:
    """Return the last `count` lines of a log, each cut to `width`, decoded as well as it goes.

    Of a line that a progress bar wrote over with carriage returns, the last text is kept. An
    unreadable file has no lines.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            data = file.read(most_bytes)
    except OSError:
        return []
    lines = data.decode("utf-8", "replace").split("\n")
    if size > most_bytes:
        lines = lines[1:]
    if lines and not lines[-1]:
        lines.pop()
    return [line.rstrip("\r").rpartition("\r")[2][:width] for line in lines[-count:]]
