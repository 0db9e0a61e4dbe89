"""Places to publish in, models that are files only, and file systems that fail as they are told.

Publishing does not look into a model: TensorFlow is not needed to make one here.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import pytest
from moto_server import S3Server
from mover_process import OSSPlace, S3Place

from pai_runner.models.manifest import MANIFEST, About, File, Manifest
from pai_runner.models.place import BucketPlace, Place, open_place
from pai_runner.models.pointer import utc_text
from pai_runner.models.publishing import Published, publish, staging_folder
from pai_runner.models.versions import RESERVATIONS
from pai_runner.storage.filesystems import filesystem

_numbers = itertools.count(1)

KINDS = ("local", "s3", "oss")

MODEL = {
    "saved_model.pb": b"the graph",
    "fingerprint.pb": b"print",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights " * 500,
}
# Names that a URL, a shell, a pattern or an XML document would read otherwise.
UGLY_NAMES = (
    'assets/it\'s "quoted" <tag>.txt',
    "assets/what?version=1.txt",
    "assets/part#2 [x]*.txt",
    "assets/100%25+a&b=c.txt",
    "assets/词汇 表.txt",
    "assets/deep/er/words",
)
UGLY_MODEL = {
    **MODEL,
    **{name: f"content of {name}".encode() for name in UGLY_NAMES},
    "assets/empty": b"",
}

ABOUT = About(
    signatures={
        "predict_images": {"signature_name": "predict_images", "inputs": [], "outputs": []}
    },
    tags=(("serve",),),
    job_id="job-1",
    step=7,
)


class Raw(Protocol):
    """A way to the files of a place that shares nothing with the code under test."""

    def names(self) -> set[str]: ...
    def read(self, name: str) -> bytes: ...
    def put(self, name: str, data: bytes) -> None: ...
    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class LocalFolder:
    """A local folder as `Raw`."""

    root: Path

    def names(self) -> set[str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)) for path in files}

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()


@dataclass(frozen=True)
class Shelf:
    """An empty directory for versions. `location` names it with all that opens it.

    `server` is the bucket's, None for a local folder.
    """

    kind: str
    location: str
    raw: Raw
    server: Any = None

    @cached_property
    def place(self) -> Place:
        if self.kind == "local":
            return open_place(self.location)
        return BucketPlace(self.prefix, _shared(self.kind, tuple(self.server.options.items())))

    @property
    def prefix(self) -> str:
        return self.location.partition("?")[0].rstrip("/") + "/"

    def faulty(self, **calls: Callable[..., Any]) -> BucketPlace:
        """Return the directory through a file system of which `calls` are replaced."""
        made = _shared(self.kind, tuple(self.server.options.items()))
        return BucketPlace(self.prefix, FaultyFileSystem(made, calls))

    def writes(self) -> list[str]:
        """Return the names that PUT requests named so far, copies included, in order."""
        _, _, rest = self.prefix.partition("://")
        head = f"PUT /{rest}"
        lines = [str(line) for line in self.server.requests()]
        return [line.removeprefix(head).partition("?")[0] for line in lines if head in line]


@cache
def _shared(kind: str, options: tuple[tuple[str, str], ...]) -> Any:
    """Return the filesystem of a server: making one takes longer than most tests."""
    return filesystem(kind, dict(options))


class FaultyFileSystem:
    """An fsspec filesystem of which some methods are others.

    Each replacement is called with the method that it stands for, then with the arguments.
    """

    def __init__(self, fs: Any, calls: Mapping[str, Callable[..., Any]]) -> None:
        self._fs = fs
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        if name not in self._calls:
            return method
        return lambda *arguments, **options: self._calls[name](method, *arguments, **options)


class S3Folder(S3Place):
    """A directory on the S3 server, through a boto3 client that all tests share."""

    @property
    def _client(self) -> Any:  # type: ignore[override]
        return _client_of(self.server)


@cache
def _client_of(server: S3Server) -> Any:
    return server.client()


@cache
def _bucket_of(server: Any) -> str:
    name: str = server.make_bucket("shelves")
    return name


def make_shelf(kind: str, request: pytest.FixtureRequest) -> Shelf:
    """Return a new empty directory of a kind; the servers are the fixtures of the tests."""
    if kind == "local":
        folder = request.getfixturevalue("tmp_path") / "models"
        folder.mkdir()
        return Shelf(kind, str(folder), LocalFolder(folder))
    server = request.getfixturevalue(f"{kind}_server")
    if kind == "oss":
        request.addfinalizer(server.reset)
    prefix = f"{kind}://{_bucket_of(server)}/models-{next(_numbers)}/"
    query = "&".join(f"{name}={value}" for name, value in server.options.items())
    raw = S3Folder(prefix, server) if kind == "s3" else OSSPlace(prefix, server)
    return Shelf(kind, f"{prefix}?{query}", raw, server)


def write_model(folder: str, files: Mapping[str, bytes] = MODEL) -> str:
    """Write a model's files into a local folder, which is made, and return it."""
    for name, data in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return folder


def publish_model(
    place: Place,
    files: Mapping[str, bytes] = MODEL,
    version: int | str | None = None,
    about: About = ABOUT,
) -> Published:
    """Publish a model of these files."""
    with staging_folder(place) as folder:
        return publish(place, write_model(folder, files), version, about)


def lay_versions(shelf: Shelf, count: int) -> None:
    """Put so many whole versions there as `publish` leaves them, without a pointer."""
    data = b"graph"
    files = (File("saved_model.pb", len(data), hashlib.sha256(data).hexdigest()),)
    for number in range(1, count + 1):
        manifest = Manifest(number, files, ABOUT, utc_text())
        shelf.raw.put(f"{RESERVATIONS}/{number}", b"")
        shelf.raw.put(f"{number}/{MANIFEST}", manifest.to_json())
        shelf.raw.put(f"{number}/saved_model.pb", data)


def below(names: set[str], directory: str) -> set[str]:
    """Return those of `names` that lie below a directory, relative to it."""
    head = f"{directory}/"
    return {name.removeprefix(head) for name in names if name.startswith(head)}


def flipped(data: bytes) -> bytes:
    """Return `data` with one bit changed."""
    return bytes((data[0] ^ 1,)) + data[1:]


def numbers_of(versions: Sequence[Any]) -> list[int]:
    return [version.number for version in versions]
