"""Statement -> Job: the typed, validated request."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pai_runner.command import values
from pai_runner.command.algorithms import Algorithm, algorithm_rows, find_algorithm
from pai_runner.command.cluster import Cluster, parse_cluster, single_role
from pai_runner.command.grammar import SERVICE_PARAMETERS, Statement
from pai_runner.command.parameters import PARAMETERS, Status
from pai_runner.command.words import split_words
from pai_runner.errors import ParameterError, UsageError
from pai_runner.location import Location

__all__ = ["Job", "algorithm_rows", "make_job", "script_candidates"]

# The archives that are unpacked, by the end of their names.
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_VERSION = re.compile(r"\d+(\.\d+)*", re.ASCII)
_IGNORED_OPTIONS = {
    "lineage": "lineage is MaxCompute's",
    "jobname": "it names a workflow of MaxCompute; -DjobName names the job",
    "alink_version": "it concerns Alink algorithms",
}


@dataclass(frozen=True)
class Job:
    """What a PAI statement asks for. None is: not given.

    Directories end in `/`. `gpu_required` counts hundredths of a GPU, 0 is the CPU.
    `algorithm_api` is the TensorFlow API that the algorithm implies, v1 or v2; `tf_api` the one
    that is demanded: v1, v2 or auto. `tables` and `outputs` are the parts as typed. `mount` is
    the mode of the locations that name none. With `saves_behind` checkpoints are uploaded in the
    background; None leaves it to the environment. Every oss:// location has the role and the host
    of -Darn and -DossHost where it names none of its own. With `publishes_exports` what the script
    exports becomes versions, of which the newest `keep_versions` are kept, all for None. `notices`
    say what was given and is not honoured. Its repr shows no secrets.
    """

    statement: Statement
    algorithm: str
    algorithm_api: str
    project: str
    script: Location
    entry_file: str | None
    buckets: tuple[Location, ...]
    checkpoint_dir: Location | None
    summary_dir: Location | None
    volumes: tuple[Location, ...]
    tables: tuple[str, ...]
    outputs: tuple[str, ...]
    hyper_parameters: Location | None
    user_defined_parameters: tuple[str, ...] = field(repr=False)
    gpu_required: int | None
    cluster: Cluster | None
    job_name: str | None
    tags: tuple[str, ...]
    total_seconds: float | None
    no_progress_seconds: float | None
    python: str | None
    tf_api: str
    mount: str
    saves_behind: bool | None
    publishes_exports: bool
    keep_versions: int | None
    notices: tuple[str, ...]

    @property
    def directories(self) -> dict[str, tuple[Location, ...]]:
        """The directories that the command gives the script, by parameter."""
        return {
            "buckets": self.buckets,
            "checkpointDir": (self.checkpoint_dir,) if self.checkpoint_dir else (),
            "summaryDir": (self.summary_dir,) if self.summary_dir else (),
            "volumes": self.volumes,
        }

    @property
    def locations(self) -> tuple[Location, ...]:
        """All locations that the command names."""
        files = (self.script, self.hyper_parameters)
        return (
            *(location for location in files if location is not None),
            *(location for group in self.directories.values() for location in group),
        )

    @property
    def script_is_archive(self) -> bool:
        """Whether `entry_file` lies in an archive, which `script` is."""
        return is_archive(self.script.path)


def make_job(statement: Statement) -> Job:
    """Return the job that `statement` asks for.

    Raises UsageError for what is not a PAI command of a supported algorithm, and ParameterError
    for a parameter that does not exist, is missing, or has a value that it cannot have.
    """
    if statement.name is None:
        raise UsageError("not a PAI command", "write: PAI -name tensorflow -Dscript=...;")
    algorithm = find_algorithm(statement.name)
    if "cost" in statement.options:
        raise UsageError("-cost estimates a price at Alibaba; there is none here", "leave it out")
    given = values.given(statement.parameters)
    _check_export_versions(given)
    script = _script(algorithm, given)
    cluster = parse_cluster(given["cluster"]) if "cluster" in given else None
    return Job(
        statement=statement,
        algorithm=algorithm.name,
        algorithm_api=algorithm.api,
        project=statement.project or "algo_public",
        script=script,
        entry_file=_entry_file(script, given.get("entryFile")),
        buckets=_directories(given, "buckets"),
        checkpoint_dir=_directory(given, "checkpointDir"),
        summary_dir=_directory(given, "summaryDir"),
        volumes=_directories(given, "volumes"),
        tables=_parts(given, "tables"),
        outputs=_parts(given, "outputs"),
        hyper_parameters=_file(given, "hyperParameters"),
        user_defined_parameters=tuple(split_words(given.get("userDefinedParameters", ""))),
        gpu_required=_gpu_required(algorithm, cluster, given),
        cluster=cluster,
        job_name=given.get("jobName"),
        tags=tuple(tag.strip() for tag in _parts(given, "tags")),
        total_seconds=_limit(given, "maxTrainingTimeInHour", values.hours, 3600),
        no_progress_seconds=_limit(given, "maxHungTimeBeforeGCInSeconds", values.integer, 1),
        python=None if _is_version(given) else given.get("python"),
        tf_api=given.get("tfApi", "auto"),
        mount=given.get("mount", "stream"),
        saves_behind=_boolean(given, "asyncCheckpoint"),
        publishes_exports="exportVersions" in given,
        keep_versions=_keep_versions(given),
        notices=tuple(_notices(statement, algorithm, script, cluster, given)),
    )


# ====== The script ======


def is_archive(name: str) -> bool:
    """Tell whether a file of this name is an archive that can be unpacked."""
    return name.lower().endswith(ARCHIVES)


def script_candidates(location: Location) -> tuple[str, ...]:
    """Return the local paths to try, in order, for a script or a file that `location` names.

    `file://path/to/x.py`, as PAI's documents write it, is first taken relative to the current
    folder, then as `/path/to/x.py`; a path as written goes before one with its `%xx` and `+`
    decoded, which is how odpscmd reads a file: URL. Empty for a location that is not local.
    """
    if not location.is_local:
        return ()
    written = [location.path]
    # With two slashes only, a first folder stands where a URL has its host.
    if not location.path.startswith(("/", ".", "~")) and "/" in location.path:
        written.append("/" + location.path)
    if any("%" in path or "+" in path for path in written):
        from urllib.parse import unquote_plus  # loads slowly

        written += map(unquote_plus, written.copy())
    # A dict keeps the order and drops what comes twice.
    return tuple(dict.fromkeys(written))


def _script(algorithm: Algorithm, given: dict[str, str]) -> Location:
    if "script" not in given:
        raise ParameterError(
            "script",
            f"script is missing: -name {algorithm.name} has nothing to run",
            "write -Dscript=train.py, -Dscript=file:///path/to/train.py or "
            "-Dscript=s3://bucket/train.py",
        )
    script = _opened(given, values.file("script", given["script"]))
    if script.path.endswith("/"):
        raise ParameterError(
            "script",
            f"script: `{script}` is a folder",
            "name the .py file, or a .tar.gz of the folder with -DentryFile",
        )
    if script.path.lower().endswith(_OTHER_ARCHIVES):
        raise ParameterError(
            "script",
            f"script: `{script.name}` is an archive of a kind that is not read",
            f"pack it as one of {', '.join(ARCHIVES)}",
        )
    return script


def _entry_file(script: Location, text: str | None) -> str | None:
    if not is_archive(script.path):
        return None
    if text is None:
        raise ParameterError(
            "entryFile",
            f"entryFile is missing: `{script.name}` is an archive",
            "write -DentryFile=main.py, the path of the file to run inside the archive",
        )
    path = posixpath.normpath(text)
    if path.startswith(("/", "../")) or path in (".", "..") or text.endswith("/"):
        raise ParameterError(
            "entryFile",
            f"entryFile: `{text}` is not a file inside the archive",
            "write its path from the archive's root, for example -DentryFile=src/main.py",
        )
    return path


# ====== Typed values ======


def _file(given: dict[str, str], name: str) -> Location | None:
    return _opened(given, values.file(name, given[name])) if name in given else None


def _directory(given: dict[str, str], name: str) -> Location | None:
    return _opened(given, values.directory(name, given[name])) if name in given else None


def _directories(given: dict[str, str], name: str) -> tuple[Location, ...]:
    if name not in given:
        return ()
    return tuple(_opened(given, location) for location in values.directories(name, given[name]))


def _opened(given: dict[str, str], location: Location) -> Location:
    """Return a location with what the whole command says of how oss:// is opened."""
    return location.with_oss_defaults(given.get("ossHost"), given.get("arn"))


