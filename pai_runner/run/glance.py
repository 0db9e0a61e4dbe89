"""The jobs that run now, as a person wants to see them: who does what, and how far it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pai_runner.jobs import directory as directories
from pai_runner.jobs.directory import JobDirectory, RoleDirectory
from pai_runner.jobs.record import Record, RoleProcess, read
from pai_runner.jobs.state import State
from pai_runner.run.steps import Progress, StepMeter, last_line, read_progress

# How much of a log's end is read: some hundred lines.
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class RoleView:
    """A role of a running job. `devices` are GPUs, empty for the CPU.

    `step` and `steps_per_second` are None where its output does not tell.
    """

    label: str
    pid: int | None
    devices: tuple[str, ...]
    step: int | None
    steps_per_second: float | None
    last_line: str


@dataclass(frozen=True)
class JobView:
    """A running job; it was begun `seconds` ago."""

    id: str
    name: str
    state: str
    seconds: float
    roles: tuple[RoleView, ...]


class Glance:
    """Looks at the running jobs again and again, and measures between its looks."""

    def __init__(self, records_home: str | os.PathLike[str] | None = None) -> None:
        self._home = directories.home() if records_home is None else os.fspath(records_home)
        self._over: set[str] = set()
        self._meters: dict[str, StepMeter] = {}

    def look(self, now: float) -> list[JobView]:
        """Return the jobs that run, newest first; `now` is in seconds since 1970.

        Records that cannot be read are left out. Raises SetupError when the home cannot be read.
        """
        jobs = []
        for job_id in directories.all_ids(self._home):
            if job_id in self._over:
                continue
            directory = JobDirectory(self._home, job_id)
            record = read(directory)
            if record.state.final:
                # For good: thousands of them are not read at every look.
                self._over.add(job_id)
            elif record.state is not State.UNKNOWN:
                jobs.append(self._job(directory, record, now))
        return jobs

    def _job(self, directory: JobDirectory, record: Record, now: float) -> JobView:
        devices = _devices(directory)
        folders = _role_folders(directory)
        roles = tuple(
            self._role(role, folders.get(role.label), devices.get(role.label, ()), now)
            for role in record.roles
        )
        since = record.started or record.created
        return JobView(
            record.id, record.job_name, record.state.value, _seconds_since(since, now), roles
        )

    def _role(
        self, role: RoleProcess, folder: RoleDirectory | None, devices: tuple[str, ...], now: float
    ) -> RoleView:
        logs = [] if folder is None else _newest_first(folder.stdout, folder.stderr)
        texts = [_tail(log) for log in logs]
        progress = _first_found([read_progress(text) for text in texts])
        rate = progress.rate
        if folder is not None and progress.step is not None:
            measured = self._meters.setdefault(folder.path, StepMeter()).note(progress.step, now)
            rate = measured if rate is None else rate
        line = next(filter(None, map(last_line, texts)), "")
        pid = role.process.pid if role.process else None
        return RoleView(role.label, pid, devices, progress.step, rate, line)


def _first_found(found: list[Progress]) -> Progress:
    return next((one for one in found if one != Progress()), Progress())


def _devices(directory: JobDirectory) -> Mapping[str, tuple[str, ...]]:
    """Return the devices of each role by its label; none where there is no plan to be read."""
    try:
        with open(directory.spec, encoding="utf-8") as file:
            roles: list[dict[str, Any]] = json.load(file)["roles"]
        return {f"{role['name']}-{role['index']}": tuple(role["devices"]) for role in roles}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _role_folders(directory: JobDirectory) -> Mapping[str, RoleDirectory]:
    """Return the folder of each role in its last attempt; none where they cannot be read."""
    try:
        return {role.label: role for role in directory.roles()}
    except OSError:
        return {}


def _newest_first(*paths: str) -> list[str]:
    """Return those of `paths` that have something in them, last written first.

    One that cannot be looked at is left out: the other jobs are still to be shown.
    """
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if status.st_size:
            found.append((status.st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _tail(path: str) -> str:
    """Return the end of a log; bytes that are no UTF-8 are replaced, and none if it is gone."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _seconds_since(text: str | None, now: float) -> float:
    try:
        began = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return max(0.0, now - began.timestamp())
