"""The three ways in which a verb takes a PAI command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pai_runner.command import Statement, apply_settings, parse, parse_arguments
from pai_runner.errors import UsageError

if TYPE_CHECKING:  # `pai --help` need not wait for the dates
    from pai_runner.command.dates import Instant

USAGE = """\
  pai [OPTIONS] -name tensorflow -Dscript=... [-Dbuckets=... -DcheckpointDir=...] [OPTIONS]
  pai [OPTIONS] -e 'PAI -name tensorflow -Dscript=...; PAI ...;'
  pai [OPTIONS] -f jobs.pai        (-f - reads standard input)"""


@dataclass(frozen=True)
class Given:
    """The command that a verb was given, and how its dates were filled in.

    `instant` is the time that it is scheduled for. `before` and `text` are the command as it was
    given and as it is parsed; where the shell has split it, both are put together as one text.
    `assignments` holds the right side of each name. `notices` are to be said once.
    """

    statements: list[Statement]
    instant: Instant
    before: str = field(repr=False)
    text: str = field(repr=False)
    assignments: Mapping[str, str] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()


def add_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take a command as text (-e) or as a file (-f), and the dates for it.

    The words of a command that the shell has split it leaves over.
    """
    parser.add_argument("-e", dest="text", metavar="TEXT", help="the PAI command as one text")
    parser.add_argument(
        "-f", dest="file", metavar="FILE", help="a file of PAI commands; - is standard input"
    )
    parser.add_argument(
        "--param",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=EXPR",
        help="what ${NAME} in the command is, as in DataWorks: day=$[yyyymmdd-1]; repeatable",
    )
    parser.add_argument(
        "--cyctime",
        metavar="T",
        help="the time that the command is scheduled for: 2026-11-20T00:00 (default now)",
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", help="the zone of its dates: Asia/Shanghai (default yours)"
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


def given(options: argparse.Namespace, words: Sequence[str], asked_only: bool = False) -> Given:
    """Return the command of -e, -f or of `words`, what the shell has already split.

    Its dates are filled in before it is parsed; with `asked_only` if --param, --cyctime or a line
    `-- @param` asks for it. `set odps.pai.property.K=V` is applied to the PAI commands behind it.
    Raises UsageError when there is no command, more than one way is used or a date is wrong,
    CommandError when the text is malformed.
    """
    from datetime import datetime

    from pai_runner.command.dates import Filled, assignments_in, fill, instant
    from pai_runner.zones import zone

    text = _text(options, words)
    when = instant(options.cyctime, zone(options.timezone), datetime.now().astimezone())
    assignments = {**assignments_in(text or ""), **_assignments(options.param)}
    filled = not asked_only or bool(assignments) or options.cyctime is not None
    if text is None:
        return _given_words(words, when, assignments, filled)
    found = fill(text, assignments, when) if filled else Filled(text)
    parsed = apply_settings(parse(found.text))
    return Given(parsed, when, text, found.text, assignments, found.notices)


def _given_words(
    words: Sequence[str], when: Instant, assignments: Mapping[str, str], filled: bool
) -> Given:
    from pai_runner.command.dates import fill

    before = parse_arguments(words)
    if not filled:
        return Given([before], when, before.text, before.text, assignments)
    found = [fill(word, assignments, when, literal=True) for word in words]
    after = parse_arguments([one.text for one in found])
    notices = dict.fromkeys(notice for one in found for notice in one.notices)
    return Given([after], when, before.text, after.text, assignments, tuple(notices))


def _text(options: argparse.Namespace, words: Sequence[str]) -> str | None:
    """Return the text of -e or -f; None when the command is `words`. Raises UsageError."""
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
        return None
    text: str = options.text if options.file is None else _read(options.file)
    return text


def _assignment(text: str) -> tuple[str, str]:
    from pai_runner.command.dates import assignment

    return assignment(text)


def _assignments(params: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, expression in params:
        if name in found:
            raise UsageError(f"--param assigns `{name}` twice", "leave one of them out")
        found[name] = expression
    return found


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 text", "save it as UTF-8") from error
