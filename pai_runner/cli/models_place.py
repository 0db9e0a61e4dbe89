"""What the verbs of `pai models` share: the location that they are given, and words for people."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pai_runner.cli.output import say
from pai_runner.errors import SetupError, UsageError
from pai_runner.location import Location
from pai_runner.models.failures import as_setup_error
from pai_runner.models.place import BucketPlace, LocalPlace, Place
from pai_runner.models.versions import number_of
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.run.options import parse_duration


def add_place_arguments(
    parser: argparse.ArgumentParser,
    metavar: str = "LOCATION",
    meaning: str = "the directory that the versions lie in",
) -> None:
    """Let `parser` take a location, how it is opened, and --json."""
    parser.add_argument("location", metavar=metavar, type=Location.parse, help=meaning)
    parser.add_argument("--role", metavar="R", help="ignore: open it with your own keys")
    parser.add_argument("--json", action="store_true", help="print JSON")


def version_number(text: str) -> int:
    """Return the version that a word of the command line names. Raises UsageError."""
    number = number_of(text)
    if number is None:
        raise UsageError(f"`{text}` is not a version", "give its number, as `pai models ls` shows")
    return number


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The same for a verb that looks at one model."""
    meaning = "a version, or the directory of the versions: then the one that latest.json names"
    add_place_arguments(parser, "LOCATION[/N]", meaning)


@contextmanager
def opened(location: Location, role: str | None) -> Iterator[Place]:
    """Yield the directory that `location` names, as it is opened with --role `role`.

    What its file system fails with inside the block becomes a SetupError. Raises UsageError,
    SetupError when there is no such folder or bucket, or it cannot be reached.
    """
    location = location.directory()
    own_keys = ignores_roles(role)
    try:
        yield _local(location) if location.is_local else _remote(location, own_keys)
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else location.prefix
        raise as_setup_error(named, error) from error


def _local(location: Location) -> Place:
    place = LocalPlace(os.path.abspath(os.path.expanduser(location.path)))
    if not os.path.exists(place.folder):
        raise SetupError(f"{place.folder} does not exist", "the first export makes it")
    if not os.path.isdir(place.folder):
        raise SetupError(f"{place.folder} is not a folder", "name the folder of the versions")
    return place


def _remote(location: Location, own_keys: bool) -> Place:
    access = Access.of([location], "models", own_keys)
    for notice in access.notices([location]):
        say(notice)
    check_servers([location])
    place = BucketPlace.opened(location.prefix, access.options(location))
    place.check()
    return place


# ====== Words for people ======


def size_text(size: int) -> str:
    """Return a number of bytes for people, as 512 B, 1.5 kB or 20 MB; the units are decimal."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age_text(seconds: float) -> str:
    """Return an age in whole units, as durations are written: 90s, 30m, 6h or 12d."""
    for unit, length, below in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 2 * 86400)):
        if seconds < below:
            return f"{max(0, int(seconds // length))}{unit}"
    return f"{int(seconds // 86400)}d"


def duration_with_unit(text: str) -> float:
    """Return seconds. What decides about removal has its unit: `7` may be meant as days.

    Raises UsageError.
    """
    if text.strip().isdigit():
        raise UsageError(f"`{text}`: of what?", "write 90s, 30m, 12h or 7d")
    return parse_duration(text)
