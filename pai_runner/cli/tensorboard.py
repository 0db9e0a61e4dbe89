"""`pai tensorboard ID|LOCATION`: TensorBoard on the events of a job, or of a folder or bucket.

Of a job these are its summaryDir and checkpointDir, as its command names them; of a command that
names neither, all its buckets. A bucket is read in place, with the access that the job has; keys
that its command held are not on record, and are given once more with --location. What follows
`--` is given to TensorBoard as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from pai_runner.cli.output import say
from pai_runner.entry import module_command, search_path
from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import JobDirectory, find
from pai_runner.location import Location

_OUTPUTS = ("summaryDir", "checkpointDir")


@dataclass(frozen=True)
class Source:
    """Where events lie: local folders, and mounts' options by prefix, secrets in clear."""

    folders: tuple[str, ...] = ()
    mounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """The folders and prefixes, without those that lie in another one."""
        every = [*self.folders, *self.mounts]
        ends = {path: path.rstrip("/") + "/" for path in every}
        return [
            path
            for path in every
            if not any(
                ends[path].startswith(ends[other]) and ends[path] != ends[other] for other in every
            )
        ]


def run(arguments: Sequence[str]) -> int:
    """Become TensorBoard. Returns only where that fails, by an error."""
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])
    source = _of_location(options) if _is_location(options.what) else _of_job(options)
    own = [f"--host={options.host}"] if options.host else []
    own += [] if options.port is None else [f"--port={options.port}"]
    _become_tensorboard(source, [*own, *words[cut + 1 :]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pai tensorboard",
        usage="pai tensorboard ID|LOCATION [OPTIONS] [-- TENSORBOARD'S OWN]",
        description=__doc__,
    )
    parser.add_argument("what", metavar="ID|LOCATION")
    parser.add_argument(
        "--port", type=_port, metavar="P", help="0 takes any; default 6006 or above"
    )
    parser.add_argument("--host", metavar="H", help="where to listen; default localhost")
    parser.add_argument("--role", metavar="R", help="ignore: open LOCATION with your own keys")
    parser.add_argument(
        "--location",
        action="append",
        type=Location.parse,
        default=[],
        metavar="L",
        help="a location as the job's command named it, with its keys; repeatable",
    )
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise UsageError(f"`{text}` is not a port", "give a number from 0 to 65535")
    return int(text)


# ====== From the command line to a source ======


def _is_location(text: str) -> bool:
    """Tell a location from a job: it has a `/`, is `.` or `..`, or begins with `~`."""
    return "/" in text or text in (".", "..") or text.startswith("~")


def _of_location(options: argparse.Namespace) -> Source:
    from pai_runner.run.access import Access, check_servers, ignores_roles

    location = Location.parse(options.what).directory()
    if location.is_local:
        folder = os.path.abspath(os.path.expanduser(location.path))
        if not os.path.isdir(folder):
            raise SetupError(f"there is no folder {folder}", "check the name")
        return Source(folders=(folder,))
    access = Access.of([location], "tensorboard", ignores_roles(options.role))
    for notice in access.notices([location]):
        say(notice)
    check_servers([location])
    return Source(mounts={location.prefix: access.options(location)})


def _of_job(options: argparse.Namespace) -> Source:
    from pai_runner.cli.job_mounts import mount_options, read_plan

    directory = find(options.what)
    plan = read_plan(directory)
    outputs = {mount.prefix for mount in plan.mounts if mount.purpose in _OUTPUTS}
    wanted = outputs or ({mount.prefix for mount in plan.mounts} if not plan.folders else set())
    if not (wanted or plan.folders or options.location):
        raise _no_place(directory)
    return Source(plan.folders, mount_options(directory, options.location, wanted.__contains__))


def _no_place(directory: JobDirectory) -> SetupError:
    return SetupError(
        f"the command of job {directory.id} names no place for events",
        "give the location itself: pai tensorboard LOCATION",
    )


# ====== From a source to TensorBoard ======


def _become_tensorboard(source: Source, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by TensorBoard: so signals and the exit code are its own.

    Raises SetupError.
    """
    from pai_runner.run.secrets import SecretStore
    from pai_runner.secret import is_secret_name

    store = SecretStore()
    mounts = [
        {
            "prefix": prefix,
            "protocol": prefix.partition("://")[0],
            "options": {
                name: store.put(name, value) if is_secret_name(name, in_query=True) else value
                for name, value in opened.items()
            },
        }
        for prefix, opened in source.mounts.items()
    ]
    request = {"mounts": mounts, "arguments": [*_reading(source), *arguments]}
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        # Looking at events takes no GPU's memory from those who train.
        "CUDA_VISIBLE_DEVICES": "-1",
        # Not an argument, which other users see: options name accounts.
        "PAI_TENSORBOARD": json.dumps(request),
        "PAI_SECRETS_FD": str(_inherited_pipe(store.values)),
        "PYTHONPATH": search_path(),
    }
    sys.stdout.flush()
    os.execve(sys.executable, module_command("pai_runner.script.board"), environment)


def _reading(source: Source) -> list[str]:
    """Return what tells TensorBoard where to read, and how. Raises SetupError."""
    paths = source.paths
    words = [f"--logdir={paths[0]}"] if len(paths) == 1 else [f"--logdir_spec={_named(paths)}"]
    if source.mounts:
        # The loader in Rust knows no file system of ours; and what grows in a bucket is replaced.
        words += ["--load_fast=false", "--detect_file_replacement=true"]
    return words


def _named(paths: Sequence[str]) -> str:
    """Return several places as TensorBoard takes them, `name:path,…`, each with its own name.

    Raises SetupError.
    """
    named: dict[str, str] = {}
    for path in paths:
        if "," in path:
            raise SetupError(
                f"TensorBoard cannot read {path} beside other places: it has a comma",
                f"look at it alone: pai tensorboard '{path}'",
            )
        last = re.sub(r"[:\s]", "_", path.rstrip("/").rpartition("/")[2]) or "root"
        name, number = last, 1
        while name in named:
            number += 1
            name = f"{last}-{number}"
        named[name] = path
    return ",".join(f"{name}:{path}" for name, path in named.items())


def _inherited_pipe(secrets: Mapping[str, str]) -> int:
    """Return a pipe with the secrets that the process inherits. Raises SetupError."""
    from pai_runner.run.guard import CannotStart, pipe_with

    try:
        reader = pipe_with(secrets)
    except CannotStart as error:
        raise SetupError(str(error), "name fewer locations") from error
    os.set_inheritable(reader, True)
    return reader
