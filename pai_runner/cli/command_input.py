"""The three ways in which a verb takes a PAI command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pai_runner.command import Statement, apply_settings, parse, parse_arguments
from pai_runner.errors import UsageError

USAGE = """\
  pai [OPTIONS] -name tensorflow -Dscript=... [-Dbuckets=... -DcheckpointDir=...] [OPTIONS]
  pai [OPTIONS] -e 'PAI -name tensorflow -Dscript=...; PAI ...;'
  pai [OPTIONS] -f jobs.pai        (-f - reads standard input)"""


def add_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take a command as text (-e) or as a file (-f); the rest it leaves over."""
    parser.add_argument("-e", dest="text", metavar="TEXT", help="the PAI command as one text")
    parser.add_argument(
        "-f", dest="file", metavar="FILE", help="a file of PAI commands; - is standard input"
    )


def split_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return our own options, and the words of the PAI command. Raises UsageError.

    argparse would read `-entryFile=x`, a parameter whose D was forgotten, as `-e ntryFile=x`.
    """
    previous = ""
    for word in arguments:
        if word[:2] in ("-e", "-f", "-h") and len(word) > 2 and previous not in ("-e", "-f", "-D"):
            raise UsageError(
                f"there is no option `{word}`",
                f"a parameter is written -D{word[1:]}; a text after -e, a file after -f",
            )
        previous = word
    return parser.parse_known_args(arguments)


def statements(options: argparse.Namespace, words: Sequence[str]) -> list[Statement]:
    """Return the statements of -e, -f or of `words`, what the shell has already split.

    `set odps.pai.property.K=V` is applied to the PAI commands behind it. Raises UsageError when
    there is no command or more than one way is used, CommandError when it is malformed.
    """
    ways = [way for way in (options.text, options.file, words or None) if way is not None]
    if len(ways) > 1:
        stray = f": `{words[0]}`" if words else ""
        raise UsageError(
            f"a command is given in more than one way{stray}",
            "use one of: the parameters themselves, -e TEXT, -f FILE",
        )
    if not ways:
        raise UsageError("no PAI command given", f"use one of:\n{USAGE}")
    if words:
        return [parse_arguments(words)]
    return apply_settings(parse(options.text if options.file is None else _read(options.file)))


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text", "save it as UTF-8") from error
