"""What `describe` says of a model, and what it moves to find out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorflow.compat.v2 as tf
from models_to_inspect import classifier, counted_door, save_large, save_module, save_session
from support import Places

from pai_runner.errors import SetupError
from pai_runner.models.inspection import describe
from pai_runner.models.manifest import About
from pai_runner.models.place import BucketPlace, LocalPlace
from pai_runner.models.publishing import publish, staging_folder

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

MEGABYTES = int(os.environ.get("PAI_PROOF_COUNT", "100"))


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_module(tmp_path_factory.mktemp("made") / "module")


def described(folder: str | Path) -> dict[str, Any]:
    return describe(LocalPlace(str(folder)))


def test_a_module_is_described(module: str) -> None:
    found = described(module)
    (graph,) = found["meta_graphs"]
    assert found["file"] == "saved_model.pb"
    assert found["manifest"] is None
    assert (graph["tags"], graph["tensorflow"]) == (["serve"], tf.__version__)
    assert graph["signatures"]["serving_default"]["method"] == "tensorflow/serving/predict"
    inputs = graph["signatures"]["serving_default"]["inputs"]
    assert inputs == {
        "numbers": {
            "dtype": "DT_FLOAT",
            "shape": [-1, 4],
            "tensor": "serving_default_numbers:0",
        },
        "words": {"dtype": "DT_STRING", "shape": [-1], "tensor": "serving_default_words:0"},
    }
    assert list(graph["eas"]) == ["serving_default"]
    assert found["variables"] == {
        "count": 1,
        "bytes": 48,
        "largest": [
            {
                "name": "weights",
                "key": "weights/.ATTRIBUTES/VARIABLE_VALUE",
                "dtype": "DT_FLOAT",
                "shape": [4, 3],
                "bytes": 48,
            }
        ],
    }


def test_sizes_are_those_of_the_parts(module: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(module, tmp_path / "copy"))
    for name, size in (("assets.extra/warm", 100), ("debug/info", 20), ("note", 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    before, sizes = described(module)["bytes"], described(folder)["bytes"]
    assert sizes["saved_model"] == (folder / "saved_model.pb").stat().st_size
    assert sizes["assets"] == len("cat\ndog\n")
    assert sizes["assets.extra"] == 100
    assert sizes["other"] - before["other"] == 23
    assert sizes["total"] == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("as_text", [False, True])
def test_a_session_is_described_from_either_form(as_text: bool, tmp_path: Path) -> None:
    found = described(save_session(tmp_path / "model", classifier, as_text=as_text))
    assert found["file"] == ("saved_model.pbtxt" if as_text else "saved_model.pb")
    signatures = found["meta_graphs"][0]["signatures"]
    assert {name: one["method"] for name, one in signatures.items()} == {
        "serving_default": "tensorflow/serving/classify",
        "sum": "tensorflow/serving/regress",
    }
    assert [one["name"] for one in found["variables"]["largest"]] == ["weights"]


def test_variables_are_listed_from_the_largest(tmp_path: Path) -> None:
    module = tf.Module()
    module.all = [tf.Variable(tf.zeros((size,), tf.float64)) for size in range(30)]
    module.text = tf.Variable("some text")
    tf.saved_model.save(module, str(tmp_path / "model"))
    variables = described(tmp_path / "model")["variables"]
    assert variables["count"] == 31
    assert variables["bytes"] == 8 * sum(range(30))
    assert [one["shape"] for one in variables["largest"]] == [[29 - row] for row in range(20)]
    assert variables["largest"][0]["name"] == "all/29"


def test_what_was_noted_at_its_publication_is_told(module: str, tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path / "models"))
    with staging_folder(place) as folder:
        shutil.copytree(module, folder)
        publish(place, folder, about=About(tensorflow="2.15.1", job_id="job-7", step=1200))
    manifest = describe(place.at("1"))["manifest"]
    assert manifest.pop("published_at").endswith("Z")
    assert manifest == {
        "version": 1,
        "tensorflow": "2.15.1",
        "keras": "",
        "job_id": "job-7",
        "step": 1200,
    }


def test_damaged_files_are_named(module: str, tmp_path: Path) -> None:
    index = "variables/variables.index"
    for name, data in (
        ("saved_model.pb", b""),
        ("saved_model.pb", (Path(module) / "saved_model.pb").read_bytes()[:-9]),
        (index, b""),
        (index, b"x" + (Path(module) / index).read_bytes()[1:]),
    ):
        folder = Path(shutil.copytree(module, tmp_path / "copy"))
        (folder / name).write_bytes(data)
        with pytest.raises(SetupError, match=f"/copy/{name} is damaged: "):
            described(folder)
        shutil.rmtree(folder)
    with pytest.raises(SetupError, match=r"is no SavedModel: it has no saved_model\.pb"):
        described(tmp_path)


def put_all(places: Places, kind: str, folder: str) -> int:
    """Copy a model into the bucket of a kind, and return its size in bytes."""
    files = LocalPlace(folder).find()
    for name in files:
        path = os.path.join(folder, name)
        if kind == "s3":  # by a client that waits for a slow server
            bucket, _, key = places.s3.removeprefix("s3://").partition("/")
            places.server.client().upload_file(path, bucket, key + name)
        else:
            BucketPlace.opened(places.oss, places.oss_server.options).put(path, name)
    return sum(entry.size for entry in files.values())


@pytest.mark.proof_models
@pytest.mark.parametrize(("kind", "megabytes"), [("s3", MEGABYTES), ("oss", 20)])
def test_the_weights_stay_in_the_bucket(
    kind: str, megabytes: int, places: Places, tmp_path: Path
) -> None:
    prefix, server = {
        "s3": (places.s3, places.server),
        "oss": (places.oss, places.oss_server),
    }[kind]
    folder = save_large(tmp_path / "large", megabytes)
    size = put_all(places, kind, folder)
    assert size > megabytes * 1_000_000
    with counted_door(int(server.url.rpartition(":")[2])) as door:
        name = "endpoint_url" if kind == "s3" else "host"
        options = {**server.options, name: f"http://127.0.0.1:{door.port}"}
        found = describe(BucketPlace.opened(prefix, options))
    assert found["bytes"]["total"] == size
    (table,) = found["variables"]["largest"]
    assert (table["name"], table["shape"]) == ("table", [megabytes, 250_000])
    assert 1_000 < door.sent < 1_000_000
