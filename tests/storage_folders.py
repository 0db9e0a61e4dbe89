"""Folders of each kind for the tests of `pai storage`, and a way to run it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from model_folders import UGLY_NAMES, LocalFolder, make_shelf

KINDS = ("local", "memory", "s3", "oss")
LONG_AGO = 1_700_000_000
FILES = {
    "checkpoint": b'model_checkpoint_path: "ckpt-1"\n',
    "ckpt-1.index": b"index",
    "ckpt-1.data-00000-of-00001": b"data " * 500,
    "empty": b"",
    **{name: f"content of {name}".encode() for name in UGLY_NAMES},
}

_numbers = itertools.count(1)

# Runs `pai storage …`; returns the code, standard output and error.
Verb = Callable[..., tuple[int, str, str]]


def json_of(ran: tuple[int, str, str]) -> Any:
    code, output, errors = ran
    assert code == 0, errors
    return json.loads(output)


class Memory:
    """A folder of fsspec's memory:// as `Raw`."""

    def __init__(self, prefix: str) -> None:
        import fsspec

        self._fs = fsspec.filesystem("memory")
        self._base = prefix.removeprefix("memory:/").rstrip("/")

    def names(self) -> set[str]:
        return {name.removeprefix(f"{self._base}/") for name in self._fs.find(self._base)}

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(f"{self._base}/{name}"))

    def put(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._base}/{name}", data)

    def delete(self, name: str) -> None:
        self._fs.rm_file(f"{self._base}/{name}")


@dataclass(frozen=True)
class Folder:
    """An empty directory, `prefix`, and a way to its files that shares nothing with the code."""

    kind: str
    prefix: str
    query: str
    raw: Any
    server: Any = None

    def __call__(self, name: str = "") -> str:
        """Return the location of something in it."""
        return f"{self.prefix}{name}{self.query}"

    def put(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.raw.put(name, data)
            if self.kind == "local":
                os.utime(f"{self.prefix}{name}", (LONG_AGO, LONG_AGO))

    def files(self) -> dict[str, bytes]:
        return {name: self.raw.read(name) for name in self.raw.names()}


def make_folder(kind: str, request: pytest.FixtureRequest) -> Folder:
    if kind == "memory":
        prefix = f"memory://box-{next(_numbers)}/dir/"
        return Folder(kind, prefix, "", Memory(prefix))
    if kind == "local":
        folder = request.getfixturevalue("tmp_path") / f"folder-{next(_numbers)}"
        folder.mkdir()
        return Folder(kind, f"{folder}/", "", LocalFolder(folder))
    shelf = make_shelf(kind, request)
    return Folder(
        kind, shelf.prefix, f"?{shelf.location.partition('?')[2]}", shelf.raw, shelf.server
    )
