"""The few things that only the kernel can do for us, and what stands in for them on macOS.

Linux: orphans come to the nearest subreaper above them, so a process's descendants can always
be found and waited for, those in sessions of their own included; and a child can ask to be
signalled when its parent dies. macOS has neither: there a job's processes are those of its
process group, written as one negative pid, which `os.kill` understands.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import lru_cache

from pai_runner.jobs.identity import Stat, read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Collection, Iterable

# include/uapi/linux/prctl.h
_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37

HAS_SUBREAPER = sys.platform == "linux"

# `timeout` signals its child and then the group: one order can arrive as two signals, at most
# so many seconds apart.
SAME_SIGNAL_SECONDS = 0.2


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return libc


def _prctl(option: int, argument: int) -> None:
    import ctypes

    if _libc().prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def set_subreaper(on: bool = True) -> bool:
    """Make this process the parent of its descendants' orphans, or stop being it.

    Returns whether it was it before; False on macOS, where there is no such thing.
    """
    if not HAS_SUBREAPER:
        return False
    import ctypes

    before = ctypes.c_int()
    _prctl(_GET_CHILD_SUBREAPER, ctypes.addressof(before))
    _prctl(_SET_CHILD_SUBREAPER, int(on))
    return bool(before.value)


def die_with_parent(signum: int, parent: int) -> bool:
    """Ask for `signum` when the thread that forked this process ends. False if it has already.

    Cleared by the exec of a set-uid program; otherwise kept through exec.
    """
    if HAS_SUBREAPER:
        _prctl(_SET_PDEATHSIG, signum)
    return os.getppid() == parent


def set_name(name: str) -> None:
    """Set the name that `ps -o comm` and `top` show; at most 15 bytes. Linux."""
    if HAS_SUBREAPER:
        import ctypes

        text = ctypes.create_string_buffer(name.encode()[:15])
        _prctl(_SET_NAME, ctypes.addressof(text))


def all_stats() -> dict[int, Stat]:
    """Return what /proc says of every process; nothing on macOS."""
    if not HAS_SUBREAPER:
        return {}
    found = ((int(name), read_stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return {pid: stat for pid, stat in found if stat is not None}


def descendants(root: int, without: Collection[int] = ()) -> dict[int, Stat]:
    """Return the processes below `root`, except those in `without` and what is below them."""
    stats = all_stats()
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found: dict[int, Stat] = {}
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in without and pid not in found:
                found[pid] = stats[pid]
                waiting.append(pid)
    return found


def living(stats: dict[int, Stat]) -> list[int]:
    """Return the pids of those that are no zombies."""
    return [pid for pid, stat in stats.items() if not stat.zombie]


def group_members(leader: int | None) -> list[int]:
    """Return [-leader], which stands for the process group, while the group has members."""
    if leader is None:
        return []
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of which only zombies are left.
        return []
    return [-leader]


def send(pids: Iterable[int], *signals: int) -> None:
    """Send `signals` to each process that is still there and may be signalled."""
    for pid in pids:
        try:
            for signum in signals:
                os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            # PermissionError: a set-uid descendant. It shows among those that did not end.
            continue


def reap() -> tuple[list[tuple[int, int]], bool]:
    """Collect every child that has ended: (pid, wait status), and whether any child is left."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended.append((pid, status))


def exit_code(status: int) -> int:
    """Return a wait status as a shell's exit code: 128 + the number of a signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def wake_on(orders: Collection[int], *others: int) -> int:
    """Let these signals wake a loop, no more; return the descriptor that gives their numbers.

    `orders` that came before are dropped: they were meant for who started this process.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    for signum in orders:
        signal.signal(signum, signal.SIG_IGN)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signum in (*orders, *others):
        signal.signal(signum, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    return reader


def close_all_except(keep: Collection[int]) -> None:
    """Close every descriptor from 3 on that is not in `keep`."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        # A bare container without /dev/fd.
        numbers = list(range(min(os.sysconf("SC_OPEN_MAX"), 65536)))
    for descriptor in numbers:
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                # Not open, or the descriptor that listdir itself had.
                continue