def _boolean(given: dict[str, str], name: str) -> bool | None:
    return values.boolean(name, given[name]) if name in given else None


def _parts(given: dict[str, str], name: str) -> tuple[str, ...]:
    return values.parts(name, given[name]) if name in given else ()


def _gpu_required(
    algorithm: Algorithm, cluster: Cluster | None, given: dict[str, str]
) -> int | None:
    if cluster is not None:
        gpu = single_role(cluster).gpu
        if gpu is not None:
            return gpu
    if "gpuRequired" in given:
        return values.integer("gpuRequired", given["gpuRequired"])
    return 0 if algorithm.cpu_only else None


def _limit(
    given: dict[str, str], name: str, read: Callable[[str, str], float], unit: int
) -> float | None:
    # 0 is PAI's way to say: no limit.
    return (read(name, given[name]) * float(unit) or None) if name in given else None


def _check_export_versions(given: dict[str, str]) -> None:
    if "exportVersions" in given and "checkpointDir" not in given:
        raise ParameterError(
            "exportVersions",
            "exportVersions: what the script exports is looked for in checkpointDir, which is "
            "not given",
            "write -DcheckpointDir=FOLDER or -DcheckpointDir=oss://bucket/dir/ as well",
        )


def _keep_versions(given: dict[str, str]) -> int | None:
    text = given.get("exportVersions")
    return None if text is None else values.keep("exportVersions", text)


