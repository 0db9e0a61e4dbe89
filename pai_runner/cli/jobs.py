"""`pai jobs`: the jobs on record, newest first; with --chart, how long they took night by night.

`pai jobs resume-upload ID` uploads the checkpoints that a job could not upload.
`pai jobs gc --older-than 30d` removes the records of jobs that ended longer ago.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.output import print_json, print_table
from pai_runner.jobs.listing import list_records
from pai_runner.jobs.record import Record
from pai_runner.jobs.state import State


def run(arguments: Sequence[str]) -> int:
    """Print the list, or do what the first word says. Returns the exit code."""
    if arguments and arguments[0] == "resume-upload":
        from pai_runner.cli import jobs_resume_upload

        return jobs_resume_upload.run(arguments[1:])
    if arguments and arguments[0] == "gc":
        from pai_runner.cli import jobs_gc

        return jobs_gc.run(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error("-n takes a number of jobs, from 1 on")
    states = None if options.state is None else [State(name) for name in options.state]
    most = None if options.all else options.n
    records = list_records(None if options.chart else most, states, name=options.name)
    if options.chart:
        _print_chart(records, most, options.json)
    elif options.json:
        print_json([record.to_json() for record in records])
    elif records:
        _print_list(records)
    else:
        print("no jobs on record")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pai jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", type=int, default=50, metavar="N", help="how many, or nights of each; default 50"
    )
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument(
        "--state",
        action="append",
        type=str.upper,
        choices=[state.value for state in State],
        help="only jobs in this state; repeatable",
    )
    parser.add_argument("--name", metavar="NAME", help="only jobs of this name")
    parser.add_argument(
        "--chart",
        action="store_true",
        help="the lengths and results of each job, a line a night, by the date of the start",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print_chart(records: Sequence[Record], most: int | None, as_json: bool) -> None:
    from pai_runner.cli.jobs_chart import chart, plain_chart

    if as_json:
        print_json(plain_chart(records, most))
    else:
        print("\n".join(chart(records, most)) or "no jobs on record")


def _print_list(records: Sequence[Record]) -> None:
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
