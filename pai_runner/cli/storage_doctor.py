"""`pai storage doctor LOCATION`: what killed jobs and copies have left below a location.

Listed are uploads in parts that have not ended, files under the temporary names of TensorFlow, of
publishing and of downloads, and halves of checkpoints. What a `checkpoint` file names, and a whole
checkpoint, is neither listed nor removed. A job that runs may own what is young.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from pai_runner.cli.models_place import age_text, size_text
from pai_runner.cli.output import print_json, print_table, say
from pai_runner.cli.storage_ls import time_text
from pai_runner.cli.storage_place import (
    add_location_arguments,
    add_removal_arguments,
    agreed,
    kind_of,
    naming,
    opened,
)
from pai_runner.errors import ExitCode, UsageError
from pai_runner.location import Location
from pai_runner.run.options import parse_duration
from pai_runner.storage.leftovers import Leftover, Leftovers, clean, leftovers_of
from pai_runner.storage.trees import Kind, StoreTree, Tree

_DAY = 86400.0
# Something is left that may go.
_LEFT = 1


def run(arguments: Sequence[str]) -> int:
    """Print what is left. Returns 0, or 1 when something older than the limit stays there."""
    options = _parser().parse_args(arguments)
    with opened([options.location], options.role) as (tree,):
        _check(tree)
        with naming(tree):
            leftovers = leftovers_of(tree)
        now = time.time()
        old = [one for one in leftovers.found if _is_old(one, now, options.older_than)]
        failures: dict[str, str] = {}
        is_cleaned = options.clean and bool(old)
        if not options.json:
            _print(tree, leftovers, old, now)
        if is_cleaned:
            agreed(f"Remove {len(old)} of these leftovers?", options.yes)
            with naming(tree):
                failures = clean(tree, old)
    if options.json:
        rows = [_json(tree, one, one in old, now) for one in leftovers.found]
        removed = len(old) - len(failures) if is_cleaned else 0
        told = {"removed": removed, "failures": failures, "notes": leftovers.notes}
        print_json({"leftovers": rows, **told})
    elif is_cleaned:
        for name, text in failures.items():
            say(f"error: {tree.shown(name)}: {text}")
        print(f"removed {len(old) - len(failures)}")
    elif old:
        print(f"{len(old)} may be removed: add --clean")
    return _LEFT if failures or (old and not is_cleaned) else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pai storage doctor",
        description=__doc__,
        epilog="exit code 1: something is left that is older than the limit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="LOCATION", type=Location.parse)
    parser.add_argument("--clean", action="store_true", help="remove what is older than the limit")
    parser.add_argument(
        "--older-than",
        type=_duration,
        default=_DAY,
        metavar="T",
        help="the limit: 90s, 30m, 12h, 7d; default 24h",
    )
    add_removal_arguments(parser)
    add_location_arguments(parser)
    return parser


def _duration(text: str) -> float:
    """Return seconds. What decides about removal has its unit: `7` may be meant as days."""
    if text.strip().isdigit():
        raise UsageError(f"`{text}`: of what?", "write 90s, 30m, 12h or 7d")
    return parse_duration(text)


def _check(tree: Tree) -> None:
    """Check that it is a directory; in a bucket one that has no file may have uploads."""
    if not isinstance(tree, StoreTree) and kind_of(tree) is Kind.FILE:
        raise UsageError(f"{tree.shown().rstrip('/')} is a file", "name a directory")


def _is_old(one: Leftover, now: float, limit: float) -> bool:
    age = one.age(now)
    return age is not None and age >= limit


def _print(tree: Tree, leftovers: Leftovers, old: Sequence[Leftover], now: float) -> None:
    for note in leftovers.notes:
        say(note)
    if not leftovers.found:
        print(f"{tree.shown()}: nothing is left over")
        return
    rows = [(*_row(one, now), "" if one in old else "young") for one in leftovers.found]
    print_table([("age", "size", "what", "name", ""), *rows])


def _row(one: Leftover, now: float) -> tuple[str, ...]:
    age = one.age(now)
    return (
        "-" if age is None else age_text(age),
        "-" if one.size is None else size_text(one.size),
        one.what.value,
        one.name,
    )


def _json(tree: Tree, one: Leftover, is_old: bool, now: float) -> dict[str, Any]:
    """Return a leftover for machines; None is: not known."""
    return {
        "what": one.what.name.lower(),
        "name": tree.shown(one.name),
        "bytes": one.size,
        "written": time_text(one.written_ns),
        "age_seconds": one.age(now),
        "upload_id": one.upload or None,
        "old": is_old,
    }
