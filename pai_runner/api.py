"""What a Python program calls, and what the command line is made of: run, plan, rerun."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from pai_runner.command import Job, Statement, apply_settings, make_job, parse, property_setting
from pai_runner.engines.local import Handle, submit
from pai_runner.errors import PaiError, SetupError, UsageError
from pai_runner.jobs.directory import JobDirectory, create, home, new_id
from pai_runner.jobs.files import now_text, unwritable, write_atomic
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, append_event, write
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run.options import Options
from pai_runner.run.outcome import Outcome
from pai_runner.run.plan import Plan
from pai_runner.run.planner import Prepared, make_plan
from pai_runner.run.shown import shown_statement
from pai_runner.secret import redact

Say = Callable[[str], None]


def run(command: str, options: Options | None = None, say: Say = print) -> list[Outcome]:
    """Run the PAI commands in `command`, in order, up to the first that fails.

    Returns the outcome of each that was started. `say` receives what the command line would
    print of its own. Raises PaiError when a command is wrong or cannot be started; what ran
    before it is on record.
    """
    return run_statements(apply_settings(parse(command)), options or Options(), say)


def plan(command: str, options: Options | None = None) -> list[Plan]:
    """Return the plans of the PAI commands in `command`, starting nothing. Raises PaiError."""
    return plans(apply_settings(parse(command)), options or Options(), lambda line: None)


def fill_dates(
    text: str,
    cyctime: str | datetime | None = None,
    timezone: str | None = None,
    params: Mapping[str, str] | None = None,
) -> str:
    """Return `text` with its dates filled in as DataWorks does, ready for `run`.

    `cyctime` is the time that it is scheduled for (default now): a datetime, or a text such as
    2026-11-20T00:00; without an offset it is a time in `timezone`, an IANA name (default the
    machine's zone). `params` assigns expressions to names, {"day": "$[yyyymmdd-1]"}, before the
    lines `-- @param day=$[yyyymmdd-1]` of the text. Raises UsageError for a name that is not
    assigned and for what is wrong in any of them.
    """
    from pai_runner.command.dates import assignment, assignments_in, fill, instant
    from pai_runner.zones import zone

    when = cyctime.isoformat() if isinstance(cyctime, datetime) else cyctime
    given = dict(assignment(f"{name}={value}") for name, value in (params or {}).items())
    now = datetime.now().astimezone()
    assignments = {**assignments_in(text), **given}
    return fill(text, assignments, instant(when, zone(timezone), now)).text


def run_statements(
    statements: Sequence[Statement], options: Options, say: Say, cwd: Path | None = None
) -> list[Outcome]:
    """Run parsed statements as `run` does. All are checked before the first is started."""
    outcomes: list[Outcome] = []
    for job in jobs_of(statements, say):
        handle = start(job, options, say, cwd or current_folder())
        outcomes.append(handle.wait())
        if outcomes[-1].exit_code != 0:
            tell(outcomes[-1], handle.directory, say)
            break
    return outcomes


def submit_statements(
    statements: Sequence[Statement], options: Options, say: Say, cwd: Path | None = None
) -> str:
    """Start the one PAI command in `statements`, and return its job's id without waiting.

    Raises PaiError, UsageError where there are several: one of them would have to wait.
    """
    found = jobs_of(statements, say)
    if len(found) > 1:
        raise UsageError(
            f"--detach starts one PAI command, and there are {len(found)}",
            "start each by itself, or run them in order without --detach",
        )
    return start(found[0], options, say, cwd or current_folder(), detach=True).job_id


def plans(statements: Sequence[Statement], options: Options, say: Say) -> list[Plan]:
    """Return the plans of parsed statements. Raises PaiError."""
    import tempfile

    made = []
    for job in jobs_of(statements, say):
        directory = JobDirectory(home(), new_id())
        with tempfile.TemporaryDirectory(prefix="pai-explain-") as scratch:
            prepared = make_plan(job, directory, options, current_folder(), Path(scratch, "code"))
        made.append(prepared.plan)
    return made


def recorded(directory: JobDirectory) -> tuple[list[Statement], Options, Path]:
    """Return what a recorded job was asked: its statement, options and folder.

    Raises UsageError when the record does not hold the whole command.
    """
    try:
        request = json.loads(Path(directory.request).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"job {directory.id} has no readable request: {error}") from error
    if request["has_secrets"]:
        raise UsageError(
            f"the command of job {directory.id} held secrets, which are not recorded",
            "give the command again; a role, or your own settings, keep keys out of it",
        )
    return (
        [Statement(**request["statement"])],
        # Who runs it again by hand wants it done again, though a version may be there already.
        replace(Options(**request["options"]), run_key=""),
        Path(request["cwd"]),
    )


def jobs_of(statements: Sequence[Statement], say: Say) -> list[Job]:
    """Return the jobs that parsed statements ask for. Raises PaiError."""
    made = []
    for statement in statements:
        if statement.name is not None:
            made.append(make_job(statement))
        elif property_setting(statement) is None:
            say(f"skipped, not a PAI command: {statement.text.strip()}")
    if not made:
        raise UsageError("there is no PAI command in the text", "write PAI -name tensorflow ...")
    return made


def start(
    job: Job,
    options: Options,
    say: Say,
    cwd: Path,
    detach: bool = False,
) -> Handle:
    """Start a job and return a handle to it.

    Raises PaiError; what kept it from being started is on record.
    """
    directory = create()
    return launch(job, prepare(job, options, say, cwd, directory), directory, detach)


def prepare(job: Job, options: Options, say: Say, cwd: Path, directory: JobDirectory) -> Prepared:
    """Plan a job whose folder was just made, and put it on record.

    Raises PaiError; what kept it from being planned is on record.
    """
    name = job.job_name or job.script.name
    _note(directory, Record(directory.id, name, State.PENDING, launcher=Identity.of(os.getpid())))
    say(f"job {directory.id}")
    try:
        prepared = make_plan(job, directory, options, cwd, Path(directory.code))
        _write_request(directory, job, options, cwd, prepared)
    except PaiError as error:
        _record_failure(directory, name, State.FAILED, Reason.SETUP_FAILED, error)
        raise
    except KeyboardInterrupt as error:
        _record_failure(directory, name, State.CANCELLED, Reason.INTERRUPTED, error)
        raise
    for notice in prepared.plan.notices:
        say(notice)
    return prepared


def launch(job: Job, prepared: Prepared, directory: JobDirectory, detach: bool = False) -> Handle:
    """Start a planned job and return a handle to it. Raises SetupError, which is on record."""
    try:
        return submit(prepared.plan, directory, prepared.secrets, detach)
    except PaiError as error:
        name = job.job_name or job.script.name
        _record_failure(directory, name, State.FAILED, Reason.SETUP_FAILED, error)
        raise


def _record_failure(
    directory: JobDirectory, name: str, state: State, reason: Reason, error: BaseException
) -> None:
    """Record that nothing has run, and why; what was fetched goes."""
    import shutil

    shutil.rmtree(directory.code, ignore_errors=True)
    code = 128 + getattr(error, "signum", signal.SIGINT)
    message = "interrupted while the job was set up"
    if isinstance(error, PaiError):
        code, message = error.exit_code, redact(str(error))
    now = now_text()
    _note(
        directory,
        Record(
            directory.id,
            name,
            state,
            reason,
            code,
            Kind.RUNNER,
            message,
            created=now,
            ended=now,
        ),
    )


def _note(directory: JobDirectory, record: Record) -> None:
    try:
        write(directory, record)
        append_event(directory, record)
    except OSError as error:
        raise unwritable(directory.path, error) from error


def tell(outcome: Outcome, directory: JobDirectory, say: Say) -> None:
    """Say why a job failed, unless the script, or its bootstrap, has told it already."""
    told = outcome.reason is Reason.SCRIPT_FAILED
    if outcome.reason is Reason.SETUP_FAILED and outcome.role is not None:
        log = Path(directory.role(outcome.role).stderr)
        told = log.exists() and log.stat().st_size > 0
    if not told:
        say(f"job {outcome.job_id} {outcome.state.value}: {outcome.message}")


def _write_request(
    directory: JobDirectory, job: Job, options: Options, cwd: Path, prepared: Prepared
) -> None:
    """Record what was asked, without its secrets, so that it can be asked again."""
    shown = shown_statement(job, prepared.words_shown)
    request = {
        "statement": asdict(shown),
        "has_secrets": bool(prepared.secrets) or shown != job.statement,
        "options": asdict(options),
        "cwd": str(cwd),
    }
    try:
        write_atomic(directory.request, json.dumps(request, indent=1).encode())
    except OSError as error:
        raise unwritable(directory.path, error) from error


def current_folder() -> Path:
    """Return the folder that relative paths start from. Raises SetupError."""
    try:
        return Path.cwd()
    except OSError as error:
        raise SetupError(
            f"the current folder cannot be used: {error.strerror}", "go to one that is there"
        ) from error
