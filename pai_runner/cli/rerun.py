"""`pai rerun ID`: runs a recorded job's command again, in its folder and with its options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.output import say
from pai_runner.errors import ExitCode
from pai_runner.jobs.directory import find


def run(arguments: Sequence[str]) -> int:
    """Run the command again as a new job. Returns its exit code."""
    from pai_runner import api

    parser = argparse.ArgumentParser("pai rerun", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--detach", action="store_true", help="print the new id and return")
    options = parser.parse_args(arguments)
    statements, run_options, cwd = api.recorded(find(options.id))
    if options.detach:
        print(api.submit_statements(statements, run_options, say, cwd))
        return ExitCode.OK
    return api.run_statements(statements, run_options, say, cwd)[-1].exit_code
