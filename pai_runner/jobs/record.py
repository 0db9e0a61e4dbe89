"""A job's record: state.json, written by one process at a time and read by any.

The launcher writes PENDING; from then on the supervisor is the writer, until it has written a
final state or is known to be dead. A reader never writes: it sees for itself when the writer is
gone, and then shows LOST.
"""

from __future__ import annotations

import json
import os
import time

from pai_runner.jobs.files import is_out_of_space, now_text, write_all, write_atomic, write_in_place
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.state import Kind, Reason, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pai_runner.jobs.directory import JobDirectory

SCHEMA = 1


class RoleProcess:
    """A role as the record knows it: its guard, its process and what it ended with."""

    __slots__ = ("exit_code", "guard", "label", "process")

    def __init__(
        self,
        label: str,
        guard: Identity | None = None,
        process: Identity | None = None,
        exit_code: int | None = None,
    ) -> None:
        self.label = label
        self.guard = guard
        self.process = process
        self.exit_code = exit_code

    def to_json(self) -> dict[str, Any]:
        """Return the role as plain JSON values."""
        return {
            "label": self.label,
            "guard": self.guard and self.guard.to_json(),
            "process": self.process and self.process.to_json(),
            "exit_code": self.exit_code,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RoleProcess:
        """Return the role that `to_json` gave."""
        return cls(
            str(data["label"]),
            Identity.from_json(data["guard"]),
            Identity.from_json(data["process"]),
            data["exit_code"],
        )


class Record:
    """What is known of a job. Times are UTC, as ISO text.

    `role` is the role that decided how the job ended. `kind` says where `exit_code` comes from.
    `last_lines` are the ends of that role's stderr when the job did not succeed. Not a
    dataclass, whose import would cost the supervisor more than its own start.
    """

    __slots__ = (
        "created",
        "ended",
        "exit_code",
        "id",
        "job_name",
        "kind",
        "last_lines",
        "launcher",
        "message",
        "reason",
        "role",
        "roles",
        "started",
        "state",
        "supervisor",
    )

    def __init__(
        self,
        id: str,
        job_name: str,
        state: State,
        reason: Reason | None = None,
        exit_code: int | None = None,
        kind: Kind | None = None,
        message: str = "",
        role: str | None = None,
        created: str | None = None,
        started: str | None = None,
        ended: str | None = None,
        launcher: Identity | None = None,
        supervisor: Identity | None = None,
        roles: tuple[RoleProcess, ...] = (),
        last_lines: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self.job_name = job_name
        self.state = state
        self.reason = reason
        self.exit_code = exit_code
        self.kind = kind
        self.message = message
        self.role = role
        self.created = created
        self.started = started
        self.ended = ended
        self.launcher = launcher
        self.supervisor = supervisor
        self.roles = roles
        self.last_lines = last_lines

    def replaced(self, **changes: Any) -> Record:
        """Return a record like this one, with `changes`."""
        return Record(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "job_name": self.job_name,
            "state": self.state.value,
            "reason": self.reason and self.reason.value,
            "exit_code": self.exit_code,
            "kind": self.kind and self.kind.value,
            "message": self.message,
            "role": self.role,
            "times": {"created": self.created, "started": self.started, "ended": self.ended},
            "launcher": self.launcher and self.launcher.to_json(),
            "supervisor": self.supervisor and self.supervisor.to_json(),
            "roles": [role.to_json() for role in self.roles],
            "last_lines": list(self.last_lines),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Return the record that `to_json` gave.

        Raises ValueError, KeyError, TypeError or AttributeError for anything else.
        """
        times = data["times"]
        return cls(
            id=str(data["id"]),
            job_name=str(data["job_name"]),
            state=State(data["state"]),
            reason=None if data["reason"] is None else Reason(data["reason"]),
            exit_code=data["exit_code"],
            kind=None if data["kind"] is None else Kind(data["kind"]),
            message=str(data["message"]),
            role=data["role"],
            created=times["created"],
            started=times["started"],
            ended=times["ended"],
            launcher=Identity.from_json(data["launcher"]),
            supervisor=Identity.from_json(data["supervisor"]),
            roles=tuple(RoleProcess.from_json(role) for role in data["roles"]),
            last_lines=tuple(data["last_lines"]),
        )


# ====== Writing: only by the process that owns the record ======


def write(directory: JobDirectory, record: Record) -> None:
    """Replace the record. On a full disk the old file's own space is used. Raises OSError."""
    try:
        write_atomic(directory.state, _bytes(record))
    except OSError as error:
        if not (is_out_of_space(error) and os.path.exists(directory.state)):
            raise
        brief = record.replaced(last_lines=(), message=record.message[:400])
        write_in_place(directory.state, _bytes(brief))


def append_event(directory: JobDirectory, record: Record) -> None:
    """Add the record's state and reason to the job's events. Raises OSError."""
    event = {
        "time": now_text(),
        "state": record.state.value,
        "reason": record.reason and record.reason.value,
        "message": record.message,
    }
    line = json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptor = os.open(directory.events, flags, 0o600)
    try:
        write_all(descriptor, line)
    finally:
        os.close(descriptor)


def _bytes(record: Record) -> bytes:
    text = json.dumps(record.to_json(), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


# ====== Reading: by anyone, at any time ======


def read(directory: JobDirectory) -> Record:
    """Return the job's record, LOST if who should bring it to an end is gone.

    A record that cannot be read comes back as UNKNOWN, its message saying why.
    """
    record = load(directory)
    if _owner_gone(record):
        # Its writer may have ended between our reading and our looking: read what it left.
        record = load(directory)
        if _owner_gone(record):
            return _lost(record)
    return record


def load(directory: JobDirectory) -> Record:
    """Return the record as it stands in the file, UNKNOWN when it cannot be read."""
    try:
        return _load(directory)
    except FileNotFoundError:
        message = "no record: the job's folder was made, and the job was never started"
    except OSError as error:
        message = f"the record cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the record {directory.state} is damaged: {error}"
    return Record(directory.id, "", State.UNKNOWN, Reason.UNKNOWN, message=message)


def _load(directory: JobDirectory) -> Record:
    try:
        return _parse(directory)
    except ValueError:
        # The one moment in which a file is not whole is write_in_place, and it is short.
        time.sleep(0.01)
        return _parse(directory)


def _parse(directory: JobDirectory) -> Record:
    with open(directory.state, "rb") as file:
        data = json.loads(file.read())
    if not isinstance(data, dict):
        raise ValueError("not an object")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r}; this version reads {SCHEMA}")
    return Record.from_json(data)


def _owner(record: Record) -> Identity | None:
    return record.supervisor or record.launcher


def _owner_gone(record: Record) -> bool:
    owner = _owner(record)
    return not (record.state.final or record.state is State.UNKNOWN) and (
        owner is None or owner.gone
    )


def _lost(record: Record) -> Record:
    owner = _owner(record)
    pid = f" (pid {owner.pid})" if owner else ""
    if owner is not None and owner.rebooted:
        reason = Reason.MACHINE_RESTARTED
        message = f"the machine was restarted while the job was {record.state.value}"
    elif record.supervisor is None:
        reason = Reason.LAUNCHER_GONE
        message = f"the launcher{pid} was gone before the job had a supervisor"
    else:
        reason = Reason.SUPERVISOR_GONE
        message = f"the supervisor{pid} was gone while the job was {record.state.value}"
    living = [role.process.pid for role in record.roles if role.process and role.process.alive]
    if living:
        pids = ", ".join(map(str, living))
        message += f"; its script still runs (pid {pids}): pai cancel --force {record.id} ends it"
    return record.replaced(state=State.LOST, reason=reason, message=message)
