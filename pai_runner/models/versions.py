"""The versions of a model: numbered directories below one place.

TensorFlow Serving's rule of what a number is holds (file_system_storage_path_source.cc): a name
of digits, leading zeros allowed. Beside the numbers lie `.versions/N`, one for each number that
was ever given, `.pins/N` for those that are never removed, and `latest.json`.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.manifest import (
    ENTRIES,
    MANIFEST,
    Manifest,
    entry_of,
    read_manifest,
)
from pai_runner.models.place import Entry, Place

RESERVATIONS = ".versions"
PINS = ".pins"

# What TensorFlow Serving reads as a version is an int64.
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_HIGHEST = 2**63 - 1
# A number is lost to another exporter at most so often; each of them has got one meanwhile.
_ATTEMPTS = 1000


@dataclass(frozen=True)
class Version:
    """One version as it lies there.

    `name` is its directory's, `files` are all below it. `problem` says what is wrong with it,
    empty for nothing; a version without a manifest was not published by us, and its files can
    be compared with nothing.
    """

    number: int
    name: str
    files: dict[str, Entry]
    manifest: Manifest | None
    problem: str

    @property
    def is_complete(self) -> bool:
        """Whether a server can load it, as far as names and sizes tell."""
        return not self.problem

    @property
    def entry(self) -> str:
        """saved_model.pb or saved_model.pbtxt; empty when neither is there."""
        return entry_of(self.files)

    @property
    def total_bytes(self) -> int:
        """The size of all its files together."""
        return sum(entry.size for entry in self.files.values())

    @property
    def written_ns(self) -> int:
        """When the last of its files was written, in nanoseconds since 1970; 0 without files."""
        return max((entry.modified_ns for entry in self.files.values()), default=0)

    def age_seconds(self, now: float) -> float:
        """How long ago that was at `now`; 0 where the store tells no times: it may be new."""
        return now - self.written_ns / 1e9 if self.written_ns else 0.0


def number_of(name: str) -> int | None:
    """Return the version that a directory's name stands for, or None."""
    if not _NUMBER.fullmatch(name) or int(name) > _HIGHEST:
        return None
    return int(name)


def number_at(place: Place) -> int | None:
    """Return the version that a place's own name stands for, or None."""
    return number_of(place.prefix.rstrip("/").rpartition("/")[2])


def version_numbers(place: Place) -> dict[int, str]:
    """Return the versions that have a directory: number to name. Raises OSError, SetupError."""
    found = {}
    for name in sorted(place.children()):
        number = number_of(name)
        if number is not None:
            found[number] = name
    return dict(sorted(found.items()))


def list_versions(place: Place) -> list[Version]:
    """Return the versions of a place, lowest first. Raises OSError, SetupError."""
    found = version_numbers(place)
    versions = place.each(lambda one: read_version(place, *one), found.items())
    return [version for version in versions if version.files]


def read_version(place: Place, number: int, name: str = "") -> Version:
    """Return one version as it lies there now; it may have no files. Raises OSError, SetupError."""
    name = name or str(number)
    files = place.find(name)
    manifest, problem = None, ""
    if MANIFEST in files:
        try:
            manifest = read_manifest(place.at(name))
        except SetupError as error:
            problem = error.message
    return Version(number, name, files, manifest, problem or _problem(files, manifest))


def _problem(files: dict[str, Entry], manifest: Manifest | None) -> str:
    if not entry_of(files):
        return f"it has no {ENTRIES[0]}"
    if manifest is None:
        return ""
    for file in manifest.files:
        if file.path not in files:
            return f"{file.path} is missing"
        if files[file.path].size != file.size:
            return f"{file.path} has {files[file.path].size} bytes, not {file.size}"
    return ""


def reserved_numbers(place: Place) -> set[int]:
    """Return the numbers that were reserved, also those of versions that are gone."""
    reserved = map(number_of, place.at(RESERVATIONS).children())
    return {number for number in reserved if number is not None}


def given_numbers(place: Place) -> set[int]:
    """Return every number that was ever given: those reserved, and those with a directory."""
    return reserved_numbers(place) | set(version_numbers(place))


def pinned_numbers(place: Place) -> set[int]:
    """Return the numbers of the versions that are pinned."""
    return {number for number in map(number_of, place.at(PINS).children()) if number is not None}


# ====== Reserving a number ======


def reserve(place: Place, version: int | str | None = None) -> int:
    """Take a number for a new version, and return it; nobody else can be given it.

    `version` is a number, "timestamp" for the seconds since 1970 (or the next free number after
    them), or None for the next after the highest that was ever given. Raises UsageError for what
    is none of these, SetupError when the number is taken, and OSError.
    """
    if version is not None and version != "timestamp":
        check_wanted(place, version)
        number = wanted_number(version)
        if not _create(place, number):
            raise _taken(place, number)
        return number
    for _ in range(_ATTEMPTS):
        number = max(given_numbers(place), default=0) + 1
        if version == "timestamp":
            number = max(number, int(time.time()))
        if number > _HIGHEST:
            raise SetupError(f"{place.prefix}: there is no number above {_HIGHEST}", "use another")
        if _create(place, number):
            return number
    raise SetupError(
        f"{place.prefix}: no version could be reserved in {_ATTEMPTS} attempts",
        "others take each number first; see what publishes there",
    )


def check_wanted(place: Place, version: int | str | None) -> None:
    """Refuse a version that `reserve` would refuse, before work is put into it.

    Raises UsageError, SetupError, OSError.
    """
    if version is not None and version != "timestamp":
        number = wanted_number(version)
        if number in given_numbers(place):
            raise _taken(place, number)


def mark_given(place: Place, number: int) -> None:
    """Have the number of a version that was made without us never be given. Raises OSError."""
    with suppress(FileExistsError):
        place.create(f"{RESERVATIONS}/{number}", b"")


def wanted_number(version: int | str) -> int:
    """Return the version that a number or a text of digits names. Raises UsageError."""
    number = number_of(str(version)) if not isinstance(version, bool) else None
    if number is None:
        raise UsageError(
            f"{version!r} is not a version",
            f'a number from 0 to {_HIGHEST}, "timestamp", or None for the next one',
        )
    return number


def _taken(place: Place, number: int) -> SetupError:
    there = ", ".join(map(str, version_numbers(place))) or "none"
    return SetupError(
        f"version {number} of {place.prefix} was given before; versions are never overwritten",
        f"leave the version out for the next number; versions there: {there}",
    )


def _create(place: Place, number: int) -> bool:
    """Create a number's reservation. Returns whether it is ours.

    A server that does not know the condition would give one number to two: it is asked twice.
    """
    name = f"{RESERVATIONS}/{number}"
    owner = json.dumps({"owner": uuid.uuid4().hex, "process": os.getpid()}).encode()
    if not place.claim(name, owner):
        return False
    if place.is_local:
        return True
    try:
        place.create(name, owner)
    except FileExistsError:
        return True
    raise SetupError(
        f"{place.prefix}: the server does not honour conditional writes (If-None-Match)",
        "no version can be reserved there safely; publish to a local folder and copy it",
    )
