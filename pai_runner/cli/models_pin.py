"""`pai models pin LOCATION N` and `unpin`: whether `pai models gc` may remove a version."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from pai_runner.cli.models_place import add_place_arguments, opened, version_number
from pai_runner.cli.output import print_json
from pai_runner.models import keeping
from pai_runner.models.place import Place


def pin(arguments: Sequence[str]) -> int:
    """Keep a version for good. Returns the exit code."""
    return _run("pin", "Keeps a version, whatever gc is told.", keeping.pin, arguments)


def unpin(arguments: Sequence[str]) -> int:
    """Let a version go like others. Returns the exit code."""
    return _run("unpin", "Lets gc remove a version again.", keeping.unpin, arguments)


def _run(
    verb: str, summary: str, change: Callable[[Place, int], None], arguments: Sequence[str]
) -> int:
    parser = argparse.ArgumentParser(f"pai models {verb}", description=summary)
    add_place_arguments(parser)
    parser.add_argument("version", metavar="N", type=version_number, help="the version's number")
    options = parser.parse_args(arguments)
    with opened(options.location, options.role) as place:
        change(place, options.version)
    if options.json:
        print_json({"version": options.version, "pinned": verb == "pin"})
    else:
        state = "is pinned" if verb == "pin" else "is no longer pinned"
        print(f"version {options.version} of {place.prefix} {state}")
    return 0
