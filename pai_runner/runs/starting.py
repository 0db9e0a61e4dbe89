"""From commands, or from a run on record, to a run that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pai_runner import api
from pai_runner.command import Job, Statement
from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.files import write_atomic
from pai_runner.jobs.runs import Run, RunDirectory, create_run, read_run
from pai_runner.jobs.state import State
from pai_runner.run.options import Options
from pai_runner.runs.keeper import Keeper, steps_of
from pai_runner.runs.notifying import recordable
from pai_runner.runs.once import succeeded_steps
from pai_runner.runs.options import Retries, RunOptions
from pai_runner.secret import redact_secrets

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked of a run. `cyctime` and `bizdate` are texts, as the record has them."""

    statements: tuple[Statement, ...]
    options: Options
    run_options: RunOptions
    cwd: Path
    cyctime: str = ""
    bizdate: str = ""


def prepare(request: Request, say: Say, earlier: Run | None = None) -> tuple[RunDirectory, Keeper]:
    """Make the folder of a new run, and return it with what keeps the run.

    All commands are checked first: PaiError. What has succeeded in the run `earlier`, of the same
    commands, is not run again.
    """
    jobs = api.jobs_of(request.statements, say)
    asked = request.run_options
    if asked.once_per and not asked.name:
        raise UsageError("--once-per needs the run's name", "give it: --name NAME")
    steps = steps_of(jobs)
    directory = create_run()
    _write_request(directory, request, jobs)
    run = Run(
        directory.id,
        asked.name or steps[0].name,
        State.PENDING,
        steps,
        cyctime=request.cyctime,
        bizdate=request.bizdate,
    )
    # A file is called so.
    cyctime = "".join(filter(str.isdigit, request.cyctime[:19]))
    date = {"bizdate": request.bizdate, "cyctime": cyctime}.get(asked.once_per or "", "")
    done = succeeded_steps(earlier) if earlier else {}
    both = request.options, asked
    return directory, Keeper(directory, run, jobs, both, request.cwd, say, date, done)


def recorded_request(directory: RunDirectory) -> tuple[Request, Run]:
    """Return what a run on record was asked, and its record.

    Raises UsageError when it is still under way, or when not all of it was recorded.
    """
    run = read_run(directory)
    if not run.state.final:
        raise UsageError(
            f"run {run.id} is {run.state.value}", "wait for its end, or end it with pai cancel"
        )
    try:
        data = json.loads(Path(directory.request).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"run {run.id} has no readable request: {error}") from error
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
    ), run


def _run_options(data: dict[str, Any]) -> RunOptions:
    retries = {**data["retries"]}
    for name in ("kinds", "transient", "fatal"):
        retries[name] = tuple(retries[name])
    lists = {name: tuple(data[name]) for name in ("notify", "notify_on")}
    return RunOptions(**{**data, **lists, "retries": Retries(**retries)})


def _write_request(directory: RunDirectory, request: Request, jobs: Sequence[Job]) -> None:
    typed = [asdict(job.statement) for job in jobs]
    shown = [_without_secrets(statement) for statement in typed]
    asked = request.run_options
    kept = replace(asked, notify=tuple(filter(recordable, asked.notify)))
    content = {
        "statements": shown,
        "has_secrets": shown != typed,
        "options": asdict(request.options),
        "run_options": asdict(kept),
        "cwd": str(request.cwd),
        "cyctime": request.cyctime,
        "bizdate": request.bizdate,
    }
    try:
        write_atomic(directory.request, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise SetupError(
            f"the record {directory.path} cannot be written: {error.strerror}",
            "free some space, or keep the records elsewhere with PAI_HOME",
        ) from error


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return redact_secrets(value)
    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(one) for one in value]
    return value
