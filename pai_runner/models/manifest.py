"""The manifest of a published version: its files with their digests, and what it can do.

It lies in the version itself, as `assets.extra/pai_manifest.json`, where servers ignore it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pai_runner.errors import SetupError
from pai_runner.storage.names import has_plain_parts

if TYPE_CHECKING:
    from pai_runner.models.place import Place

MANIFEST = "assets.extra/pai_manifest.json"
# A SavedModel is its directory's files and one of these; the first is what servers ask for.
ENTRIES = ("saved_model.pb", "saved_model.pbtxt")
SCHEMA = 1

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class File:
    """A file of a version: its path in it, its size in bytes, and its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class About:
    """What is known of a model beside its files.

    `signatures` are by name, in the form of EAS's model structure; `tags` are those of each
    MetaGraph. `run_key` is what the version was made for, of which there is one version only.
    Empty texts and None are: not known.
    """

    signatures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: tuple[tuple[str, ...], ...] = ()
    tensorflow: str = ""
    keras: str = ""
    job_id: str = ""
    step: int | None = None
    run_key: str = ""


@dataclass(frozen=True)
class Manifest:
    """What was published as one version. `published_at` is a time in UTC, ISO 8601."""

    version: int
    files: tuple[File, ...]
    about: About
    published_at: str
    schema: int = SCHEMA

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)

    @property
    def entry(self) -> str:
        """The file that makes the version one: saved_model.pb or saved_model.pbtxt."""
        return entry_of(file.path for file in self.files)

    def to_json(self) -> bytes:
        """Return the content of the manifest's file."""
        values = {**asdict(self), **asdict(self.about), "total_bytes": self.total_bytes}
        del values["about"]
        return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, shown: str) -> Manifest:
        """Return the manifest that a file holds. `shown` names the file. Raises SetupError."""
        try:
            values = json.loads(data)
            return cls(
                version=int(values["version"]),
                files=tuple(map(_file, values["files"])),
                about=About(
                    signatures=dict(values["signatures"]),
                    tags=tuple(tuple(map(str, tags)) for tags in values["tags"]),
                    tensorflow=str(values["tensorflow"]),
                    keras=str(values["keras"]),
                    job_id=str(values["job_id"]),
                    step=None if values["step"] is None else int(values["step"]),
                    run_key=str(values.get("run_key", "")),  # manifests of before have none
                ),
                published_at=str(values["published_at"]),
                schema=int(values["schema"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise SetupError(
                f"{shown} is damaged: {type(error).__name__}: {error}",
                "publish the model again as a new version",
            ) from error


def _file(values: Mapping[str, Any]) -> File:
    path = str(values["path"])
    if not has_plain_parts(path):
        raise ValueError(f"{path!r} is no path in a version")
    return File(path, int(values["size"]), str(values["sha256"]))


def read_manifest(place: Place) -> Manifest | None:
    """Return the manifest of the version at `place`; None where there is none.

    Raises SetupError for a damaged one, OSError.
    """
    try:
        data = place.read(MANIFEST)
    except FileNotFoundError:
        return None
    return Manifest.from_json(data, place.shown(MANIFEST))


def entry_of(paths: Iterable[str]) -> str:
    """Return which of a SavedModel's files is its entry; empty when it has none."""
    there = set(paths)
    return next((name for name in ENTRIES if name in there), "")


# ====== Digests ======


def digest_folder(folder: str) -> tuple[File, ...]:
    """Return the files below a local folder, in order of path; the manifest is left out.

    Raises SetupError for what a version cannot hold: links, and names that are not UTF-8.
    """
    files = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            shown = os.path.relpath(path, folder)
            if os.path.islink(path) or not _is_text(name):
                raise SetupError(
                    f"{shown!r} cannot be part of a model: it is a link, or its name is not UTF-8",
                    "put the file itself there, under another name",
                )
            if name in names and shown != MANIFEST:
                files.append(File(shown, os.path.getsize(path), digest_file(path)))
    return tuple(sorted(files, key=lambda file: file.path))


def digest_file(path: str) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_at(place: Place, name: str, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of a file as its server gives them.

    Raises OSError, FileNotFoundError.
    """
    digest = hashlib.sha256()
    step = 8 * _BLOCK
    for start in range(0, size, step):
        digest.update(place.read(name, start, min(start + step, size)))
    return digest.hexdigest()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