def _is_version(given: dict[str, str]) -> bool:
    return _VERSION.fullmatch(given.get("python", "")) is not None


# ====== Notices ======


def _notices(
    statement: Statement,
    algorithm: Algorithm,
    script: Location,
    cluster: Cluster | None,
    given: dict[str, str],
) -> Iterator[str]:
    for option in statement.options:
        yield f"-{option} is ignored: {_IGNORED_OPTIONS[option]}"
    for name, text in given.items():
        parameter = PARAMETERS[name]
        if name == "cluster" or values.is_default(parameter, text):
            continue
        if parameter.status is Status.LATER:
            yield f"-D{name} is not honoured yet: {parameter.reason}"
        if parameter.status is Status.IGNORED:
            yield f"-D{name} is ignored: {parameter.reason}"
    for name in SERVICE_PARAMETERS:
        # The parser has cut it out of the parameters, not out of the text.
        if name not in statement.parameters and f"-D{name}" in statement.text:
            yield f"-D{name} is ignored: {PARAMETERS[name].reason}"
    yield from _further_notices(algorithm, script, cluster, given)


def _further_notices(
    algorithm: Algorithm, script: Location, cluster: Cluster | None, given: dict[str, str]
) -> Iterator[str]:
    if "entryFile" in given and not is_archive(script.path):
        yield "-DentryFile is ignored: the script is a single file"
    if _is_version(given):
        yield (
            f"-Dpython={given['python']} is a Python of PAI: the script runs with the interpreter "
            "that runs pai; -Dpython=/path/to/python names another"
        )
    for name in ("arn", "ossHost"):
        if name in given and "oss://" not in " ".join(given.values()).lower():
            yield f"-D{name} is ignored: the command names no oss:// location"
    unknown = [
        tag.strip() for tag in _parts(given, "tags") if tag.strip() not in PARAMETERS["tags"].values
    ]
    if unknown:
        known = ", ".join(PARAMETERS["tags"].values)
        yield f"-Dtags: PAI does not know {', '.join(unknown)}; it knows {known}"
    if cluster is not None:
        yield f"-Dcluster: one process ({cluster}) runs as a single job"
        if "gpuRequired" in given and single_role(cluster).gpu is not None:
            yield "-DgpuRequired is ignored: -Dcluster says the GPUs"
    if algorithm.cpu_only and "gpuRequired" not in given and cluster is None:
        yield f"{algorithm.name} runs on the CPU; -DgpuRequired=100 asks for a GPU"
