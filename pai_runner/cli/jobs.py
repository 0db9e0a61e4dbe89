"""`pai jobs`: the jobs on record, newest first.

`pai jobs resume-upload ID` uploads the checkpoints that a job could not upload.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.output import print_json, print_table
from pai_runner.jobs.listing import list_records
from pai_runner.jobs.state import State


def run(arguments: Sequence[str]) -> int:
    """Print the list, or do what the first word says. Returns the exit code."""
    if arguments and arguments[0] == "resume-upload":
        from pai_runner.cli import jobs_resume_upload

        return jobs_resume_upload.run(arguments[1:])
    parser = argparse.ArgumentParser("pai jobs", description=__doc__)
    parser.add_argument("-n", type=int, default=50, metavar="N", help="how many; default 50")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument(
        "--state",
        action="append",
        type=str.upper,
        choices=[state.value for state in State],
        help="only jobs in this state; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error("-n takes a number of jobs, from 1 on")
    states = None if options.state is None else [State(name) for name in options.state]
    records = list_records(None if options.all else options.n, states)
    if options.json:
        print_json([record.to_json() for record in records])
        return 0
    if not records:
        print("no jobs on record")
        return 0
    header = ("id", "name", "state", "code", "started", "reason")
    rows = [
        (
            record.id,
            record.job_name,
            record.state.value,
            "" if record.exit_code is None else str(record.exit_code),
            (record.started or record.created or "")[:19].replace("T", " "),
            record.reason.value if record.reason else "",
        )
        for record in records
    ]
    print_table([header, *rows])
    return 0
