"""Removing the records of jobs that ended long ago.

A folder loses its place with one rename, and is deleted where nobody looks for jobs: whoever lists
the jobs meanwhile finds a record whole or not at all, and what a killed removal leaves behind is
deleted by the next one. Two at once share the work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from pai_runner.errors import SetupError
from pai_runner.jobs import directory as directories
from pai_runner.jobs.cancel import job_path_of
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.files import sync_directory
from pai_runner.jobs.record import Record, read
from pai_runner.jobs.state import State

# What went wrong, or how is not known. A cancelled job ended as somebody wished.
_FAILED = frozenset({State.FAILED, State.TIMED_OUT, State.LOST})
_TRASH = "trash"


@dataclass(frozen=True)
class Rule:
    """What goes: jobs that ended more than `older_than` seconds ago.

    `keeps_failed` keeps those that failed, timed out or were lost. `takes_damaged` takes records
    that cannot be read, too, when nothing in their folder has changed for as long.
    """

    older_than: float
    keeps_failed: bool = False
    takes_damaged: bool = False


@dataclass(frozen=True)
class Finding:
    """A job that is old enough to go. `kept` says why it stays all the same; empty if it goes.

    `age` is in seconds since its end; `bytes` are what its folder takes of the disk.
    """

    id: str
    name: str
    state: str
    age: float
    bytes: int
    kept: str = ""


@dataclass(frozen=True)
class Swept:
    """What a sweep found, newest first; `leftover_bytes` are those an interrupted one had left."""

    findings: tuple[Finding, ...]
    leftover_bytes: int

    @property
    def removed(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.kept]

    @property
    def kept(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kept]

    @property
    def bytes(self) -> int:
        return self.leftover_bytes + sum(finding.bytes for finding in self.removed)


def sweep(
    rule: Rule,
    now: float,
    still_needed: Callable[[JobDirectory], str],
    dry_run: bool = False,
    records_home: str | os.PathLike[str] | None = None,
) -> Swept:
    """Remove the jobs that `rule` says, and return what went and what had to stay.

    `now` is in seconds since 1970. `still_needed` says why a job that has ended is needed yet,
    empty if it is not. With `dry_run` nothing is removed. Raises SetupError.
    """
    home = directories.home() if records_home is None else os.fspath(records_home)
    trash = Trash(home)
    leftover_bytes = trash.size()
    living = _jobs_with_processes()
    findings = []
    for job_id in directories.all_ids(home):
        directory = JobDirectory(home, job_id)
        finding = _judged(directory, rule, now, living, still_needed)
        if finding is None:
            continue
        if not (finding.kept or dry_run):
            problem = trash.take(directory.path)
            if problem is None:
                continue  # another sweep was faster
            finding = replace(finding, kept=problem)
        findings.append(finding)
    if not dry_run:
        trash.empty()
    return Swept(tuple(findings), leftover_bytes)


# ====== What goes ======


def _judged(
    directory: JobDirectory,
    rule: Rule,
    now: float,
    living: frozenset[str],
    still_needed: Callable[[JobDirectory], str],
) -> Finding | None:
    """Return what becomes of a job; None where it is too young, or kept by the rule itself."""
    record = read(directory)
    if rule.keeps_failed and record.state in _FAILED:
        return None
    ended = _seconds(record.ended)
    if ended is not None and now - ended <= rule.older_than:
        return None
    size, changed = _looked_through(directory.path)
    # When a lost job ended is not known, nor of a damaged record: its last sign of life counts.
    age = now - (changed if ended is None else ended)
    if age <= rule.older_than or not os.path.isdir(directory.path):
        return None
    kept = _reason_to_stay(directory, record, rule, living) or still_needed(directory)
    return Finding(directory.id, record.job_name, record.state.value, age, size, kept)


def _reason_to_stay(
    directory: JobDirectory, record: Record, rule: Rule, living: frozenset[str]
) -> str:
    if record.state is State.UNKNOWN:
        if not rule.takes_damaged:
            return f"{record.message}; --damaged removes it"
    elif not record.state.final:
        owner = record.supervisor or record.launcher
        where = f" on {owner.host}" if owner is not None and owner.elsewhere else ""
        return f"it is {record.state.value}{where}"
    recorded = [record.supervisor]
    for role in record.roles:
        recorded += [role.guard, role.process]
    if directory.path in living or any(process and process.alive for process in recorded):
        return f"processes of it still run: pai cancel --force {directory.id} ends them"
    return ""


def _jobs_with_processes() -> frozenset[str]:
    """Return the folders of the jobs that have living processes here. Linux; else none."""
    if not os.path.isdir("/proc/self"):
        return frozenset()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return frozenset(path for path in map(job_path_of, pids) if path is not None)


def _looked_through(root: str) -> tuple[int, float]:
    """Return the bytes of a folder's files, and when something in it last changed.

    What may not be read, or is removed meanwhile, is not counted.
    """
    size, changed = 0, 0.0
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            changed = max(changed, os.lstat(folder).st_mtime)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_size
                    changed = max(changed, status.st_mtime)
        except OSError:
            continue
    return size, changed


def _seconds(time_text: str | None) -> float | None:
    """Return a record's time in seconds since 1970; None where there is none that can be read."""
    if time_text is None:
        return None
    try:
        return datetime.fromisoformat(time_text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


# ====== How it goes ======


class Trash:
    """The folder `<home>/trash`: what is in it is to be deleted, whoever put it there.

    It lies on the disk of the records, so that a folder gets there in one step.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._path = os.path.join(home, _TRASH)
        self._emptied: set[str] = set()

    def size(self) -> int:
        """Return how many bytes are in it."""
        return _looked_through(self._path)[0]

    def take(self, folder: str) -> str | None:
        """Take a folder of the home; return why it cannot be taken, or "".

        None where it is no longer there. Raises SetupError when there can be no trash.
        """
        parent, name = os.path.split(folder)
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            # The kind of folder is part of the name: two kinds may have an id in common.
            os.rename(folder, os.path.join(self._path, f"{os.path.basename(parent)}-{name}"))
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"it cannot be removed: {error.strerror}"
        self._emptied.add(parent)
        return ""

    def empty(self) -> None:
        """Delete all that is in it. Raises SetupError when something cannot be deleted."""
        try:
            names = os.listdir(self._path)
        except FileNotFoundError:
            return
        try:
            # A machine that crashes now must not bring half a job back to its place.
            for folder in (*self._emptied, self._path):
                sync_directory(folder)
            for name in names:
                _delete(os.path.join(self._path, name))
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> SetupError:
        return SetupError(
            f"{error.filename or self._path} cannot be removed: {error.strerror}",
            f"remove {self._path} by hand",
        )


def _delete(folder: str) -> None:
    """Delete a folder, together with another process that may delete it, too. Raises OSError."""
    is_open = False
    while os.path.lexists(folder):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # the other one has just removed what we were at
        except PermissionError:
            if is_open:
                raise
            is_open = True
            _open_folders(folder)


def _open_folders(root: str) -> None:
    """Let what is below `root` be deleted: scripts make folders that nobody may write."""
    os.chmod(root, 0o700)
    for folder, names, _ in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
