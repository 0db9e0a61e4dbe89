"""`pai jobs resume-upload ID`: uploads what a job saved in the background and could not upload.

The files are checked, then uploaded in the order in which the job saved them, with the credentials
that the job had; keys that its command held are not on record, and are given once more with
--location. It may be interrupted and run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pai_runner.cli.output import print_json, say
from pai_runner.errors import BusyError, ExitCode, SetupError
from pai_runner.jobs.directory import JobDirectory, find
from pai_runner.jobs.record import read
from pai_runner.jobs.state import State
from pai_runner.location import Location
from pai_runner.run.waiting import pending_folder, waiting


def run(arguments: Sequence[str]) -> int:
    """Upload what waits. Returns the exit code."""
    options = _parser().parse_args(arguments)
    directory = find(options.id)
    _refuse_living(directory)
    folder = pending_folder(directory)
    if waiting(folder) is None:
        done: dict[str, Any] = {"uploaded": [], "removed": [], "held_back": []}
        say(f"nothing of job {directory.id} waits")
    else:
        done = _resume(directory, folder, options)
    if options.json:
        print_json({"id": directory.id, **done})
    if done["held_back"]:
        raise SetupError(
            f"another job has saved to {', '.join(done['held_back'])} meanwhile: nothing was "
            "uploaded there",
            "--force uploads it all the same: the checkpoint that waits is then the latest; the "
            f"files lie in {folder}",
        )
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pai jobs resume-upload", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument(
        "--force",
        action="store_true",
        help="upload also where another job has saved checkpoints meanwhile",
    )
    parser.add_argument(
        "--location",
        action="append",
        type=Location.parse,
        default=[],
        metavar="L",
        help="a location as the job's command named it, with its keys; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _refuse_living(directory: JobDirectory) -> None:
    record = read(directory)
    if record.state.final or record.state is State.UNKNOWN:
        return  # what may still live of it holds its folder
    raise BusyError(
        f"job {directory.id} is {record.state.value}: it uploads by itself",
        f"wait for its end, or end it with `pai cancel {directory.id}`",
    )


def _resume(directory: JobDirectory, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    from pai_runner.cli.job_mounts import mount_options
    from pai_runner.storage.finishing import Resume
    from pai_runner.storage.stage_progress import Progress

    with Resume(folder, mount_options(directory, options.location)) as resume:
        resume.check()
        total = resume.waiting
        what = f"job {directory.id}: uploading"
        with Progress(what, total.bytes, environment=_terminal()) as progress:
            done = resume.run(options.force, progress.add)
    if done.uploaded or done.removed:
        say(f"uploaded {len(done.uploaded)}, removed {len(done.removed)} of what the job left")
    return {"uploaded": done.uploaded, "removed": done.removed, "held_back": done.held_back}


def _terminal() -> dict[str, str]:
    """Return what makes a progress bar be drawn, where there is a terminal for it."""
    if not sys.stderr.isatty():
        return {}
    return {"PAI_PROGRESS": "tty", "COLUMNS": str(os.get_terminal_size(2).columns or 80)}
