"""Publishing: a complete SavedModel in a local folder becomes a version, all of it or nothing.

On a local disk it is one rename of a folder that is on the disk. In a bucket the files are first
put under `.staging-<id>/` and read back; then a number is reserved, by an object of its own and
never by a key below the number; the server copies everything into `N/`, the manifest after the
others, and `saved_model.pb` last. That one key is the commit: who asks for it sees all of the
version or nothing. Who only lists (TensorFlow Serving's poller) may see `N/` as long as the
copies take, fail to load it, and try again after a minute.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pai_runner.errors import SetupError
from pai_runner.models.manifest import (
    ENTRIES,
    MANIFEST,
    About,
    File,
    Manifest,
    digest_at,
    digest_folder,
    entry_of,
)
from pai_runner.models.place import LocalPlace, Place, sync_folder
from pai_runner.models.pointer import POINTER, advance, utc_text
from pai_runner.models.scratch import scratch_folder
from pai_runner.models.versions import list_versions, mark_given, reserve, version_numbers
from pai_runner.storage.failures import describe_error

STAGING = ".staging-"

_Version = int | str | None


@dataclass(frozen=True)
class Published:
    """A version that was published. `location` names it, with a final `/`.

    `is_new` is False for one that was published before, for the same run and date.
    """

    version: int
    location: str
    manifest: Manifest
    is_new: bool = True


@contextmanager
def staging_folder(place: Place) -> Iterator[str]:
    """Yield the path of a local folder to build a model in, for `publish`; it does not exist yet.

    What is left of it is removed afterwards.
    """
    if not isinstance(place, LocalPlace):
        with scratch_folder() as above:
            yield os.path.join(above, "model")
        return
    os.makedirs(place.folder, exist_ok=True)
    above = place.path(f"{STAGING}{uuid.uuid4().hex}")
    os.mkdir(above)
    try:
        yield os.path.join(above, "model")
    finally:
        shutil.rmtree(above, ignore_errors=True)


def publish(
    place: Place, folder: str, version: _Version = None, about: About | None = None
) -> Published:
    """Publish the SavedModel in `folder`, which `staging_folder(place)` gave, and point at it.

    `version` is as for `reserve`. In a job that may be done once (PAI_RUN_KEY) the n-th model that
    the process publishes there of one training step (or without a known step) is the n-th of any
    earlier attempt, if that came so far: then that version is returned. Raises UsageError,
    SetupError, OSError; then there is no new version, though its number may be spent, unless the
    message says that there is or may be one.
    """
    files = digest_folder(folder)
    if not entry_of(file.path for file in files):
        raise SetupError(f"{folder} is no SavedModel: it has no {ENTRIES[0]}", "export it first")
    about = about or About()
    about = replace(about, run_key=_run_key(place, about.step))
    earlier = _made_for(place, about.run_key)
    if earlier is not None:
        manifest = earlier
    elif isinstance(place, LocalPlace):
        manifest = _publish_local(place, folder, files, version, about)
    else:
        manifest = _publish_remote(place, folder, files, version, about)
    try:
        advance(place, manifest.version)
    except (OSError, SetupError) as error:
        raise SetupError(
            f"version {manifest.version} of {place.prefix} is published, but {POINTER} does not "
            f"name it: {describe_error(error)}",
            f"`pai models rollback {place.prefix} {manifest.version}` makes it do so",
        ) from error
    location = place.shown(f"{manifest.version}/")
    return Published(manifest.version, location, manifest, is_new=earlier is None)


# How many models this process has published, by their place and step.
_counts: Counter[tuple[str, int | None]] = Counter()


def _run_key(place: Place, step: int | None) -> str:
    """Return what a model is published for; empty where it may be published again.

    An attempt that goes on from a checkpoint publishes later steps than the one before it: those
    are other models, though they are its first.
    """
    key = os.environ.get("PAI_RUN_KEY", "")
    number = _counts[place.prefix, step]
    _counts[place.prefix, step] += 1
    if not key:
        return ""
    return f"{key}#{number}" if step is None else f"{key}@{step}#{number}"


def _made_for(place: Place, run_key: str) -> Manifest | None:
    """Return the manifest of the complete version that was made for a run and date."""
    if not run_key:
        return None
    found = [one.manifest for one in list_versions(place) if one.is_complete and one.manifest]
    return next((one for one in reversed(found) if one.about.run_key == run_key), None)


def adopt(place: Place, name: str, files: tuple[File, ...], about: About) -> Published:
    """Make a version of the SavedModel that lies in the numbered directory `name` already.

    `files` are its files. It has its manifest and is the version of its number then; the pointer
    is not moved. Raises SetupError when the files are others by now, OSError.
    """
    if isinstance(place, LocalPlace):
        _sync(place.path(name))
    _check_sizes(place, name, files)
    manifest = _manifest(int(name), files, about)
    place.write(f"{name}/{MANIFEST}", manifest.to_json())
    # The manifest is first: a number that was given, without one, is a version's that is gone.
    mark_given(place, manifest.version)
    return Published(manifest.version, place.shown(f"{name}/"), manifest)


def _manifest(number: int, files: tuple[File, ...], about: About) -> Manifest:
    return Manifest(number, files, about, published_at=utc_text())


def _reserve_free(place: Place, version: _Version) -> int:
    """Reserve a number below which nothing lies: others may write there without asking us."""
    while True:
        number = reserve(place, version)
        if number not in version_numbers(place):
            return number
        _refuse_if_wanted(place, number, version)


def _refuse_if_wanted(place: Place, number: int, version: _Version) -> None:
    if version is not None and version != "timestamp":
        raise SetupError(
            f"{place.shown(str(number))} was made by another process meanwhile",
            "leave the version out for the next number",
        )


# ====== On a local disk ======


def _publish_local(
    place: LocalPlace, folder: str, files: tuple[File, ...], version: _Version, about: About
) -> Manifest:
    _sync(folder)
    while True:
        number = _reserve_free(place, version)
        manifest = _manifest(number, files, about)
        LocalPlace(folder).write(MANIFEST, manifest.to_json())
        sync_folder(folder)
        try:
            os.rename(folder, place.path(str(number)))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            _refuse_if_wanted(place, number, version)
            continue
        sync_folder(place.folder)
        return manifest


def _sync(folder: str) -> None:
    """Have all files and names below a folder written to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(parent)


