"""`pai help`: the tables that the code itself works by."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from pai_runner.cli.command_input import USAGE
from pai_runner.cli.main import VERBS
from pai_runner.cli.output import print_table
from pai_runner.errors import ExitCode


def general_help() -> str:
    """Return what `pai --help` prints."""
    from pai_runner.cli.job import option_help

    verbs = "\n".join(f"  {verb:13}{summary}" for verb, (_, summary) in VERBS.items())
    return (
        "pai runs PAI-TensorFlow commands on this machine.\n\n"
        f"run a command:\n{USAGE}\n\n{option_help()}\n"
        f"verbs:\n{verbs}\n\n"
        "`pai help parameters` lists every -D parameter; `pai VERB --help` explains a verb."
    )


def run(arguments: Sequence[str]) -> int:
    """Print the help on a topic. Returns the exit code."""
    parser = argparse.ArgumentParser("pai help", description=__doc__)
    parser.add_argument("topic", nargs="?", choices=sorted(TOPICS))
    topic = parser.parse_args(arguments).topic
    if topic is None:
        print(general_help())
    else:
        print_table(TOPICS[topic]())
    return 0


def parameter_rows() -> list[tuple[str, ...]]:
    """Return the table of -D parameters."""
    from pai_runner.command.parameters import rows

    return [("parameter", "type", "default", "status", "meaning"), *rows()]


def environment_rows() -> list[tuple[str, ...]]:
    """Return the table of environment variables."""
    from pai_runner.run.environment import FOR_PAI, FOR_THE_SCRIPT

    return [
        ("variable", "read by", "meaning"),
        *((variable.name, "the script", variable.meaning) for variable in FOR_THE_SCRIPT),
        *((variable.name, "pai", variable.meaning) for variable in FOR_PAI),
    ]


def exit_code_rows() -> list[tuple[str, ...]]:
    """Return the table of exit codes."""
    return [
        ("code", "meaning"),
        *((str(int(code)), code.meaning) for code in ExitCode),
        ("128+N", "the script, or the job, was ended by signal N"),
        ("other", "the script's own code"),
    ]


def algorithm_rows() -> list[tuple[str, ...]]:
    """Return the table of algorithm names that run."""
    from pai_runner.command.job import algorithm_rows as rows

    return [("algorithm", "TensorFlow API when the script does not tell"), *rows()]


TOPICS: dict[str, Callable[[], list[tuple[str, ...]]]] = {
    "parameters": parameter_rows,
    "environment": environment_rows,
    "exit-codes": exit_code_rows,
    "algorithms": algorithm_rows,
}
