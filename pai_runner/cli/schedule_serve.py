"""`pai schedule serve`: runs the schedules that are installed with --serve, until SIGTERM.

For containers, where there is neither cron nor systemd. What came due while nobody served is run
once, for the latest tick. Schedules may be installed and removed meanwhile.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pai_runner.cli.output import say
from pai_runner.errors import SetupError
from pai_runner.run.options import parse_duration


def run(arguments: Sequence[str]) -> int:
    """Serve. Returns the exit code."""
    parser = argparse.ArgumentParser(
        "pai schedule serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--retry",
        type=_durations,
        default=_durations("1m,5m,15m"),
        metavar="T,T,…",
        help="try a tick that failed again after these times, until the next tick; the last "
        "counts for all further tries; `never`: not at all; default 1m,5m,15m",
    )
    options = parser.parse_args(arguments)
    try:
        from pai_runner.schedule.serve import Server
    except ModuleNotFoundError as error:
        raise SetupError(
            f"pai schedule serve needs {error.name}", "pip install 'pai-runner[schedule]'"
        ) from error
    return Server(say, options.retry).serve()


def _durations(text: str) -> list[float]:
    return [] if text == "never" else [parse_duration(part) for part in text.split(",")]
