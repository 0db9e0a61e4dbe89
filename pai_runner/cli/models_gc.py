"""`pai models gc LOCATION`: removes old versions, and what killed exporters left behind.

The newest complete version, the one that latest.json names and those that are pinned stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pai_runner.cli.models_place import (
    add_place_arguments,
    duration_with_unit,
    opened,
    size_text,
    version_number,
)
from pai_runner.cli.output import print_json, print_table
from pai_runner.models.keeping import (
    GRACE_SECONDS,
    KeepRule,
    Removal,
    collect,
    existing_version,
)


def run(arguments: Sequence[str]) -> int:
    """Remove them, and print what went. Returns the exit code."""
    options = _parser().parse_args(arguments)
    rule = KeepRule(options.last, tuple(options.pinned), options.younger_than)
    with opened(options.location, options.role) as place:
        for number in options.pinned:
            existing_version(place, number)
        removals = collect(place, rule, options.dry_run, options.grace)
    total = sum(removal.bytes for removal in removals)
    if options.json:
        removed = [asdict(removal) for removal in removals]
        print_json({"dry_run": options.dry_run, "removed": removed, "bytes": total})
        return 0
    if not removals:
        print("nothing to remove")
        return 0
    header = ("would go" if options.dry_run else "gone", "size", "reason")
    print_table([header, *map(_row, removals), ("total", size_text(total), "")])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pai models gc", description=__doc__)
    add_place_arguments(parser)
    parser.add_argument(
        "--last", type=int, default=5, metavar="N", help="keep the N newest complete; default 5"
    )
    parser.add_argument(
        "--younger-than",
        type=duration_with_unit,
        metavar="T",
        help="keep what was written within 90s, 30m, 12h, 7d",
    )
    parser.add_argument(
        "--pinned",
        type=version_number,
        nargs="+",
        action="extend",
        default=[],
        metavar="N",
        help="keep these, too, this time; `pai models pin` keeps them for good",
    )
    parser.add_argument(
        "--grace",
        type=duration_with_unit,
        default=GRACE_SECONDS,
        metavar="T",
        help="leave alone what may still be an exporter's work for this long; default 24h",
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    return parser


def _row(removal: Removal) -> tuple[str, ...]:
    return (removal.name, size_text(removal.bytes), removal.reason)
