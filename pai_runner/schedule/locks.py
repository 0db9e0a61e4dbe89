"""The locks of schedules: released by the kernel when whoever holds them is gone.

While a schedule is run its lock's file tells who does so, and runs what comes due meanwhile. Where
that process was killed, the `pai` that it had started goes on and holds the lock: the next to
come takes its place, and waits.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pai_runner.errors import BusyError
from pai_runner.jobs.identity import Identity
from pai_runner.schedule.catalog import folder, lock_path, make_folder, unwritable


@contextmanager
def running(name: str, tell: Callable[[str], None] | None = None) -> Iterator[int]:
    """Hold a schedule's lock; yield its descriptor. Raises BusyError when another holds it.

    A process that inherits the descriptor goes on holding it. With `tell`, where only such a one
    is left, its end is waited for, and `tell` is told so.
    """
    path = lock_path(name)
    descriptor = _open_lock(path, is_patient=False)
    if descriptor is None and tell is not None and is_left(name):
        _take_over(path)
        tell(f"{name}: what was started by a process that was killed still runs; waits for its end")
        descriptor = _open_lock(path, is_patient=True)
    if descriptor is None:
        raise BusyError(
            f"schedule {name} is being run", "it runs once at a time; `pai schedule ls` shows it"
        )
    try:
        _write_owner(descriptor)
        yield descriptor
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def is_left(name: str) -> bool:
    """Return whether who ran a schedule was killed, and nobody has taken its place."""
    try:
        with open(lock_path(name), encoding="utf-8") as file:
            owner = Identity.from_json(json.load(file))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # nobody runs it, or an older `pai` does, which does not tell
    return owner is not None and owner.gone


@contextmanager
def changing() -> Iterator[None]:
    """Hold the lock of those who install and remove schedules; wait for it."""
    with _locked(os.path.join(folder(), ".lock"), is_patient=True):
        yield


@contextmanager
def serving() -> Iterator[None]:
    """Hold the lock of `pai schedule serve`. Raises BusyError when another process serves."""
    with _locked(os.path.join(folder(), ".serve.lock"), is_patient=False) as descriptor:
        if descriptor is None:
            raise BusyError(f"the schedules in {folder()} are being served by another process")
        yield


@contextmanager
def _locked(path: str, is_patient: bool) -> Iterator[int | None]:
    """Hold the lock on `path`; yield its descriptor, or None where another holds it."""
    descriptor = _open_lock(path, is_patient)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_lock(path: str, is_patient: bool) -> int | None:
    while True:
        descriptor = _opened(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # `pai schedule rm` has removed it meanwhile


def _opened(path: str) -> int:
    make_folder()
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unwritable(error) from error


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# ====== Who runs it ======


def _take_over(path: str) -> None:
    """Have those who come later leave to this process what is due, while it waits for the lock."""
    descriptor = _opened(path)
    try:
        _write_owner(descriptor)
    finally:
        os.close(descriptor)


def _write_owner(descriptor: int) -> None:
    owner = json.dumps(Identity.of(os.getpid()).to_json())
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
    except OSError as error:
        raise unwritable(error) from error
