"""Which versions are kept, and how the others go.

A version goes with saved_model.pb and its manifest first, so that nobody begins to load what is
no longer whole. The newest, the one that the pointer names and those that are pinned never go.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.fetching import fetch_version
from pai_runner.models.manifest import ENTRIES, MANIFEST, entry_of
from pai_runner.models.place import TEMPORARY, LocalPlace, Place
from pai_runner.models.pointer import (
    GENERATIONS,
    POINTER,
    Pointer,
    point_at,
    pointed_versions,
    read_pointer,
)
from pai_runner.models.publishing import STAGING, Published, publish, staging_folder
from pai_runner.models.versions import (
    PINS,
    RESERVATIONS,
    Version,
    list_versions,
    mark_given,
    number_at,
    pinned_numbers,
    read_version,
    reserved_numbers,
    version_numbers,
)

# Leftovers may be the work of an exporter that is still at it: they are left alone so long.
GRACE_SECONDS = 24 * 3600.0
# How many names an error shows.
_MOST_SHOWN = 5
# Where a local version is moved to before it is removed.
_REMOVED = ".removed-"


@dataclass(frozen=True)
class KeepRule:
    """What is kept beside the newest, the pointer's and the pinned versions.

    `last` are so many of the newest complete ones; None keeps all. `pinned` are further numbers,
    `younger_than` keeps what was written within so many seconds.
    """

    last: int | None = 5
    pinned: tuple[int, ...] = ()
    younger_than: float | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise UsageError(f"last={self.last}: at least one version is kept", "give 1 or more")
        if self.younger_than is not None and self.younger_than < 0:
            raise UsageError(f"younger_than={self.younger_than} is negative", "give seconds")


@dataclass(frozen=True)
class Removal:
    """What is (or would be) removed: a version's directory or a leftover, its size, and why."""

    name: str
    bytes: int
    reason: str


def choose(
    versions: Sequence[Version],
    protected: Collection[int],
    rule: KeepRule,
    now: float,
    grace: float = GRACE_SECONDS,
) -> list[tuple[Version, str]]:
    """Return which of `versions` go, with the reason.

    `protected` are the pinned ones and the pointer's. `now` is in seconds since 1970.
    """
    complete = sorted((one for one in versions if one.is_complete), key=lambda one: one.number)
    last = complete if rule.last is None else complete[-rule.last :]
    kept = {one.number for one in last} | set(protected) | set(rule.pinned)
    newest = max((one.number for one in versions), default=0)
    going = []
    for version in versions:
        age = version.age_seconds(now)
        if version.number in kept:
            continue
        if not version.is_complete and age <= grace:
            continue  # it may be on its way
        if not version.entry:
            # Nobody can load it, and its number is never given again.
            going.append((version, version.problem))
        elif version.number != newest and rule.last is not None and age > (rule.younger_than or 0):
            going.append((version, version.problem or f"not among the last {rule.last}"))
    return going


def collect(
    place: Place, rule: KeepRule, dry_run: bool = False, grace: float = GRACE_SECONDS
) -> list[Removal]:
    """Remove the versions that `rule` does not keep, and what killed exporters left behind.

    Leftovers and incomplete versions are removed `grace` seconds after their last file was
    written. With `dry_run` nothing is removed. Returns what went, or would. Raises SetupError,
    OSError.
    """
    now = time.time()
    reserved = reserved_numbers(place)
    versions = [one for one in list_versions(place) if _is_ours(one, reserved)]
    young = [one for one in versions if one.age_seconds(now) <= grace]
    protected = _awaiting_pointer(place, young) | _protected(place)
    going = choose(versions, protected, rule, now, grace)
    removals = []
    for version, reason in going:
        # The pointer may have been moved, or the version pinned, since it was chosen.
        if not dry_run and version.number in _protected(place):
            continue
        if not dry_run:
            remove_version(place, version)
        removals.append(Removal(version.name, version.total_bytes, reason))
    return removals + _collect_leftovers(place, now - grace, dry_run)


def _protected(place: Place) -> set[int]:
    return pinned_numbers(place) | pointed_versions(place)


def _is_ours(version: Version, reserved: Collection[int]) -> bool:
    """Tell a version, also one of which keys are left, from anything else with a number's name."""
    return bool(version.entry) or MANIFEST in version.files or version.number in reserved


def _awaiting_pointer(place: Place, versions: Sequence[Version]) -> set[int]:
    """Return those of `versions` that their exporters may be about to point at.

    They were listed before: one that the pointer has passed by now is pointed at no more.
    """
    pointer = read_pointer(place)
    highest = pointer.highest if pointer else -1
    return {one.number for one in versions if one.manifest and one.number > highest}


