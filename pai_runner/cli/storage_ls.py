"""`pai storage ls` and `pai storage du`: what lies at a location, and how much it is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pai_runner.cli.models_place import size_text
from pai_runner.cli.output import print_json, print_table
from pai_runner.cli.storage_place import add_location_arguments, kind_of, naming, opened
from pai_runner.location import Location
from pai_runner.storage.trees import Entry, Kind, Tree

_LS = "Lists the files and directories of LOCATION, or the one file that it names."
_DU = "Counts the files below each LOCATION, and their bytes."


def ls(arguments: Sequence[str]) -> int:
    """Print the list. Returns the exit code."""
    parser = argparse.ArgumentParser("pai storage ls", description=_LS)
    parser.add_argument("location", metavar="LOCATION", type=Location.parse)
    parser.add_argument("-l", action="store_true", help="show sizes and times (UTC), too")
    parser.add_argument("-R", "--recursive", action="store_true", help="list all files below")
    add_location_arguments(parser)
    options = parser.parse_args(arguments)
    with opened([options.location], options.role) as (tree,):
        found = _listed(tree, options.recursive)
    if options.json:
        print_json([_json(name, entry) for name, entry in found.items()])
    elif options.l:
        header = ("size", "modified", "name")
        print_table([header, *(_row(name, entry) for name, entry in found.items())])
    else:
        for name, entry in found.items():
            print(name if entry else f"{name}/")
    return 0


def du(arguments: Sequence[str]) -> int:
    """Print the counts. Returns the exit code."""
    parser = argparse.ArgumentParser("pai storage du", description=_DU)
    parser.add_argument("location", metavar="LOCATION", nargs="+", type=Location.parse)
    add_location_arguments(parser)
    options = parser.parse_args(arguments)
    counts: list[dict[str, Any]] = []
    with opened(options.location, options.role) as trees:
        for location, tree in zip(options.location, trees, strict=True):
            sizes = [entry.size for entry in _listed(tree, True).values() if entry]
            counts.append({"location": str(location), "files": len(sizes), "bytes": sum(sizes)})
    if options.json:
        print_json(counts)
        return 0
    total = {"location": "total", **{key: sum(one[key] for one in counts) for key in _COUNTED}}
    rows = [*counts, total] if len(counts) > 1 else counts
    header = ("size", "bytes", "files", "location")
    print_table([header, *(_count_row(one) for one in rows)])
    return 0


_COUNTED = ("files", "bytes")


def _count_row(count: Mapping[str, Any]) -> tuple[str, ...]:
    size = count["bytes"]
    return (size_text(size), str(size), str(count["files"]), count["location"])


def _listed(tree: Tree, is_recursive: bool) -> Mapping[str, Entry | None]:
    if kind_of(tree) is Kind.FILE:
        folder, name = tree.file()
        with naming(tree):
            entry = folder.entry(name)
        return {name: entry} if entry else {}
    with naming(tree):
        return tree.find() if is_recursive else tree.children()


def time_text(modified_ns: int | None) -> str | None:
    """Return a time as ISO text in UTC, to the second; None for one that is not known."""
    if not modified_ns:
        return None
    return datetime.fromtimestamp(modified_ns // 10**9, timezone.utc).isoformat()


def _row(name: str, entry: Entry | None) -> tuple[str, ...]:
    if entry is None:
        return ("-", "-", f"{name}/")
    written = time_text(entry.modified_ns) or "-"
    return (size_text(entry.size), written.replace("T", " ").removesuffix("+00:00"), name)


def _json(name: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file or directory for machines; None is: not known."""
    if entry is None:
        return {"name": name, "type": "directory"}
    return {
        "name": name,
        "type": "file",
        "bytes": entry.size,
        "modified": time_text(entry.modified_ns),
        "etag": entry.etag or None,
    }
