"""`pai runs`: the runs on record, newest first; `pai runs ID` shows one, attempt by attempt."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.output import print_json, print_table
from pai_runner.errors import UsageError
from pai_runner.jobs.directory import JobDirectory, home
from pai_runner.jobs.record import read
from pai_runner.jobs.runs import Run, find_run, list_runs, read_run
from pai_runner.jobs.state import State


def run(arguments: Sequence[str]) -> int:
    """Print the list, or one run. Returns the exit code."""
    parser = argparse.ArgumentParser("pai runs", description=__doc__)
    parser.add_argument("id", nargs="?", metavar="ID")
    parser.add_argument("-n", type=int, default=50, metavar="N", help="how many; default 50")
    parser.add_argument("--name", metavar="NAME", help="only runs of this name")
    parser.add_argument(
        "--state",
        action="append",
        type=str.upper,
        choices=[state.value for state in State],
        help="only runs in this state; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.id is not None:
        return _show(options.id, options.json)
    if options.n < 1:
        parser.error("-n takes a number of runs, from 1 on")
    states = None if options.state is None else [State(name) for name in options.state]
    found = list_runs(options.n, options.name, states)
    if options.json:
        print_json([one.to_json() for one in found])
    elif not found:
        print("no runs on record")
    else:
        header = ("id", "name", "date", "state", "code", "steps", "attempts", "started")
        print_table([header, *map(_row, found)])
    return 0


def _row(one: Run) -> tuple[str, ...]:
    done = sum(step.state is State.SUCCEEDED for step in one.steps)
    return (
        one.id,
        one.name,
        one.bizdate,
        one.state.value,
        "" if one.exit_code is None else str(one.exit_code),
        f"{done}/{len(one.steps)}",
        str(sum(len(step.jobs) for step in one.steps)),
        (one.created or "")[:19].replace("T", " "),
    )


def _show(text: str, as_json: bool) -> int:
    directory = find_run(text)
    if directory is None:
        raise UsageError(f"there is no run `{text}`", "`pai runs` lists them")
    one = read_run(directory)
    if as_json:
        print_json(one.to_json())
        return 0
    lines = [
        ("id", one.id),
        ("name", one.name),
        ("state", f"{one.state.value}: {one.state.meaning}"),
        ("message", one.message),
        ("exit code", "" if one.exit_code is None else str(one.exit_code)),
        ("cyctime", one.cyctime),
        ("bizdate", one.bizdate),
        ("created", one.created or ""),
        ("ended", one.ended or ""),
        ("folder", directory.path),
    ]
    for name, value in lines:
        if value:
            print(f"{name:10}{value}")
    for number, step in enumerate(one.steps, 1):
        print(f"step {number}: {step.name}: {step.state.value}")
        for job in step.jobs:
            record = read(JobDirectory(home(), job))
            reason = f" ({record.reason.value})" if record.reason else ""
            print(f"  job {job}: {record.state.value}{reason} {record.message}".rstrip())
    return 0
