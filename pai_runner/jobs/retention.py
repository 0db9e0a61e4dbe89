"""Removing the records of jobs and runs that ended long ago.

A run that stays without having succeeded keeps its jobs: whoever goes on from it reads off them
what need not be done again. So runs go first, and a job goes with its run or later.

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
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, read
from pai_runner.jobs.runs import Run, RunDirectory, all_runs, read_run
from pai_runner.jobs.state import State

# What went wrong, or how is not known. A cancelled job ended as somebody wished.
_FAILED = frozenset({State.FAILED, State.TIMED_OUT, State.LOST})
_TRASH = "trash"


@dataclass(frozen=True)
class Rule:
    """What goes: jobs and runs that ended more than `older_than` seconds ago.

    `keeps_failed` keeps those that failed, timed out or were lost. `takes_damaged` takes records
    that cannot be read, too, when nothing in their folder has changed for as long.
    """

    older_than: float
    keeps_failed: bool = False
    takes_damaged: bool = False


@dataclass(frozen=True)
class Finding:
    """What is old enough to go. `kept` says why it stays all the same; empty if it goes.

    `kind` is "job" or "run". `age` is in seconds since its end; `bytes` are what its folder takes
    of the disk.
    """

    kind: str
    id: str
    name: str
    state: str
    age: float
    bytes: int
    kept: str = ""


@dataclass(frozen=True)
class Swept:
    """What a sweep found: runs, then jobs, each newest first.

    `leftover_bytes` are those an interrupted one had left. `problems` say what lost its place and
    could not be deleted.
    """

    findings: tuple[Finding, ...]
    leftover_bytes: int
    problems: tuple[str, ...] = ()

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
    """Remove the jobs and runs that `rule` says, and return what went and what had to stay.

    `now` is in seconds since 1970. `still_needed` says why a job that has ended is needed yet,
    empty if it is not. With `dry_run` nothing is removed. Raises SetupError.
    """
    home = directories.home() if records_home is None else os.fspath(records_home)
    trash = Trash(home)
    leftover_bytes = trash.size()
    living = _jobs_with_processes()
    findings: list[Finding] = []

    def settle(finding: Finding, path: str) -> Finding:
        if not (finding.kept or dry_run):
            problem = trash.take(path)
            if problem is None:
                return finding  # another sweep was faster, and tells of it
            finding = replace(finding, kept=problem)
        findings.append(finding)
        return finding

    relied_on = _sweep_runs(home, rule, now, settle)
    for job_id in directories.all_ids(home):
        directory = JobDirectory(home, job_id)
        finding = _judged(directory, rule, now, living)
        if finding is not None:
            kept = finding.kept or relied_on.get(job_id) or still_needed(directory)
            settle(replace(finding, kept=kept), directory.path)
    return Swept(tuple(findings), leftover_bytes, () if dry_run else trash.empty())


def _sweep_runs(
    home: str, rule: Rule, now: float, settle: Callable[[Finding, str], Finding]
) -> dict[str, str]:
    """Settle the runs; return the jobs that those rely on which stay, each with its reason."""
    relied_on: dict[str, str] = {}
    for directory in all_runs(home):
        run = read_run(directory)
        finding = _judged_run(home, directory, run, rule, now)
        if finding is not None:
            finding = settle(finding, directory.path)
        if run.state is not State.SUCCEEDED and (finding is None or finding.kept):
            reason = f"run {run.id} may go on from it"
            relied_on.update((job, reason) for step in run.steps for job in step.jobs)
    return relied_on


# ====== What goes ======


def _judged_run(
    home: str, directory: RunDirectory, run: Run, rule: Rule, now: float
) -> Finding | None:
    """Return what becomes of a run; None where it is too young, or kept by the rule itself."""
    old = _old_enough(directory.path, run.state, run.ended, rule, now)
    if old is None:
        return None
    kept = _not_over(run.state, run.message, run.keeper, rule)
    # Jobs outlive the keeper of a lost run, and may succeed yet.
    last = {
        job: read(JobDirectory(home, job)).state for step in run.steps for job in step.jobs[-1:]
    }
    for job, state in last.items():
        if not (kept or state.final or state is State.UNKNOWN):
            kept = f"its job {job} is {state.value}"
    is_done = len(last) == len(run.steps) and set(last.values()) == {State.SUCCEEDED}
    if not kept and is_done and run.state is State.LOST:
        kept = "all its commands have succeeded, and nothing else tells it"
    return Finding("run", directory.id, run.name, run.state.value, *old, kept)


def _judged(
    directory: JobDirectory, rule: Rule, now: float, living: frozenset[str]
) -> Finding | None:
    """Return what becomes of a job; None where it is too young, or kept by the rule itself."""
    record = read(directory)
    old = _old_enough(directory.path, record.state, record.ended, rule, now)
    if old is None:
        return None
    kept = _not_over(record.state, record.message, record.supervisor or record.launcher, rule)
    kept = kept or _still_running(directory, record, living)
    return Finding("job", directory.id, record.job_name, record.state.value, *old, kept)


def _old_enough(
    folder: str, state: State, ended_text: str | None, rule: Rule, now: float
) -> tuple[float, int] | None:
    """Return the age in seconds and the bytes of what the rule takes; None for what it keeps."""
    if rule.keeps_failed and state in _FAILED:
        return None
    ended = _seconds(ended_text)
    if ended is not None and now - ended <= rule.older_than:
        return None
    size, changed = _looked_through(folder)
    # When a lost job ended is not known, nor of a damaged record: its last sign of life counts.
    age = now - (changed if ended is None else ended)
    if age <= rule.older_than or not os.path.isdir(folder):
        return None
    return age, size


def _not_over(state: State, message: str, owner: Identity | None, rule: Rule) -> str:
    """Return why what is in this state stays; empty where it has ended."""
    if state is State.UNKNOWN:
        return "" if rule.takes_damaged else f"{message}; --damaged removes it"
    if state.final:
        return ""
    where = f" on {owner.host}" if owner is not None and owner.elsewhere else ""
    return f"it is {state.value}{where}"


def _still_running(directory: JobDirectory, record: Record, living: frozenset[str]) -> str:
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

    def empty(self) -> tuple[str, ...]:
        """Delete all that is in it; return what cannot be deleted, and why."""
        if not os.path.isdir(self._path):
            return ()
        problems = []
        try:
            names = sorted(os.listdir(self._path))
            # A machine that crashes now must not bring half a job back to its place.
            for folder in (*self._emptied, self._path):
                sync_directory(folder)
        except OSError as error:
            return (f"{error.filename or self._path}: {error.strerror}",)
        for name in names:
            path = os.path.join(self._path, name)
            try:
                _delete(path)
            except OSError as error:
                problems.append(f"{error.filename or path}: {error.strerror or error}")
        return tuple(problems)

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
