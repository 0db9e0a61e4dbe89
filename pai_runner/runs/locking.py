"""One at a time: locks that a kernel holds for a living process, and lets go of with it.

A lock is an flock(2) on a file in `<home>/locks`; the file says who holds it, or held it last. What
is looked at again and again while one waits is the lock itself: who holds it may be killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pai_runner.errors import BusyError, SetupError
from pai_runner.jobs.cancel import leftovers
from pai_runner.jobs.directory import JobDirectory, home
from pai_runner.jobs.record import read
from pai_runner.jobs.runs import RunDirectory, end_run, read_run
from pai_runner.jobs.state import State

Say = Callable[[str], None]

# How often a lock is looked at by one who waits, in seconds.
TURN = 0.2
_PRIVATE = 0o700


class Lock:
    """A lock that this process may hold. `path` is its file."""

    def __init__(self, path: str) -> None:
        """Raises SetupError when the file cannot be made."""
        self.path = path
        try:
            os.makedirs(os.path.dirname(path), mode=_PRIVATE, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(
                f"the lock {path} cannot be made: {error.strerror}",
                "set PAI_HOME to a folder that you may write, on a local disk",
            ) from error

    def take(self) -> bool:
        """Take the lock, if nobody has it; tell whether this process has it now.

        Raises SetupError where the file system knows no locks.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be locked: {error.strerror}",
                "set PAI_HOME to a folder on a local disk",
            ) from error
        return True

    def claim(self, run_id: str) -> None:
        """Say who has the lock, which this process has. Raises SetupError."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps({"run": run_id}).encode(), 0)
        except OSError as error:
            raise SetupError(
                f"{self.path} cannot be written: {error.strerror}", "free some space"
            ) from error

    def holder(self) -> str:
        """Return the id of the run that claimed it last; empty where that is not known."""
        try:
            return str(json.loads(os.pread(self._descriptor, 4096, 0))["run"])
        except (ValueError, KeyError, TypeError):
            return ""  # it has just been made, or claimed

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)


@contextmanager
def held(
    name: str, run_id: str, if_running: str, most_seconds: float | None, say: Say
) -> Iterator[None]:
    """Hold the lock `name` for a run, and no process of the run before it is alive.

    Where another run has it: `skip` raises BusyError, `wait` waits, up to `most_seconds`, `replace`
    ends that run first.
    """
    lock = Lock(os.path.join(home(), "locks", name))
    try:
        deadline = time.monotonic() + (float("inf") if most_seconds is None else most_seconds)
        told = ""
        while not lock.take():
            holder = lock.holder()
            if if_running == "skip":
                raise _busy(name, holder)
            if holder and holder != told:
                told = holder
                say(f"waiting for the lock `{name}`, which run {holder} has")
                if if_running == "replace":
                    end_run(RunDirectory(home(), holder))
            _turn(deadline, name, holder)
        # Until nothing lives of the run before, the lock stays in its name.
        before = lock.holder()
        while is_living(before):
            if if_running == "skip":
                raise _busy(name, before)
            _turn(deadline, name, before)
        lock.claim(run_id)
        yield
    finally:
        lock.close()


def is_living(run_id: str) -> bool:
    """Tell whether a process of a run's jobs is alive, as its keeper may be no more.

    The script of a killed keeper is ended by its supervisor, which gives it the time to save.
    """
    base = home()
    for step in read_run(RunDirectory(base, run_id)).steps if run_id else ():
        for job in step.jobs:
            directory = JobDirectory(base, job)
            if not os.path.isdir(directory.path):
                continue
            record = read(directory)
            is_over = record.state.final and record.state is not State.LOST
            if not is_over and leftovers(directory, record):
                return True
    return False


def _busy(name: str, holder: str) -> BusyError:
    return BusyError(
        f"the lock `{name}` is held by run {holder or '(just started)'}",
        "wait for it with --if-running wait, or end it with --if-running replace",
    )


def _turn(deadline: float, name: str, holder: str) -> None:
    if time.monotonic() > deadline:
        raise _busy(name, holder)
    time.sleep(TURN)


@contextmanager
def slot(most: int, run_id: str, say: Say) -> Iterator[None]:
    """Hold one of `most` places on this machine, for as long as the block takes."""
    folder = os.path.join(home(), "slots")
    taken = _first_free(folder, most, run_id, say)
    try:
        yield
    finally:
        taken.close()


def _first_free(folder: str, most: int, run_id: str, say: Say) -> Lock:
    """Wait for a place. The first of the queue looks at all, the others look at the queue."""
    queue = Lock(os.path.join(folder, "queue"))
    is_told = False
    try:
        while True:
            taken = _free_slot(folder, most) if queue.take() else None
            if taken is not None:
                taken.claim(run_id)
                return taken
            if not is_told:
                is_told = True
                say(f"waiting: {most} runs are under way on this machine (--max-running)")
            time.sleep(TURN)
    finally:
        queue.close()


def _free_slot(folder: str, most: int) -> Lock | None:
    for number in range(most):
        lock = Lock(os.path.join(folder, str(number)))
        # The script of a killed keeper has the place until it has ended.
        if lock.take() and not is_living(lock.holder()):
            return lock
        lock.close()
    return None
