"""What the verbs of `pai storage` share: the locations that they are given, and questions."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pai_runner.cli.output import say
from pai_runner.errors import SetupError, UsageError
from pai_runner.location import Location
from pai_runner.models.failures import as_setup_error
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.storage.filesystems import check_directory
from pai_runner.storage.local_tree import LocalTree
from pai_runner.storage.trees import Kind, Stores, Tree

# More files than these are not removed without a question.
ASKED_FROM = 1000


class Ended(BaseException):
    """The process was told to end by a signal, `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def add_location_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take how its locations are opened, and --json."""
    parser.add_argument("--role", metavar="R", help="ignore: open them with your own keys")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_removal_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take --yes."""
    parser.add_argument("--yes", "-y", action="store_true", help="remove without a question")


@contextmanager
def opened(locations: Sequence[Location], role: str | None) -> Iterator[list[Tree]]:
    """Yield what the locations name, in their order; each can be reached.

    Raises UsageError, SetupError.
    """
    access = Access.of(locations, "storage", ignores_roles(role))
    for notice in access.notices(locations):
        say(notice)
    check_servers(locations)
    trees: list[Tree] = []
    stores = Stores()
    for location in locations:
        if location.is_local:
            trees.append(LocalTree(os.path.abspath(os.path.expanduser(location.path))))
            continue
        tree = stores.tree(location.prefix, location.protocol, access.options(location))
        check_directory(tree.fs, location.prefix)
        trees.append(tree)
    yield trees


@contextmanager
def naming(tree: Tree) -> Iterator[None]:
    """Turn what a tree fails with into a SetupError that names it."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else tree.shown()
        raise as_setup_error(named, error) from error


def kind_of(tree: Tree) -> Kind:
    """Return what is there. Raises SetupError where there is nothing."""
    with naming(tree):
        kind = tree.kind()
    if kind is None:
        raise nothing_there(tree)
    return kind


def nothing_there(tree: Tree) -> SetupError:
    """Return the error for a path at which there is neither a file nor a directory."""
    above = tree.shown().rstrip("/").rpartition("/")[0]
    return SetupError(
        f"{tree.shown().rstrip('/')}: there is no such file or directory",
        f"look with: pai storage ls {above}/",
    )


def is_root(location: Location) -> bool:
    """Tell whether a location is all of a bucket, of a local disk or of the user's home."""
    if location.is_local:
        home = os.path.expanduser("~")
        return os.path.abspath(os.path.expanduser(location.path)) in ("/", os.path.abspath(home))
    return "/" not in location.path.strip("/")


def agreed(question: str, is_yes: bool) -> None:
    """Go on if the user says so. Raises UsageError where not, or where there is nobody to ask."""
    if is_yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to answer at", "add --yes to do it")
    print(f"pai: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was removed", "answer y, or add --yes")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` inside the block when SIGINT or SIGTERM comes."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not break off the ending
        raise Ended(number)

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
