"""`pai parse`: the statements of a command, as odpscmd's own front end reads them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.command_input import (
    add_command_arguments,
    given,
    split_arguments,
)
from pai_runner.cli.output import print_json
from pai_runner.command import Statement
from pai_runner.secret import redact


def run(arguments: Sequence[str]) -> int:
    """Print the statements. Returns the exit code."""
    parser = argparse.ArgumentParser("pai parse", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_command_arguments(parser)
    options, words = split_arguments(parser, arguments)
    found = given(options, words, asked_only=True).statements
    if options.json:
        print_json([_plain(statement) for statement in found])
        return 0
    for statement in found:
        if statement.name is None:
            print(f"not a PAI command: {redact(statement.text)}")
            continue
        project = "" if statement.project is None else f" -project {statement.project}"
        print(f"PAI -name {statement.name}{project}")
        for name, value in statement.parameters.items():
            print(f"  {name} = {redact(value)}")
    return 0


def _plain(statement: Statement) -> dict[str, object]:
    return {
        "text": redact(statement.text),
        "name": statement.name,
        "project": statement.project,
        "parameters": {name: redact(value) for name, value in statement.parameters.items()},
    }
