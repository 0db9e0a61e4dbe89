"""Finds what a script exported by plain TensorFlow, and makes versions of it.

A SavedModel in a numbered directory `X/3/` is where it belongs: it is version 3 of X as soon as it
has a manifest, and `latest.json` names it. One in another directory `X/` is copied and published
as the next version below `X-versions/`, unless one of them is the same. Before that each is loaded
and run; one that is not sound stays as it is.

Whatever was done when the process is killed is found again by the next run, which does the rest.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from pai_runner.errors import SetupError
from pai_runner.models.fetching import fetch_version
from pai_runner.models.findings import ERROR
from pai_runner.models.keeping import KeepRule, collect
from pai_runner.models.manifest import ENTRIES, About, File, digest_at, digest_folder
from pai_runner.models.place import LocalPlace, Place
from pai_runner.models.pointer import advance
from pai_runner.models.publishing import Published, adopt, publish, staging_folder
from pai_runner.models.scratch import scratch_folder
from pai_runner.models.verify import verify
from pai_runner.models.versions import (
    Version,
    list_versions,
    number_of,
    read_version,
    reserved_numbers,
)
from pai_runner.storage.names import is_in_hands
from pai_runner.storage.stage_progress import in_words

# Directories whose files are on their way: hidden ones, among them publishing's own, and those
# that Estimators and others export to before they rename them.
_PASSING = re.compile(r"(^|/)(\.|temp-|tmp)[^/]*/")
# A SavedModel's own files and directories (TensorFlow's constants.py of its saved_model), which
# may lie among others where its directory has no number.
_OWN_FILES = (*ENTRIES, "fingerprint.pb", "keras_metadata.pb")
_OWN_DIRECTORIES = ("variables", "assets", "assets.extra", "debug")
# Errors of `pai models verify` with which servers serve all the same: they are said, no more.
_TOLERATED = ("denied-op", "fixed-batch", "leftover-file", "training-op")
# What of a model is another after every export, whatever its weights.
_TELLING = (*ENTRIES, "fingerprint.pb", "variables/variables.index")


@dataclass(frozen=True)
class Model:
    """A SavedModel that lies below a place.

    `directory` is its own, below the place, `base` that of its versions. `files` are paths in it.
    """

    directory: str
    base: str
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of its directory."""
        return posixpath.basename(self.directory)

    @property
    def number(self) -> int | None:
        """The version that it lies there as."""
        return number_of(self.name)


@dataclass
class Outcome:
    """What was done: `found` counts the models, `problems` says why some are not published."""

    found: int = 0
    published: list[Published] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_models(names: Iterable[str]) -> list[Model]:
    """Return the SavedModels among the files `names` of a place, in order of their versions.

    One in the assets or the variables of another is part of that one.
    """
    files = sorted(names)
    directories = {posixpath.dirname(name) for name in files if posixpath.basename(name) in ENTRIES}
    directories = {one for one in directories if not _PASSING.search(f"{one}/")}
    parts = tuple(f"{_below(one)}{own}/" for one in directories for own in _OWN_DIRECTORIES)
    models = []
    for directory in directories:
        if f"{directory}/".startswith(parts):
            continue
        above = _below(directory)
        inside = [one.removeprefix(above) for one in files if one.startswith(above)]
        base, name = posixpath.split(directory)
        if number_of(name) is None:
            models.append(Model(directory, versions_of(directory), tuple(filter(_is_own, inside))))
        else:
            models.append(Model(directory, base, tuple(inside)))
    # The one without a number comes last: it gets the next.
    return sorted(models, key=lambda one: (one.base, one.number is None, one.number or 0, one.name))


def versions_of(directory: str) -> str:
    """Return where the versions of a model lie that is exported to a directory without a number.

    Not in it: scripts clear such a directory before they export to it again.
    """
    return f"{directory}-versions" if directory else "versions"


