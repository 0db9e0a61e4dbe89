"""Versions that are copied to the local disk: whole, or the file that is damaged is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from model_folders import MODEL, UGLY_MODEL, LocalFolder, Shelf, flipped, publish_model

from pai_runner.errors import SetupError
from pai_runner.models.fetching import check_digests, fetch_version
from pai_runner.models.manifest import MANIFEST, File, Manifest
from pai_runner.models.place import Entry
from pai_runner.models.versions import read_version

# Sizes tell nothing of this one.
FILE = "variables/variables.data-00000-of-00001"


def test_a_version_is_copied_without_its_manifest(shelf: Shelf, tmp_path: Path) -> None:
    publish_model(shelf.place, UGLY_MODEL)
    folder = tmp_path / "copy"
    fetch_version(shelf.place, read_version(shelf.place, 1), str(folder))
    copied = LocalFolder(folder)
    assert {name: copied.read(name) for name in copied.names()} == UGLY_MODEL


def test_a_version_without_a_manifest_is_copied_as_it_is(shelf: Shelf, tmp_path: Path) -> None:
    for name, data in UGLY_MODEL.items():
        shelf.raw.put(f"007/{name}", data)
    version = read_version(shelf.place, 7, "007")
    fetch_version(shelf.place, version, str(tmp_path / "copy"))
    assert LocalFolder(tmp_path / "copy").names() == set(UGLY_MODEL)


def test_a_file_that_is_not_what_was_published_is_named(shelf: Shelf, tmp_path: Path) -> None:
    publish_model(shelf.place)
    version = read_version(shelf.place, 1)

    def says() -> str:
        with (
            pytest.raises(SetupError) as caught,
            TemporaryDirectory(dir=tmp_path) as folder,
        ):
            fetch_version(shelf.place, version, f"{folder}/copy")
        return caught.value.message

    whole = MODEL[FILE]
    for data in (flipped(whole), whole[:-1], whole + b"x", b""):
        shelf.raw.put(f"1/{FILE}", data)
        assert says() == f"{shelf.prefix}1/{FILE}: its content is not what was published"
    shelf.raw.delete(f"1/{FILE}")
    assert says() == f"{shelf.prefix}1/{FILE}: it is missing"
    shelf.raw.put(f"1/{FILE}", whole)
    shelf.raw.delete("1/saved_model.pb")
    assert says() == f"{shelf.prefix}1/saved_model.pb: it is missing"


def test_a_local_version_is_checked_where_it_lies(local_shelf: Shelf) -> None:
    publish_model(local_shelf.place)
    version = read_version(local_shelf.place, 1)
    check_digests(local_shelf.place, version)
    local_shelf.raw.put(f"1/{FILE}", flipped(MODEL[FILE]))
    with pytest.raises(SetupError, match=f"1/{FILE}: its content is not what was published"):
        check_digests(local_shelf.place, version)
    local_shelf.raw.delete(f"1/{FILE}")
    with pytest.raises(SetupError, match=f"1/{FILE}: it is missing"):
        check_digests(local_shelf.place, version)


@pytest.mark.parametrize("path", ["../outside", "assets/../../outside", "/tmp/outside", "."])
def test_nothing_is_written_outside_of_the_folder(
    path: str, local_shelf: Shelf, tmp_path: Path
) -> None:
    """A manifest is a file like others: who may write it is not to reach the reader's disk."""
    published = publish_model(local_shelf.place)
    files = (*published.manifest.files, File(path, 7, "0" * 64))
    manifest = Manifest(1, files, published.manifest.about, published.manifest.published_at)
    local_shelf.raw.put(f"1/{MANIFEST}", manifest.to_json())
    local_shelf.raw.put("outside", b"outside")
    version = read_version(local_shelf.place, 1)
    assert version.manifest is None
    assert "is no path in a version" in version.problem
    # The same from an object's key, where there is no manifest to trust.
    version = replace(version, files={**version.files, path: Entry(7, 1)})
    with pytest.raises(SetupError, match="cannot be part of a model"):
        fetch_version(local_shelf.place, version, str(tmp_path / "a" / "copy"))
    assert not (tmp_path / "a").exists()