def remove_version(place: Place, version: Version) -> None:
    """Remove a version, its saved_model.pb and its manifest first; its number stays given.

    Raises OSError, SetupError.
    """
    mark_given(place, version.number)
    if isinstance(place, LocalPlace):
        # Who has it open keeps its files; for all others it is gone at once.
        gone = place.path(f"{_REMOVED}{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):  # another collector was first
            os.rename(place.path(version.name), gone)
            _remove_folder(gone)
        return
    first = [name for name in (*ENTRIES, MANIFEST) if name in version.files]
    for name in first:
        place.remove(f"{version.name}/{name}")
    place.each(
        place.remove, [f"{version.name}/{name}" for name in version.files if name not in first]
    )


def _collect_leftovers(place: Place, before: float, dry_run: bool) -> list[Removal]:
    removals = []
    for name in sorted(place.children()):
        if not name.startswith((STAGING, _REMOVED)):
            continue
        files = place.find(name)
        newest = max((entry.modified_ns for entry in files.values()), default=0)
        if not files and isinstance(place, LocalPlace):
            newest = _folder_modified_ns(place.path(name))
        if not newest or newest / 1e9 > before:
            continue
        if not dry_run:
            _remove_directory(place, name, list(files))
        size = sum(entry.size for entry in files.values())
        removals.append(Removal(name, size, "left behind by an exporter that did not end"))
    return removals + _collect_temporaries(place, before, dry_run)


def _remove_directory(place: Place, name: str, files: Sequence[str]) -> None:
    if isinstance(place, LocalPlace):
        _remove_folder(place.path(name))
    else:
        place.each(place.remove, [f"{name}/{file}" for file in files])


def _folder_modified_ns(path: str) -> int:
    """Return when a folder was changed; 0 when it is gone, as its exporter may remove it."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _remove_folder(path: str) -> None:
    """Remove a folder, with all that is in it; another process may be doing the same."""

    def pass_over_missing(_: object, __: str, info: tuple[type, BaseException, object]) -> None:
        if not isinstance(info[1], FileNotFoundError):
            raise info[1]

    shutil.rmtree(path, onerror=pass_over_missing)


def _collect_temporaries(place: Place, before: float, dry_run: bool) -> list[Removal]:
    """Remove the files that a killed writer did not rename; there are none in a bucket."""
    removals = []
    for below in ("", RESERVATIONS, GENERATIONS, PINS) if place.is_local else ():
        names = place.at(below).children() if below else place.children()
        for name in sorted(os.path.join(below, one) for one in names if one.startswith(TEMPORARY)):
            entry = place.info(name)
            if entry is None or entry.modified_ns / 1e9 > before:
                continue
            if not dry_run:
                place.remove(name)
            removals.append(Removal(name, entry.size, "left behind by a writer that did not end"))
    return removals


# ====== Pins ======


def pin(place: Place, number: int) -> None:
    """Keep a version for good. Raises SetupError when there is no such version, OSError."""
    existing_version(place, number)
    place.write(f"{PINS}/{number}", b"")


def unpin(place: Place, number: int) -> None:
    """Let a version go like others. Raises SetupError when it is not pinned, OSError."""
    pinned = pinned_numbers(place)
    if number not in pinned:
        there = ", ".join(map(str, sorted(pinned))) or "none"
        raise SetupError(f"{place.prefix}: version {number} is not pinned", f"pinned: {there}")
    place.remove(f"{PINS}/{number}")


# ====== Going back ======


def existing_version(place: Place, number: int) -> Version:
    """Return a version that is there. Raises SetupError that lists those which are, OSError."""
    names = version_numbers(place)
    version = read_version(place, number, names.get(number, ""))
    if not version.files:
        there = ", ".join(map(str, names)) or "none"
        raise SetupError(f"{place.prefix} has no version {number}", f"versions there: {there}")
    return version


def complete_version(place: Place, number: int) -> Version:
    """Return a version that is there and whole. Raises SetupError, OSError."""
    version = existing_version(place, number)
    if not version.is_complete:
        raise SetupError(
            f"version {number} of {place.prefix} is not complete: {version.problem}",
            f"`pai models ls {place.prefix}` shows those that are",
        )
    return version


def rollback(place: Place, number: int) -> Pointer:
    """Point at an earlier version. Raises SetupError when it is not whole, OSError."""
    complete_version(place, number)
    pointer = point_at(place, number)
    complete_version(place, number)  # a collector may have had it in hand already
    return pointer


def republish(place: Place, number: int) -> Published:
    """Publish a copy of a version as the next one, for servers that take the highest number.

    Raises SetupError when the version is not whole, or not what its manifest says; OSError.
    """
    version = complete_version(place, number)
    with staging_folder(place) as folder:
        fetch_version(place, version, folder)
        about = version.manifest.about if version.manifest else None
        return publish(place, folder, about=about)


def latest_version(place: Place) -> int:
    """Return the version to serve: the pointer's, else the highest complete one.

    Raises SetupError when there is none, OSError.
    """
    pointer = read_pointer(place)
    if pointer is not None and pointer.version in version_numbers(place):
        return pointer.version
    complete = [version.number for version in list_versions(place) if version.is_complete]
    if complete:
        return complete[-1]
    named = f"; {POINTER} names version {pointer.version}" if pointer else ""
    raise no_versions(place, f"has no complete version{named}")


def no_versions(place: Place, problem: str) -> SetupError:
    """Return the error of a place without versions; its hint looks for the usual slips."""
    children = place.children()
    if number_at(place) is not None and entry_of(children):
        hint = f"it is a version itself; the directory of the versions is {place.above().prefix}"
    elif "export" in children and version_numbers(place.at("export")):
        hint = f"the versions lie in {place.shown('export/')}"
    else:
        there = ", ".join(sorted(children)[:_MOST_SHOWN])
        more = f" and {len(children) - _MOST_SHOWN} more" if len(children) > _MOST_SHOWN else ""
        hint = f"a version is a directory with a number, such as {place.shown('1/')}; "
        hint += f"there: {there}{more}" if children else "nothing is there"
    return SetupError(f"{place.prefix} {problem}", hint)
