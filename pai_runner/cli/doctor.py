"""`pai doctor [LOCATION ...]`: checks this machine and the locations given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pai_runner.cli.output import print_json
from pai_runner.errors import ExitCode

_MARKS = {True: "ok", None: "--", False: "NO"}


def run(arguments: Sequence[str]) -> int:
    """Print what was found. Returns 0, or 125 when something that is needed is missing."""
    from pai_runner.location import Location
    from pai_runner.run.doctor import checks

    parser = argparse.ArgumentParser("pai doctor", description=__doc__)
    parser.add_argument("location", nargs="*", type=Location.parse)
    parser.add_argument("--role", metavar="R", help="ignore: open them with your own keys")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    found = []
    for check in checks(options.location, Path.cwd(), options.role):
        found.append(check)
        if options.json:
            continue
        print(f"{_MARKS[check.ok]:3} {check.name}: {check.detail}", flush=True)
        if not check.ok and check.hint:
            print(f"    {check.hint}", flush=True)
    if options.json:
        print_json([asdict(check) for check in found])
    return ExitCode.SETUP if any(check.ok is False for check in found) else ExitCode.OK
