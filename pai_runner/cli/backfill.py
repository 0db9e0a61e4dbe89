"""`pai backfill FILE --from DATE --to DATE`: runs a file for each business date of a range, once.

What follows `--` are options of `pai` for each date: `-- --retries 2 --param day=...`. The same
command goes on where it stopped; a date that any run of the name has succeeded for is done.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from datetime import datetime, time

from pai_runner.cli.numbers import positive
from pai_runner.cli.output import say
from pai_runner.errors import ExitCode, UsageError

# Options of `pai` that are the back-fill's own.
_OWN_OPTIONS = ("-e", "-f", "--cyctime", "--timezone", "--name", "--once-per", "--detach")


def run(arguments: Sequence[str]) -> int:
    """Run the range and print the calendar.

    Returns 0 when all dates have succeeded, 128 + N when signal N has ended it, else 1.
    """
    from pai_runner.runs import backfill
    from pai_runner.runs.options import checked_name
    from pai_runner.runs.stopping import Stopped

    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])
    further = words[cut + 1 :]
    _check_words(further)
    if _names("--lock", further) and not _names("--if-running", further):
        further += ["--if-running", "wait"]  # dates that are run at once wait for each other
    if not os.path.isfile(options.file):
        raise UsageError(f"there is no file {options.file}", "name a file of PAI commands")
    first, last = backfill.day_of(options.first), backfill.day_of(options.last)
    if last < first:
        raise UsageError(f"--to {options.last} is before --from {options.first}", "turn them round")
    stem = os.path.splitext(os.path.basename(options.file))[0]
    asked = backfill.Backfill(
        os.path.abspath(options.file),
        checked_name(options.name or stem),
        first,
        last,
        _time_of(options.at),
        (*(("--timezone", options.timezone) if options.timezone else ()), *further),
    )
    try:
        results = asked.known() if options.show else backfill.run(asked, options.parallel, say)
    except Stopped as stopped:
        say(f"ended by {signal.Signals(stopped.signum).name}; the same command goes on")
        return 128 + stopped.signum
    print(backfill.calendar_text(results))
    print(backfill.LEGEND)
    is_done = all(result == backfill.DONE for result in results.values())
    return ExitCode.OK if options.show or is_done else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pai backfill", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="a file of PAI commands")
    parser.add_argument("--from", dest="first", required=True, metavar="DATE", help="business date")
    parser.add_argument("--to", dest="last", required=True, metavar="DATE", help="the last one")
    parser.add_argument(
        "--parallel", type=positive, default=1, metavar="N", help="how many at once"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="the runs' name, as at night; default the file's"
    )
    parser.add_argument(
        "--at",
        default="00:00",
        metavar="HH:MM",
        help="the hour of cyctime, on the day behind the business date; default 00:00",
    )
    parser.add_argument("--timezone", metavar="ZONE", help="of cyctime; default the machine's")
    parser.add_argument("--show", action="store_true", help="print the calendar, run nothing")
    return parser


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        # One letter may have its value at once: -fnightly.pai.
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if name in _OWN_OPTIONS:
            raise UsageError(f"{name} stands for itself in a back-fill", "leave it out behind --")


def _names(option: str, words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == option for word in words)


def _time_of(text: str) -> time:
    try:
        return datetime.strptime(text, "%H:%M").time()
    except ValueError:
        raise UsageError(f"--at {text} is no time of day", "write for example 02:30") from None
