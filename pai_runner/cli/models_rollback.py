"""`pai models rollback LOCATION N`: makes an earlier version the one to serve.

latest.json then names it. A server that takes the highest number instead needs --republish.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pai_runner.cli.models_place import add_place_arguments, opened, version_number
from pai_runner.cli.output import print_json
from pai_runner.models.keeping import republish, rollback
from pai_runner.models.place import Place


def run(arguments: Sequence[str]) -> int:
    """Go back to the version. Returns the exit code."""
    parser = argparse.ArgumentParser("pai models rollback", description=__doc__)
    add_place_arguments(parser)
    parser.add_argument("version", metavar="N", type=version_number, help="the version's number")
    parser.add_argument(
        "--republish", action="store_true", help="publish a copy of it as the next version"
    )
    options = parser.parse_args(arguments)
    change = _republish if options.republish else _point
    with opened(options.location, options.role) as place:
        done, line = change(place, options.version)
    if options.json:
        print_json(done)
    else:
        print(line)
    return 0


def _point(place: Place, number: int) -> tuple[dict[str, object], str]:
    pointer = rollback(place, number)
    return asdict(pointer), f"{place.prefix}: version {number} is the latest"


def _republish(place: Place, number: int) -> tuple[dict[str, object], str]:
    made = republish(place, number)
    done = {"version": made.version, "location": made.location, "republished": number}
    return done, f"{place.prefix}: version {number} was published again as version {made.version}"
