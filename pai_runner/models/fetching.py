"""Copying a version to the local disk, checked against its manifest on the way."""

from __future__ import annotations

import os

from pai_runner.errors import SetupError
from pai_runner.models.manifest import MANIFEST, digest_file
from pai_runner.models.place import Place
from pai_runner.models.versions import Version
from pai_runner.storage.names import has_plain_parts


def fetch_version(place: Place, version: Version, folder: str) -> None:
    """Copy a version into the local folder `folder`, which is made.

    Where the version has a manifest, its files are those of the manifest and have its digests.
    The manifest itself is not copied. Raises SetupError that names the first file that is not as
    it should be, OSError.
    """
    digests = (
        {file.path: file.sha256 for file in version.manifest.files} if version.manifest else {}
    )
    names = sorted(digests or set(version.files) - {MANIFEST})
    for name in names:
        # Who may write into the place is not to write anywhere on this disk.
        if not has_plain_parts(name):
            raise _damaged(place, version, name, "such a name cannot be part of a model")
    os.makedirs(folder)
    for directory in {os.path.dirname(name) for name in names}:
        os.makedirs(os.path.join(folder, directory), exist_ok=True)

    def fetch(name: str) -> None:
        local = os.path.join(folder, name)
        try:
            place.get(f"{version.name}/{name}", local)
        except FileNotFoundError as error:
            raise _damaged(place, version, name, "it is missing") from error
        if name in digests and digest_file(local) != digests[name]:
            raise _damaged(place, version, name, "its content is not what was published")

    place.each(fetch, names)


def check_digests(place: Place, version: Version) -> None:
    """Check a local version's files against its manifest, where it has one. Raises SetupError."""
    for file in version.manifest.files if version.manifest else ():
        path = os.path.join(place.prefix, version.name, file.path)
        if not os.path.exists(path):
            raise _damaged(place, version, file.path, "it is missing")
        if digest_file(path) != file.sha256:
            raise _damaged(place, version, file.path, "its content is not what was published")


def _damaged(place: Place, version: Version, name: str, problem: str) -> SetupError:
    return SetupError(
        f"{place.shown(f'{version.name}/{name}')}: {problem}",
        "take another version: `pai models rollback` names it to servers",
    )
