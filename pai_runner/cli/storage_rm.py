"""`pai storage rm LOCATION`: removes files, or with -r directories.

What names others goes first: a `checkpoint` file before the checkpoints that it names. A whole
bucket is never removed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pai_runner.cli.models_place import size_text
from pai_runner.cli.output import print_json, say
from pai_runner.cli.storage_place import (
    ASKED_FROM,
    add_location_arguments,
    add_removal_arguments,
    agreed,
    is_root,
    kind_of,
    naming,
    opened,
)
from pai_runner.errors import ExitCode, UsageError
from pai_runner.location import Location
from pai_runner.storage.copying import remove_in_order
from pai_runner.storage.names import has_plain_parts
from pai_runner.storage.trees import Entry, Kind, Tree

# Some files could not be removed.
_FAILED = 1


def run(arguments: Sequence[str]) -> int:
    """Remove them, and print how many went. Returns 0, or 1 when some could not be removed."""
    options = _parser().parse_args(arguments)
    for location in options.location:
        _refuse_root(location)
    with opened(options.location, options.role) as trees:
        found = [_files(tree, options.recursive) for tree in trees]
        count = sum(len(one.files) for one in found)
        size = sum(entry.size for one in found for entry in one.files.values())
        if options.dry_run:
            return _show(found, size, options.json)
        if count > ASKED_FROM:
            agreed(f"Remove {count:,} files, {size_text(size)}?", options.yes)
        failures = {}
        for one in found:
            failures.update(one.run())
    if options.json:
        print_json({"dry_run": False, "files": count, "bytes": size, "failures": failures})
    else:
        for name, text in failures.items():
            say(f"error: {name}: {text}")
        if not failures:
            print(f"removed {count} {'file' if count == 1 else 'files'}, {size_text(size)}")
    return _FAILED if failures else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pai storage rm",
        description=__doc__,
        epilog=f"More than {ASKED_FROM:,} files are removed after a question, or with --yes.",
    )
    parser.add_argument("location", metavar="LOCATION", nargs="+", type=Location.parse)
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="remove directories and all below them"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_removal_arguments(parser)
    add_location_arguments(parser)
    return parser


def _refuse_root(location: Location) -> None:
    if is_root(location):
        raise UsageError(
            f"{location} is a whole bucket, disk or home: it is not removed",
            "name a directory or a file in it",
        )
    path = location.path.removeprefix("/").removesuffix("/")
    if not (location.is_local or has_plain_parts(path)):
        raise UsageError(
            f"{location}: a part of it is empty, `.` or `..`",
            "write the path without such parts; what is removed must be one place",
        )


@dataclass(frozen=True)
class _Removal:
    """Files of a tree; `is_whole` where the tree itself goes with them."""

    tree: Tree
    files: dict[str, Entry]
    is_whole: bool = False

    def run(self) -> dict[str, str]:
        """Do it; return why, for the files that stay. Raises SetupError."""
        with naming(self.tree):
            failures = remove_in_order(self.tree, self.files)
            if self.is_whole and not failures:
                self.tree.remove_empty()
        return {self.tree.shown(name): text for name, text in failures.items()}


def _files(tree: Tree, is_recursive: bool) -> _Removal:
    """Return what is to be removed at a location. Raises UsageError, SetupError."""
    if tree.is_local and os.path.islink(tree.prefix.rstrip("/")):
        folder, name = tree.file()
        return _Removal(folder, {name: Entry(0, 0)})
    if kind_of(tree) is Kind.FILE:
        folder, name = tree.file()
        with naming(tree):
            entry = folder.entry(name)
        return _Removal(folder, {name: entry} if entry else {})
    if not is_recursive:
        raise UsageError(f"{tree.shown()} is a directory", "add -r to remove it and all below it")
    with naming(tree):
        return _Removal(tree, tree.find(with_markers=True), is_whole=True)


def _show(found: Sequence[_Removal], size: int, is_json: bool) -> int:
    names = [one.tree.shown(name) for one in found for name in one.files]
    if is_json:
        print_json({"dry_run": True, "files": len(names), "bytes": size, "names": names})
        return ExitCode.OK
    for name in names:
        print(f"remove {name}")
    print(f"would remove {len(names)} files, {size_text(size)}")
    return ExitCode.OK
