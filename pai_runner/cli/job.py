"""The main way: runs the PAI commands given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.command_input import (
    Given,
    add_command_arguments,
    given,
    split_arguments,
)
from pai_runner.cli.run_arguments import add_run_arguments, run_options_of
from pai_runner.errors import ExitCode, UsageError
from pai_runner.run.options import Options, parse_duration
from pai_runner.runs.options import RunOptions


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take the options of a run."""
    parser.add_argument(
        "--devices", metavar="D", help="cpu, gpu, gpu:0,1 (indices or UUIDs) or auto"
    )
    parser.add_argument(
        "--role",
        metavar="R",
        help="ignore: open buckets with your own keys, not with the role that the command names",
    )
    parser.add_argument(
        "--timeout", type=parse_duration, metavar="T", help="end the job after 90s, 30m, 6h, 1d"
    )
    parser.add_argument(
        "--no-progress",
        type=parse_duration,
        metavar="T",
        help="end the job when nothing is printed or saved for this long",
    )
    parser.add_argument(
        "--grace",
        type=parse_duration,
        default=60.0,
        metavar="T",
        help="how long a script may take to end after SIGTERM (default 60s)",
    )


def run_options(options: argparse.Namespace) -> Options:
    """Return the run options that `add_run_options` read."""
    return Options(
        devices=options.devices,
        total_seconds=options.timeout,
        no_progress_seconds=options.no_progress,
        grace_seconds=options.grace,
        role=options.role,
    )


def run(arguments: Sequence[str]) -> int:
    """Run the commands, one after the other. Returns the exit code."""
    from pai_runner import api
    from pai_runner.cli.output import say

    parser = job_parser()
    options, words = split_arguments(parser, arguments)
    asked = given(options, words)
    for notice in asked.notices:
        say(notice)
    run_asked = run_options_of(options)
    if run_asked.once_per == "cyctime" and options.cyctime is None:
        raise UsageError(
            "--once-per cyctime: each start has another cyctime, unless it is given",
            "give it: --cyctime 2026-11-20T02:00",
        )
    commands = sum(statement.name is not None for statement in asked.statements)
    if run_asked != RunOptions() or options.json or commands > 1:
        return _keep(asked, options, run_asked)
    found = asked.statements
    if options.detach:
        print(api.submit_statements(found, run_options(options), say))
        return ExitCode.OK
    outcomes = api.run_statements(found, run_options(options), say)
    return outcomes[-1].exit_code


def _keep(asked: Given, options: argparse.Namespace, run_asked: RunOptions) -> int:
    """Keep the commands as one run. Returns its exit code."""
    from pai_runner import api
    from pai_runner.cli.keeping import keep
    from pai_runner.cli.output import say
    from pai_runner.runs.starting import Request, prepare

    request = Request(
        tuple(asked.statements),
        run_options(options),
        run_asked,
        api.current_folder(),
        cyctime=asked.instant.cyctime.isoformat(),
        bizdate=f"{asked.instant.bizdate:%Y%m%d}",
    )
    return keep(prepare(request, say), options.detach, options.json)


def option_help() -> str:
    """Return the part of the general help that lists the options of a run."""
    return job_parser().format_help().split("\n\n", 1)[1]


def job_parser() -> argparse.ArgumentParser:
    """Return the parser of all options that running a command has."""
    parser = argparse.ArgumentParser("pai", usage="pai", add_help=False, allow_abbrev=False)
    add_command_arguments(parser)
    add_run_options(parser)
    add_run_arguments(parser)
    parser.add_argument(
        "--detach", action="store_true", help="print the job's id and return; the job goes on"
    )
    parser.add_argument("--help", "-h", action=_Help, nargs=0, help="show this help")
    return parser


class _Help(argparse.Action):
    def __call__(self, *_: object) -> None:
        from pai_runner.cli.help import general_help

        print(general_help())
        raise SystemExit(0)