# ====== In a bucket ======


def _publish_remote(
    place: Place, folder: str, files: tuple[File, ...], version: _Version, about: About
) -> Manifest:
    staging = f"{STAGING}{uuid.uuid4().hex}"

    def upload(file: File) -> None:
        name = f"{staging}/{file.path}"
        place.put(os.path.join(folder, file.path), name)
        if digest_at(place, name, file.size) != file.sha256:
            raise SetupError(
                f"{place.shown(name)} is not what was uploaded", "export the model again"
            )

    try:
        place.each(upload, files)
        _check_sizes(place, staging, files)
        manifest = _manifest(_reserve_free(place, version), files, about)
        _copy_into_place(place, staging, manifest)
        return manifest
    finally:
        _clear(place, [f"{staging}/{file.path}" for file in files])


def _copy_into_place(place: Place, staging: str, manifest: Manifest) -> None:
    number = str(manifest.version)
    content = [file for file in manifest.files if file.path not in ENTRIES]
    # A model may have both entries: either makes it a version, so the other comes late as well.
    other = [f for f in manifest.files if f.path in ENTRIES and f.path != manifest.entry]

    def copy(file: File) -> None:
        place.copy(f"{staging}/{file.path}", f"{number}/{file.path}")

    try:
        place.each(copy, content)
        _check_sizes(place, number, content)
        place.write(f"{number}/{MANIFEST}", manifest.to_json())
        place.each(copy, other)
    except BaseException:
        # There is no saved_model.pb yet, so nobody has it. What others wrote there is theirs.
        ours = [MANIFEST, *(file.path for file in (*other, *content))]
        _clear(place, [f"{number}/{name}" for name in ours])
        raise
    _commit(place, f"{staging}/{manifest.entry}", f"{number}/{manifest.entry}")


def _commit(place: Place, source: str, target: str) -> None:
    """Copy the one file that makes the version one. An answer that is lost is no failure."""
    try:
        place.copy(source, target)
    except (OSError, SetupError) as error:
        if not _is_there(place, target, error):
            raise


def _is_there(place: Place, name: str, failure: Exception) -> bool:
    """Tell whether a file is there that was written with a failure."""
    try:
        return place.info(name) is not None
    except (OSError, SetupError) as error:
        raise SetupError(
            f"whether {place.shown(name)} was published is not known: {describe_error(failure)}, "
            f"then {describe_error(error)}",
            f"`pai models ls {place.prefix}` shows it when the server answers again",
        ) from failure


def _check_sizes(place: Place, below: str, files: Sequence[File]) -> None:
    found = {name: entry.size for name, entry in place.find(below).items()}
    for file in files:
        if found.get(file.path) != file.size:
            raise SetupError(
                f"{place.shown(f'{below}/{file.path}')} has {found.get(file.path, 'no')} bytes, "
                f"not {file.size}",
                "something else removes or writes files there; export the model again",
            )


def _clear(place: Place, names: list[str]) -> None:
    """Remove files of ours, as far as they are there and the server lets us.

    Called on the way out, where another error may be under way; `pai models gc` removes the rest.
    """
    try:
        place.each(place.remove, names)
    except (OSError, SetupError):
        return
