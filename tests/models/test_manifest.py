"""Manifests: what they hold, and what is said of damaged ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from model_folders import ABOUT, UGLY_MODEL, Shelf, write_model

from pai_runner.errors import SetupError
from pai_runner.models.manifest import (
    MANIFEST,
    About,
    File,
    Manifest,
    digest_at,
    digest_folder,
    entry_of,
    read_manifest,
)

FILES = (File("assets/词 汇", 0, "0" * 64), File("saved_model.pbtxt", 5, "a" * 64))


def test_a_manifest_is_json_both_ways() -> None:
    for about in (ABOUT, About()):
        made = Manifest(3, FILES, about, "2026-01-02T03:04:05Z")
        assert Manifest.from_json(made.to_json(), "shown") == made
    assert made.total_bytes == 5
    assert made.entry == "saved_model.pbtxt"


def test_a_manifest_lies_in_its_version(shelf: Shelf) -> None:
    made = Manifest(3, FILES, ABOUT, "2026-01-02T03:04:05Z")
    shelf.raw.put(f"3/{MANIFEST}", made.to_json())
    assert read_manifest(shelf.place.at("3")) == made
    assert read_manifest(shelf.place.at("4")) is None


def damaged(**changes: Any) -> bytes:
    values = json.loads(Manifest(3, FILES, ABOUT, "2026-01-02T03:04:05Z").to_json())
    return json.dumps({**values, **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        damaged(version="three"),
        damaged(version=None),
        damaged(version=float("inf")),
        damaged(files=[{"path": "x"}]),
        damaged(files=None),
        damaged(files=["x"]),
        damaged(signatures=None),
        damaged(signatures=[1]),
        damaged(tags=1),
        damaged(step="seven"),
    ],
)
def test_a_damaged_manifest_is_named(data: bytes) -> None:
    with pytest.raises(SetupError, match=r"^s3://b/3/manifest is damaged: "):
        Manifest.from_json(data, "s3://b/3/manifest")


def test_the_first_of_the_entries_is_what_servers_ask_for() -> None:
    assert entry_of(["saved_model.pbtxt", "saved_model.pb"]) == "saved_model.pb"
    assert entry_of(["saved_model.pbtxt", "variables/saved_model.pb"]) == "saved_model.pbtxt"
    assert entry_of(["variables/variables.index"]) == ""


# ====== Digests ======


def test_a_folder_is_digested_without_its_manifest(tmp_path: Path) -> None:
    folder = write_model(str(tmp_path / "model"), {**UGLY_MODEL, MANIFEST: b"{}"})
    assert digest_folder(folder) == tuple(
        File(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in sorted(UGLY_MODEL.items())
    )


def test_what_a_version_cannot_hold_is_refused(tmp_path: Path) -> None:
    target = write_model(str(tmp_path / "target"))
    links = {"file": f"{target}/saved_model.pb", "folder": target, "broken": "nowhere"}
    for name, points_at in links.items():
        folder = write_model(str(tmp_path / name))
        os.symlink(points_at, f"{folder}/link")
        with pytest.raises(SetupError, match="'link' cannot be part of a model"):
            digest_folder(folder)
    folder = write_model(str(tmp_path / "bytes"))
    with open(os.fsencode(folder) + b"/\xff\xfe", "wb"):
        pass
    with pytest.raises(SetupError, match="not UTF-8"):
        digest_folder(folder)


def test_a_file_in_a_place_is_digested_in_parts(shelf: Shelf) -> None:
    data = os.urandom(9 * 1024 * 1024)
    shelf.raw.put("file", data)
    assert digest_at(shelf.place, "file", len(data)) == hashlib.sha256(data).hexdigest()
    assert digest_at(shelf.place, "file", 0) == hashlib.sha256(b"").hexdigest()
