"""Asking a job to end, from any terminal."""

from __future__ import annotations

import os
import signal
import time

from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.files import write_atomic
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, read

# Every process of a job inherits this variable, the job's folder in it.
MARKER = "PAI_JOB_DIR"
FORCE = b"force\n"
STOP = b"stop\n"
# A killed process is gone at once unless it hangs in the kernel (a dead NFS server, a driver).
_KILL_SECONDS = 10.0


def request_cancel(directory: JobDirectory, force: bool = False) -> Record:
    """Ask the job to end and return its record as it was then; the supervisor does the rest.

    `force` ends it without grace. Of a job that has no supervisor any more, `force` kills the
    processes that are left; without it their being there raises UsageError. Raises SetupError
    when the request cannot be written or a process may not be killed.
    """
    record = read(directory)
    owner = record.supervisor or record.launcher
    if not record.state.final and owner is not None:
        try:
            write_atomic(directory.cancel, FORCE if force else STOP)
        except OSError as error:
            raise SetupError(
                f"the request {directory.cancel} cannot be written: {error.strerror}",
                "cancel as the user who started the job",
            ) from error
        if record.supervisor is not None:
            _nudge(record.supervisor)
        return record
    left = leftovers(directory, record)
    if left and not force:
        pids = ", ".join(str(process.pid) for process in left)
        raise UsageError(
            f"job {directory.id} is {record.state.value}, but processes of it still run: {pids}",
            f"end them with: pai cancel --force {directory.id}",
        )
    _kill(directory, left)
    return record


def leftovers(directory: JobDirectory, record: Record | None = None) -> list[Identity]:
    """Return the job's living processes on this machine, apart from this one.

    They are the recorded ones, told by pid, start time and boot, and (Linux) those that carry
    the job's folder in their environment.
    """
    known = read(directory) if record is None else record
    recorded = [known.supervisor]
    for role in known.roles:
        recorded += [role.guard, role.process]
    found = {process.pid: process for process in recorded if process and process.alive}
    for pid in marked_processes(directory):
        found.setdefault(pid, Identity.of(pid))
    found.pop(os.getpid(), None)
    return [process for process in found.values() if process.alive]


def marked_processes(directory: JobDirectory) -> list[int]:
    """Return the processes, of those we may look into, that the job started. Linux; else none."""
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdigit() and is_marked(int(name), directory.path)]


def is_marked(pid: int, path: str) -> bool:
    """Tell whether `pid` was started by the job whose folder is `path`."""
    return job_path_of(pid) == path


def job_path_of(pid: int) -> str | None:
    """Return the folder of the job that started `pid`; None if none did, or it may not be seen."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    head = MARKER.encode() + b"="
    for variable in variables:
        if variable.startswith(head):
            return os.fsdecode(variable[len(head) :])
    return None


def _nudge(supervisor: Identity) -> None:
    """Wake the supervisor, so that it looks at the request now and not at its next turn.

    SIGCONT does no harm to whom it does not concern, and wakes a supervisor that was stopped.
    """
    if not supervisor.alive:
        return
    try:
        os.kill(supervisor.pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        # Gone meanwhile, or another user's: it looks at the request once a second anyway.
        return


def _kill(directory: JobDirectory, processes: list[Identity]) -> None:
    deadline = time.monotonic() + _KILL_SECONDS
    while processes:
        for process in processes:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise SetupError(
                    f"process {process.pid} of job {directory.id} may not be killed",
                    "cancel as the user who started the job",
                ) from error
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in processes)
            raise SetupError(
                f"processes of job {directory.id} do not end: {pids}",
                "they hang in the kernel; a device or a network file system does not answer",
            )
        time.sleep(0.01)
        processes = leftovers(directory)
