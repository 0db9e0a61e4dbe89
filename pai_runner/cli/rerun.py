"""`pai rerun ID`: runs a recorded command, or a whole run, again: its folder, its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from pai_runner.cli.naming import named
from pai_runner.cli.output import say
from pai_runner.errors import ExitCode, UsageError
from pai_runner.jobs.directory import find
from pai_runner.jobs.record import read


def run(arguments: Sequence[str]) -> int:
    """Run it again, as a new job or run. Returns its exit code."""
    from pai_runner import api
    from pai_runner.cli.keeping import keep
    from pai_runner.jobs.runs import RunDirectory
    from pai_runner.runs.starting import prepare, recorded_request

    parser = argparse.ArgumentParser("pai rerun", description=__doc__)
    parser.add_argument("id", metavar="ID", help="of a job or of a run")
    parser.add_argument(
        "--failed", action="store_true", help="of a run: go on at the command that failed"
    )
    parser.add_argument("--detach", action="store_true", help="print the new id and return")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    options = parser.parse_args(arguments)
    directory = named(options.id)
    if isinstance(directory, RunDirectory):
        request, before = recorded_request(directory)
        if request.forgotten:
            say(
                f"not recorded, and not told this time: {request.forgotten} of its --notify, as a "
                "URL is a secret; --notify env:NAME is recorded"
            )
        prepared = prepare(request, say, before if options.failed else None)
        return keep(prepared, options.detach, options.json)
    if options.failed:
        raise UsageError(f"`{options.id}` is no run", "`pai runs` lists them")
    statements, run_options, cwd = api.recorded(directory)
    if options.detach:
        job_id = api.submit_statements(statements, run_options, say, cwd)
        print(json.dumps({"id": job_id}) if options.json else job_id)
        return ExitCode.OK
    outcome = api.run_statements(statements, run_options, say, cwd)[-1]
    if options.json:
        print(json.dumps(read(find(outcome.job_id)).to_json()))
    return outcome.exit_code