def promote(place: Place, keep: int | None, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Publish what is found below `place`, and keep the newest `keep` versions of each model.

    `outcome` is filled as things are done, `say` gets a line for each. A model that is not sound,
    or was overwritten after it was published, is a problem; of its versions none is removed.
    Raises OSError, SetupError where the place cannot be read or written.
    """
    models = find_models(place.find())
    outcome.found = len(models)
    for base, group in groupby(models, key=lambda one: one.base):
        below = place.at(base) if base else place
        problems, done = len(outcome.problems), len(outcome.published)
        # Looked up first: of a number that another publishes from here on there is a manifest.
        given = reserved_numbers(below)
        for model in group:
            try:
                published = _promote(place, below, model, given, say)
            except _NotPublishable as error:
                outcome.problems.append(str(error))
                say(f"not published: {error}")
                continue
            if published is not None:
                outcome.published.append(published)
                say(_line(published))
        _point_at_newest(below)
        if len(outcome.problems) == problems:
            # A training that began anew may give low numbers: the last that is new stays.
            new = tuple(published.version for published in outcome.published[done:])
            _remove_older(below, KeepRule(last=keep, pinned=new[-1:]), outcome, say)


class _NotPublishable(Exception):
    """A model that must not be published; the text says which, and why."""


def _promote(
    above: Place, place: Place, model: Model, given: Collection[int], say: Callable[[str], None]
) -> Published | None:
    """Publish a model that lies below `above`; return None for one that is published already.

    `place` is that of its versions. `given` are the numbers that were reserved: one of them is not
    given to a second model.
    """
    if model.number is None:
        source = above.at(model.directory) if model.directory else above
        return _promote_copy(source, place, model.files, say)
    version = read_version(place, model.number, model.name)
    if version.manifest is None:
        if version.problem:
            raise _NotPublishable(f"{place.shown(f'{model.name}/')}: {version.problem}")
        if version.number in given:
            raise _NotPublishable(
                f"{place.shown(f'{model.name}/')}: the number was given before, to a version that "
                "is gone: export under a new number, or under none"
            )
        return _promote_in_place(place, version, say)
    _refuse_overwritten(place, version)
    return None


def _promote_in_place(place: Place, version: Version, say: Callable[[str], None]) -> Published:
    shown = place.shown(f"{version.name}/")
    with _local_copy(place, version) as folder:
        _check(folder, shown, say)
        return adopt(place, version.name, _digests(folder, shown), _about(folder))


def _promote_copy(
    source: Place, place: Place, files: Sequence[str], say: Callable[[str], None]
) -> Published | None:
    with staging_folder(place) as folder:
        for directory in {posixpath.dirname(name) for name in files}:
            os.makedirs(os.path.join(folder, directory), exist_ok=True)
        source.each(lambda name: source.get(name, os.path.join(folder, name)), files)
        _check(folder, source.prefix, say)
        digests = _digests(folder, source.prefix)
        # Not the newest alone: after a rollback that is another one.
        if any(one.manifest and one.manifest.files == digests for one in _published(place)):
            return None
        published = publish(place, folder, about=_about(folder))
        return published if published.is_new else None


@contextmanager
def _local_copy(place: Place, version: Version) -> Iterator[str]:
    """Yield a local folder with the version's files, the manifest left out."""
    if isinstance(place, LocalPlace):
        yield place.path(version.name)
        return
    with scratch_folder() as above:
        folder = os.path.join(above, "model")
        fetch_version(place, version, folder)
        yield folder


def _digests(folder: str, shown: str) -> tuple[File, ...]:
    try:
        return tuple(file for file in digest_folder(folder) if not is_in_hands(file.path))
    except SetupError as error:
        raise _NotPublishable(f"{shown}: {error.message}") from error


def _about(folder: str) -> About:
    # Here, not above: where nothing is new nobody has to wait for TensorFlow.
    from pai_runner.models.description import about_model

    return about_model(folder)


def _check(folder: str, shown: str, say: Callable[[str], None]) -> None:
    # The script has just run here with all that it can do, so its model may be run as well.
    errors = []
    for finding in verify(folder, shown, runs_denied=True):
        if finding.level == ERROR and finding.code not in _TOLERATED:
            errors.append(finding.text)
        else:
            say(f"warning: {shown}: {finding.text}")
    if errors:
        raise _NotPublishable(f"{shown}: {'; '.join(errors)}")


def _refuse_overwritten(place: Place, version: Version) -> None:
    """Refuse a version that was exported to again; its manifest, and its servers, know the old."""
    problem = version.problem
    for file in version.manifest.files if version.manifest and not problem else ():
        name = f"{version.name}/{file.path}"
        if file.path in _TELLING and digest_at(place, name, file.size) != file.sha256:
            problem = f"{file.path} is not what was published"
    if problem:
        raise _NotPublishable(
            f"the script wrote over version {version.number}, which was published, and its readers "
            f"get a mixture: {place.shown(f'{version.name}/')}: {problem}; export under a new "
            "number, or under none"
        )


def _published(place: Place) -> list[Version]:
    return [one for one in list_versions(place) if one.is_complete and one.manifest]


def _point_at_newest(place: Place) -> None:
    """Have the pointer name the newest version, also where an earlier run was killed before."""
    published = _published(place)
    if published:
        advance(place, published[-1].number)


def _remove_older(
    place: Place, rule: KeepRule, outcome: Outcome, say: Callable[[str], None]
) -> None:
    for removal in collect(place, rule):
        shown = place.shown(f"{removal.name}/")
        outcome.removed.append(shown)
        say(f"removed {shown} ({removal.reason})")


def _line(published: Published) -> str:
    signatures = ", ".join(published.manifest.about.signatures)
    size = in_words(published.manifest.total_bytes)
    return f"published {published.location} ({size}; signatures: {signatures})"


# ====== Names ======


def _below(directory: str) -> str:
    return f"{directory}/" if directory else ""


def _is_own(name: str) -> bool:
    """Tell whether a file of a directory is part of the SavedModel there."""
    directory, slash, _ = name.partition("/")
    return name in _OWN_FILES or (bool(slash) and directory in _OWN_DIRECTORIES)
