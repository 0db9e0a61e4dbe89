"""What a script exported by plain TensorFlow: found, checked, published, pruned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from model_folders import Shelf

from pai_runner.models.manifest import MANIFEST
from pai_runner.models.pointer import POINTER, point_at, read_pointer
from pai_runner.models.promotion import Outcome, find_models, promote
from pai_runner.models.versions import read_version

pytestmark = pytest.mark.slow

DATA = "variables/variables.data-00000-of-00001"


def export(folder: Path, weight: float) -> dict[str, bytes]:
    """Export a model as a script does; return its files."""
    import tensorflow.compat.v2 as tf

    class Scale(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(weight)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def scaled(self, x: object) -> dict[str, object]:
            return {"y": x * self.weight}

    model = Scale()
    tf.saved_model.save(model, str(folder), signatures={"scale": model.scaled})
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return export(tmp_path_factory.mktemp("model") / "1", 1.0)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return export(tmp_path_factory.mktemp("other") / "1", 2.0)


def put(shelf: Shelf, directory: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        shelf.raw.put(f"{directory}{name}", data)


def promoted(shelf: Shelf, keep: int | None = None) -> Outcome:
    outcome = Outcome()
    promote(shelf.place, keep, outcome, lambda _: None)
    return outcome


def locations(shelf: Shelf, outcome: Outcome) -> list[str]:
    return [one.location.removeprefix(shelf.prefix) for one in outcome.published]


def manifest(shelf: Shelf, directory: str) -> dict[str, object]:
    values: dict[str, object] = json.loads(shelf.raw.read(f"{directory}{MANIFEST}"))
    return values


# ====== What is a model ======


def test_what_is_found() -> None:
    model = ["saved_model.pb", "fingerprint.pb", DATA, "assets/words.txt"]
    names = [
        *(f"export/{name}" for one in ("7", "10", "010") for name in [f"{one}/{e}" for e in model]),
        *(f"best/{name}" for name in [*model, "checkpoint", "model.ckpt-1.index", "eval/events"]),
        "text/3/saved_model.pbtxt",
        # Parts of a model, of publishing's own, and what an Estimator has under way.
        "best/assets/inner/saved_model.pb",
        "export/.staging-0/model/saved_model.pb",
        "export/.removed-0/saved_model.pb",
        "export/temp-1700000000/saved_model.pb",
        "tmpab12/saved_model.pb",
        "export/11/variables/variables.index",
        "saved_model.pb.old",
    ]
    found = [(one.base, one.name, set(one.files)) for one in find_models(names)]
    assert found == [
        ("best-versions", "best", {*model, "assets/inner/saved_model.pb"}),
        ("export", "7", {*model}),
        ("export", "010", {*model}),
        ("export", "10", {*model}),
        ("text", "3", {"saved_model.pbtxt"}),
    ]


def test_the_directory_itself_may_be_a_model_with_versions_in_it() -> None:
    names = ["saved_model.pb", DATA, "checkpoint", "1/saved_model.pb", "sub/saved_model.pb"]
    found = [(one.base, one.name, set(one.files)) for one in find_models(names)]
    assert found == [
        ("", "1", {"saved_model.pb"}),
        ("sub-versions", "sub", {"saved_model.pb"}),
        ("versions", "", {"saved_model.pb", DATA}),
    ]


# ====== Everywhere ======


@pytest.mark.tensorflow
def test_exports_become_versions(
    shelf: Shelf, model: dict[str, bytes], other_model: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PAI_JOB_ID", "job-7")
    for number in ("1", "2", "003"):
        put(shelf, f"export/{number}/", model)
    put(shelf, "best model/", {**other_model, "checkpoint": b"", "model.ckpt-1.index": b""})
    first = promoted(shelf, keep=2)
    assert first.problems == []
    new = ["best model-versions/1/", "export/1/", "export/2/", "export/003/"]
    assert locations(shelf, first) == new
    assert first.removed == [f"{shelf.prefix}export/1/"]
    names = shelf.raw.names()
    assert {f"export/003/{name}" for name in (*model, MANIFEST)} <= names
    assert {f"best model-versions/1/{name}" for name in (*other_model, MANIFEST)} == {
        name for name in names if name.startswith("best model-versions/1/")
    }
    assert not any(name.startswith("export/1/") or "staging" in name for name in names)
    assert json.loads(shelf.raw.read(f"export/{POINTER}"))["version"] == 3
    written = manifest(shelf, "export/003/")
    assert (written["version"], written["job_id"]) == (3, "job-7")
    assert [*written["signatures"]] == ["scale"]  # type: ignore[misc]
    version = read_version(shelf.place.at("export"), 3, "003")
    assert version.is_complete
    assert version.manifest is not None
    assert {file.path for file in version.manifest.files} == set(model)
    # Nothing is new, so nothing happens.
    again = promoted(shelf, keep=2)
    assert (again.found, again.published, again.removed, again.problems) == (4, [], [], [])
    assert shelf.raw.names() == names
    # Refreshed and added to.
    put(shelf, "best model/", model)
    put(shelf, "export/4/", other_model)
    third = promoted(shelf, keep=2)
    assert locations(shelf, third) == ["best model-versions/2/", "export/4/"]
    assert third.removed == [f"{shelf.prefix}export/2/"]
    assert shelf.raw.read(f"best model-versions/2/{DATA}") == model[DATA]


def test_a_killed_run_is_gone_on_with(local_shelf: Shelf, model: dict[str, bytes]) -> None:
    # Killed while the manifest was written, and after the manifest.
    put(local_shelf, "export/5/", model)
    place = local_shelf.place.at("export")
    assert locations(local_shelf, promoted(local_shelf)) == ["export/5/"]
    local_shelf.raw.delete(f"export/{POINTER}")
    for name in list(local_shelf.raw.names()):
        if name.startswith("export/.latest/"):
            local_shelf.raw.delete(name)
    put(local_shelf, "export/6/", model)
    local_shelf.raw.put("export/6/assets.extra/.tmp-abcd1234", b"{")
    assert locations(local_shelf, promoted(local_shelf)) == ["export/6/"]
    assert {file["path"] for file in manifest(local_shelf, "export/6/")["files"]} == set(model)  # type: ignore[attr-defined]
    local_shelf.raw.delete(f"export/{POINTER}")
    pointer = read_pointer(place)
    assert pointer is not None
    assert pointer.version == 6
    assert promoted(local_shelf).published == []
    assert (local_shelf.raw.read(f"export/{POINTER}")) == pointer.to_json()


def test_a_rollback_holds_until_something_new_comes(
    local_shelf: Shelf, model: dict[str, bytes]
) -> None:
    for number in (1, 2):
        put(local_shelf, f"{number}/", model)
    promoted(local_shelf)
    point_at(local_shelf.place, 1)
    promoted(local_shelf, keep=1)
    pointer = read_pointer(local_shelf.place)
    assert pointer is not None
    assert pointer.version == 1
    assert f"1/{MANIFEST}" in local_shelf.raw.names()
    put(local_shelf, "3/", model)
    assert promoted(local_shelf, keep=1).removed == [f"{local_shelf.prefix}{n}/" for n in (1, 2)]


# ====== What is not sound ======


def test_a_damaged_model_is_not_published_and_others_are(
    shelf: Shelf, model: dict[str, bytes]
) -> None:
    for number in (1, 2, 4):
        put(shelf, f"export/{number}/", model)
    put(shelf, "export/3/", {**model, DATA: model[DATA][:-20]})
    put(shelf, "best/", {**model, "saved_model.pb": b"\xff\xff"})
    put(shelf, "good/", model)
    outcome = promoted(shelf, keep=1)
    assert locations(shelf, outcome) == ["export/1/", "export/2/", "export/4/", "good-versions/1/"]
    # As long as one is not sound none of its versions goes.
    assert outcome.removed == []
    best, damaged = outcome.problems
    assert best.startswith(f"{shelf.prefix}best/: ")
    assert damaged.startswith(f"{shelf.prefix}export/3/: ")
    assert f"export/3/{MANIFEST}" not in shelf.raw.names()
    assert not any(name.startswith("best-versions/1/") for name in shelf.raw.names())
    put(shelf, "export/3/", model)
    shelf.raw.delete("best/saved_model.pb")
    mended = promoted(shelf, keep=1)
    assert locations(shelf, mended) == ["export/3/"]
    assert mended.problems == []
    assert {name.split("/")[1] for name in shelf.raw.names() if name.startswith("export/")} == {
        # What is new stays, though there is a higher one.
        "3", "4", ".versions", ".latest", POINTER
    }  # fmt: skip


@pytest.mark.parametrize("file", [DATA, "variables/variables.index"])
def test_a_version_is_not_to_be_exported_to_again(
    local_shelf: Shelf, model: dict[str, bytes], other_model: dict[str, bytes], file: str
) -> None:
    put(local_shelf, "1/", model)
    put(local_shelf, "2/", model)
    promoted(local_shelf)
    put(local_shelf, "1/", other_model)
    if file != DATA:
        local_shelf.raw.delete(f"1/{file}")
    outcome = promoted(local_shelf, keep=1)
    assert outcome.removed == []
    (problem,) = outcome.problems
    assert problem.startswith("the script wrote over version 1")
    assert f"{local_shelf.prefix}1/: " in problem


def test_the_number_of_a_version_that_is_gone_is_not_given_again(
    local_shelf: Shelf, model: dict[str, bytes]
) -> None:
    for number in (1, 2):
        put(local_shelf, f"{number}/", model)
    assert promoted(local_shelf, keep=1).removed == [f"{local_shelf.prefix}1/"]
    put(local_shelf, "1/", model)
    outcome = promoted(local_shelf, keep=1)
    assert (outcome.published, outcome.removed) == ([], [])
    (problem,) = outcome.problems
    assert problem.startswith(f"{local_shelf.prefix}1/: the number was given before")
    assert f"1/{DATA}" in local_shelf.raw.names()


def test_what_a_version_cannot_hold_is_named(local_shelf: Shelf, model: dict[str, bytes]) -> None:
    put(local_shelf, "1/", model)
    root = Path(local_shelf.prefix)
    (root / "1" / "assets").mkdir()
    os.symlink("/etc/hostname", root / "1" / "assets" / "link")
    outcome = promoted(local_shelf)
    assert len(outcome.problems) == 1
    assert "assets/link" in outcome.problems[0]
    assert not any(MANIFEST in name for name in local_shelf.raw.names())
