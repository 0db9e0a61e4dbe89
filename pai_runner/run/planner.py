"""Job -> Plan: resolves what the command says against this machine.

Nothing is started and nothing outside the job's own folder is written here, so that a plan can
be made, shown and thrown away.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pai_runner.command import Job
from pai_runner.command.words import parse_hyper_parameters
from pai_runner.errors import SetupError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.location import Location
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.run.arguments import compose
from pai_runner.run.devices import Demand, choose, list_gpus
from pai_runner.run.fetch import fetch, read_text
from pai_runner.run.mounts import pending_folder, plan_mounts, stage_root
from pai_runner.run.options import Options
from pai_runner.run.plan import Limits, Mount, Plan, Publish, RolePlan
from pai_runner.run.script_flags import choose_api, scan
from pai_runner.run.secrets import SecretStore
from pai_runner.run.shown import shown_statement
from pai_runner.secret import is_secret_name, redact_secrets


@dataclass(frozen=True)
class Prepared:
    """A plan, and beside it `secrets`, the values of its references.

    `words_shown` is userDefinedParameters with references, None where nothing in it is secret.
    """

    plan: Plan
    secrets: Mapping[str, str]
    words_shown: str | None


def make_plan(
    job: Job, directory: JobDirectory, options: Options, cwd: Path, code_folder: Path
) -> Prepared:
    """Return the plan of `job`, to be run in `directory`.

    The script's code is put in `code_folder` when it does not lie on this machine already; the
    plan says where it will lie, in `directory.code`. `cwd` is where the command was given.
    Raises SetupError, BusyError and ParameterError.
    """
    store = SecretStore()
    access = Access.of(job.locations, directory.id, ignores_roles(options.role))
    check_servers(job.locations)
    fetched = fetch(job, code_folder, cwd, access)
    flags = scan(fetched.entry, fetched.source_roots)
    code = fetched.moved(code_folder, Path(directory.code))
    api = choose_api(flags, forced=job.tf_api, algorithm_api=job.algorithm_api)
    choice = choose(Demand.of(options.devices, job.gpu_required), *list_gpus())
    mounts = plan_mounts(job, access, store, stage_root(directory))
    pending = pending_folder(mounts, stage_root(directory))
    values = _platform_values(job, cwd, mounts)
    hyper_parameters = _hyper_parameters(job, cwd, access)
    words = store.hide_words(job.user_defined_parameters)
    words_shown = None if tuple(words) == job.user_defined_parameters else " ".join(words)
    job_name = redact_secrets(job.job_name or code.entry.stem)
    role = RolePlan(
        name="worker",
        index=0,
        interpreter=_interpreter(job, cwd),
        script=str(code.entry),
        arguments=compose(
            flags,
            {name: store.hide(name, value) for name, value in values.items()},
            [(name, store.hide(name, value)) for name, value in hyper_parameters],
            words,
        ),
        working_directory=str(code.working_directory),
        environment={
            **_environment_of_job(job, directory, job_name, api.api),
            **({"PAI_RUN_KEY": options.run_key} if options.run_key else {}),
            **_environment_of_saves(job, pending),
            **_environment_of_values(values),
            **_environment_of_hyper_parameters(hyper_parameters),
            **choice.environment,
        },
        devices=choice.devices,
    )
    plan = Plan(
        job_id=directory.id,
        job_name=job_name,
        algorithm=job.algorithm,
        command=shown_statement(job, words_shown).text,
        code=str(code.root),
        tf_api=api.api,
        tf_api_reason=api.reason,
        roles=(role,),
        mounts=mounts,
        limits=_limits(job, options),
        source_roots=tuple(map(str, code.source_roots)),
        folders=_output_folders(job, cwd),
        notices=(
            *job.notices,
            *access.notices(job.locations),
            *code.notices,
            *choice.notices,
            *_notices_of_saves(job, mounts),
        ),
        publish=_publish(job, cwd),
        pending=pending,
    )
    return Prepared(plan, store.values, words_shown)


def _environment_of_job(
    job: Job, directory: JobDirectory, job_name: str, tf_api: str
) -> dict[str, str]:
    return {
        "PAI_JOB_ID": directory.id,
        "PAI_JOB_NAME": job_name,
        "PAI_JOB_DIR": directory.path,
        "PAI_ROLE": "worker",
        "PAI_TASK_INDEX": "0",
        "PAI_ALGORITHM": job.algorithm,
        "PAI_TF_API": tf_api,
    }


def _environment_of_saves(job: Job, pending: str) -> dict[str, str]:
    """Return what tells the script's process whether and where it saves in the background."""
    environment = {"PAI_PENDING_DIR": pending} if pending else {}
    if job.saves_behind is not None:
        environment["PAI_ASYNC_CHECKPOINT"] = "1" if job.saves_behind else "0"
    return environment


