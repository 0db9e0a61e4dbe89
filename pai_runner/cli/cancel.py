"""`pai cancel ID`: asks a job, or a run with what it runs, to end; --force ends a job at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.naming import named
from pai_runner.cli.output import print_json, say
from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.cancel import request_cancel
from pai_runner.jobs.runs import RunDirectory, end_run
from pai_runner.jobs.state import State


def run(arguments: Sequence[str]) -> int:
    """Ask the job or run to end. Returns the exit code."""
    parser = argparse.ArgumentParser("pai cancel", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--force", action="store_true", help="do not wait for the script to end")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    options = parser.parse_args(arguments)
    directory = named(options.id)
    if isinstance(directory, RunDirectory):
        if options.force:
            raise UsageError(
                f"--force concerns jobs, and {directory.id} is a run",
                f"end its job with --force; `pai runs {directory.id}` names it",
            )
        return _end_run(directory, options.json)
    record = request_cancel(directory, options.force)
    if options.json:
        print_json(record.to_json())
    elif record.state.final:
        say(f"job {directory.id} had ended already: {record.state.value}")
    else:
        say(f"job {directory.id} was asked to end; `pai status {directory.id}` shows when it has")
    return 0


def _end_run(directory: RunDirectory, as_json: bool) -> int:
    run = end_run(directory)
    if run.state is State.UNKNOWN:
        raise SetupError(
            f"run {run.id} cannot be told to end: {run.message}",
            "`pai jobs` lists its jobs, which pai cancel ends",
        )
    if not run.state.final and run.keeper is not None and run.keeper.elsewhere:
        raise SetupError(
            f"run {run.id} is kept on the machine {run.keeper.host}", "cancel it there"
        )
    if as_json:
        print_json(run.to_json())
    elif run.state.final:
        say(f"run {run.id} had ended already: {run.state.value}")
    else:
        say(f"run {run.id} was asked to end; `pai runs {run.id}` shows when it has")
    return 0
