"""From commands, or from a run on record, to a run that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pai_runner import api
from pai_runner.command import Job, Statement
from pai_runner.errors import BusyError, UsageError
from pai_runner.jobs.directory import home
from pai_runner.jobs.files import unwritable, write_atomic
from pai_runner.jobs.runs import Run, RunDirectory, create_run, read_run
from pai_runner.jobs.state import State
from pai_runner.run.options import Options
from pai_runner.runs.keeper import Keeper
from pai_runner.runs.locking import is_living
from pai_runner.runs.notifying import recordable
from pai_runner.runs.once import succeeded_steps
from pai_runner.runs.options import Retries, RunOptions
from pai_runner.runs.shown import shown_statements, steps_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked of a run. `cyctime` and `bizdate` are texts, as the record has them.

    `forgotten` counts those who were to be told of a run on record, and were not recorded: a
    webhook's URL is a secret.
    """

    statements: tuple[Statement, ...]
    options: Options
    run_options: RunOptions
    cwd: Path
    cyctime: str = ""
    bizdate: str = ""
    forgotten: int = 0


def prepare(request: Request, say: Say, earlier: Run | None = None) -> tuple[RunDirectory, Keeper]:
    """Make the folder of a new run, and return it with what keeps the run.

    All commands are checked first: PaiError. What has succeeded in the run `earlier`, of the same
    commands, is not run again.
    """
    jobs = api.jobs_of(request.statements, say)
    asked = request.run_options
    if asked.once_per and not asked.name:
        raise UsageError("--once-per needs the run's name", "give it: --name NAME")
    shown = shown_statements(jobs)
    steps = steps_of(jobs, shown)
    directory = create_run()
    _write_request(directory, request, jobs, shown)
    run = Run(
        directory.id,
        asked.name or steps[0].name,
        State.PENDING,
        steps,
        cyctime=request.cyctime,
        bizdate=request.bizdate,
    )
    done = succeeded_steps(earlier) if earlier else {}
    both = request.options, asked
    return directory, Keeper(directory, run, jobs, both, request.cwd, say, _date(request), done)


def _date(request: Request) -> str:
    """Return what the run may succeed once for; a file can be called so. Empty for nothing."""
    once_per = request.run_options.once_per
    if once_per == "cyctime" and request.cyctime:
        # In UTC: the clock on the wall shows an hour twice when it is put back.
        instant = datetime.fromisoformat(request.cyctime).astimezone(timezone.utc)
        return f"{instant:%Y%m%dT%H%M%SZ}"
    return request.bizdate if once_per == "bizdate" else ""


def recorded_request(directory: RunDirectory) -> tuple[Request, Run]:
    """Return what a run on record was asked, and its record.

    Raises UsageError when it is still under way, or when not all of it was recorded, BusyError
    while a script of it lives.
    """
    run = read_run(directory)
    if run.state is State.UNKNOWN:
        raise UsageError(f"run {run.id}: {run.message}", "give its commands again")
    if not run.state.final:
        raise UsageError(
            f"run {run.id} is {run.state.value}", "wait for its end, or end it with pai cancel"
        )
    if is_living(run.id):
        raise BusyError(
            f"a script of run {run.id} still lives, as its keeper was killed",
            f"wait for its end; `pai runs {run.id}` names its job, which pai cancel ends",
        )
    try:
        data = json.loads(Path(directory.request).read_bytes())
        return _request_of(run, data), run
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run {run.id} has no readable request: {type(error).__name__}: {error}",
            "give its commands again",
        ) from error


def recorded_folder(run_id: str) -> str:
    """Return the folder that a run was started in; empty where that is not recorded."""
    try:
        return str(json.loads(Path(RunDirectory(home(), run_id).request).read_bytes())["cwd"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _request_of(run: Run, data: dict[str, Any]) -> Request:
    """Return what `_write_request` wrote. Raises UsageError, and KeyError or TypeError."""
    if data["has_secrets"]:
        raise UsageError(
            f"the commands of run {run.id} held secrets, which are not recorded",
            "give the commands again; a role, or your own settings, keep keys out of them",
        )
    return Request(
        tuple(Statement(**statement) for statement in data["statements"]),
        Options(**data["options"]),
        _run_options(data["run_options"]),
        Path(data["cwd"]),
        data["cyctime"],
        data["bizdate"],
        data.get("forgotten", 0),
    )


def _run_options(data: dict[str, Any]) -> RunOptions:
    retries = {**data["retries"]}
    for name in ("kinds", "transient", "fatal"):
        retries[name] = tuple(retries[name])
    lists = {name: tuple(data[name]) for name in ("notify", "notify_on")}
    return RunOptions(**{**data, **lists, "retries": Retries(**retries)})


def _write_request(
    directory: RunDirectory, request: Request, jobs: Sequence[Job], shown: Sequence[Statement]
) -> None:
    asked = request.run_options
    kept = replace(asked, notify=tuple(filter(recordable, asked.notify)))
    content = {
        "statements": [asdict(statement) for statement in shown],
        "has_secrets": any(one != job.statement for one, job in zip(shown, jobs, strict=True)),
        "options": asdict(request.options),
        "run_options": asdict(kept),
        "cwd": str(request.cwd),
        "cyctime": request.cyctime,
        "bizdate": request.bizdate,
        "forgotten": request.forgotten + len(asked.notify) - len(kept.notify),
    }
    try:
        write_atomic(directory.request, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise unwritable(directory.path, error) from error