def _notices_of_saves(job: Job, mounts: Sequence[Mount]) -> Iterator[str]:
    if not job.saves_behind:
        return
    for mount in mounts:
        if mount.mode == "stage":
            yield (
                f"-DasyncCheckpoint has no effect on {mount.prefix}: it is staged, so what the "
                "script saves there is local, and is copied back in any case"
            )
    if not mounts:
        yield "-DasyncCheckpoint has no effect: the command names no bucket"


def _interpreter(job: Job, cwd: Path) -> str:
    if job.python is None:
        return sys.executable
    from pai_runner.runtimes import resolve

    return resolve(job.python, cwd).path


# ====== What the script is told ======

# The variable of each platform flag, in the order in which the flags are passed.
_VARIABLES = {
    "buckets": "PAI_BUCKETS",
    "checkpointDir": "PAI_CHECKPOINT_DIR",
    "summaryDir": "PAI_SUMMARY_DIR",
    "volumes": "PAI_VOLUMES",
    "tables": "PAI_TABLES",
    "outputs": "PAI_OUTPUTS",
}


def _platform_values(job: Job, cwd: Path, mounts: Sequence[Mount]) -> dict[str, str]:
    """Return the values of PAI's own flags, by flag, for those that the command gives."""
    staged = {mount.prefix: f"{mount.folder}/" for mount in mounts if mount.folder}
    values = {
        name: ",".join(_seen_by_script(location, cwd, staged) for location in locations)
        for name, locations in job.directories.items()
    }
    values["tables"] = ",".join(job.tables)
    values["outputs"] = ",".join(job.outputs)
    return {name: values[name] for name in _VARIABLES if values.get(name)}


def _environment_of_values(values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the flags. What was typed as it is may hold secrets: not there."""
    typed = ("tables", "outputs")
    return {
        _VARIABLES[name]: redact_secrets(value) if name in typed else value
        for name, value in values.items()
    }


def _seen_by_script(location: Location, cwd: Path, staged: Mapping[str, str]) -> str:
    """Return a joinable prefix; a local one is absolute, for a script may change its folder."""
    if not location.is_local:
        return staged.get(location.prefix, location.prefix)
    return str(_local_folder(location, cwd)).rstrip("/") + "/"


def _local_folder(location: Location, cwd: Path) -> Path:
    return cwd / Path(location.path).expanduser()


def _hyper_parameters(job: Job, cwd: Path, access: Access) -> list[tuple[str, str]]:
    if job.hyper_parameters is None:
        return []
    text = read_text(job.hyper_parameters, cwd, "hyperParameters", access)
    return parse_hyper_parameters(text, str(job.hyper_parameters))


def _environment_of_hyper_parameters(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return PAI_HYPER_PARAMETERS. Other processes may read an environment: no secrets there."""
    shown = {
        name: value
        for name, value in pairs
        if not is_secret_name(name) and redact_secrets(value) == value
    }
    return {"PAI_HYPER_PARAMETERS": json.dumps(shown, ensure_ascii=False)} if pairs else {}


# ====== Local folders and limits ======


def _output_folders(job: Job, cwd: Path) -> tuple[str, ...]:
    """Return the local folders to make. Raises SetupError for a local bucket that is missing."""
    directories = job.directories

    def local(*purposes: str) -> list[tuple[str, Path]]:
        return [
            (purpose, _local_folder(location, cwd))
            for purpose in purposes
            for location in directories[purpose]
            if location.is_local
        ]

    made = tuple(folder for _, folder in local("checkpointDir", "summaryDir"))
    for purpose, folder in local("buckets", "volumes"):
        if not folder.is_dir() and folder not in made:
            raise SetupError(
                f"-D{purpose}: there is no folder {folder}", "make it, or name another"
            )
    return tuple(map(str, made))


def _publish(job: Job, cwd: Path) -> Publish | None:
    if not job.publishes_exports or job.checkpoint_dir is None:
        return None
    # The location itself, also where the script gets a staged copy of it.
    return Publish(_seen_by_script(job.checkpoint_dir, cwd, {}), job.keep_versions)


def _limits(job: Job, options: Options) -> Limits:
    """Return the limits: an option of the command line wins over the command's own."""

    def first(*seconds: float | None) -> float | None:
        return next((value for value in seconds if value), None)

    return Limits(
        total_seconds=first(options.total_seconds, job.total_seconds),
        no_progress_seconds=first(options.no_progress_seconds, job.no_progress_seconds),
        grace_seconds=options.grace_seconds,
    )
