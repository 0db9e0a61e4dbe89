"""`pai rerun ID`: runs a recorded job's command again, in its folder and with its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from pai_runner.cli.output import say
from pai_runner.errors import ExitCode
from pai_runner.jobs.directory import find
from pai_runner.jobs.record import read


def run(arguments: Sequence[str]) -> int:
    """Run the command again as a new job. Returns its exit code."""
    from pai_runner import api

    parser = argparse.ArgumentParser("pai rerun", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--detach", action="store_true", help="print the new id and return")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    options = parser.parse_args(arguments)
    statements, run_options, cwd = api.recorded(find(options.id))
    if options.detach:
        job_id = api.submit_statements(statements, run_options, say, cwd)
        print(json.dumps({"id": job_id}) if options.json else job_id)
        return ExitCode.OK
    outcome = api.run_statements(statements, run_options, say, cwd)[-1]
    if options.json:
        print(json.dumps(read(find(outcome.job_id)).to_json()))
    return outcome.exit_code
