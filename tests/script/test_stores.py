"""What one process knows of the files of a store, and what it has read of them in advance."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from pai_runner.script.remote_files import RemoteFiles
from pai_runner.script.siblings import MOST_FORETOLD
from pai_runner.script.stores import Store
from pai_runner.storage.objects import Described

_folders = itertools.count(1)


@pytest.fixture
def folder() -> str:
    return f"memory://stores/{next(_folders)}"


def test_what_was_asked_for_before_a_change_is_not_taken_for_what_is_there_now(
    folder: str, tmp_path: Path
) -> None:
    store, path, local = Store("memory", {}), f"{folder}/file", tmp_path / "file"
    local.write_bytes(b"new")
    asked = time.monotonic()
    store.upload(str(local), path)
    store.note(path, Described(1000, "old"), asked)  # an answer that took longer than the upload
    found = store.find(path)
    assert found is not None
    assert (found.size, found.etag) == (3, "")
    store.note(path, Described(3, "new"), time.monotonic())
    assert store.known_etag(path) == "new"


def test_files_that_nobody_opens_are_not_kept_for_ever(folder: str) -> None:
    store, files = Store("memory", {}), RemoteFiles()
    for number in range(MOST_FORETOLD // 2 + 10):
        directory = f"{folder}/{number:04d}"
        store.fs.pipe({f"{directory}/{name}": name.encode() for name in "abcd"})
        files.listed(directory, "abcd")
        for name in "ab":  # then c and d are read in advance
            files.open(store, f"{directory}/{name}", lambda *_: None).close()
    assert len(files._coming) == MOST_FORETOLD
