"""`export.saved_model`, `load` and `keep`, on a local folder and in buckets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from support import Places

from pai_runner import export
from pai_runner.errors import SetupError, UsageError
from pai_runner.models.manifest import read_manifest
from pai_runner.models.place import LocalPlace, Place, open_place

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=["local", "s3", "oss"])
def location(request: pytest.FixtureRequest, places: Places) -> str:
    """A directory for versions, as a script outside a job names it, with all that opens it."""
    if request.param == "local":
        return f"{places.local}/export"
    prefix, server = (
        (places.s3, places.server) if request.param == "s3" else (places.oss, places.oss_server)
    )
    return f"{prefix}export/?{urlencode(server.options)}"


class Doubler(tf.Module):
    """Multiplies what it is given by its one variable."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def times(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"product": x * self.factor}


def exported(location: str, factor: float, **options: Any) -> export.Export:
    module = Doubler(factor)
    return export.saved_model(module, location, {"serving_default": module.times}, **options)


def product(loaded: Any) -> list[float]:
    result: list[float] = loaded["serving_default"](x=[1.0, 2.0])["product"].tolist()
    return result


def test_each_export_is_a_version_and_the_newest_is_loaded(location: str) -> None:
    first = exported(location, 2.0, step=10)
    second = exported(location, 3.0, step=20)
    assert (first.version, second.version) == (1, 2)
    place = open_place(location)
    assert second.location == place.shown("2/")
    assert "secret" not in second.location
    assert second.bytes == sum(
        entry.size for name, entry in place.find("2").items() if "pai_manifest" not in name
    )
    assert set(second.files) | {"assets.extra/pai_manifest.json"} == set(place.find("2"))
    assert product(export.load(location)) == [3.0, 6.0]
    assert product(export.load(location, version=1)) == [2.0, 4.0]
    above, _, query = location.partition("?")
    assert product(export.load(f"{above.rstrip('/')}/1/{'?' * bool(query)}{query}")) == [2.0, 4.0]
    assert not [name for name in place.children() if "staging" in name]


def test_the_manifest_tells_what_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAI_CHECKPOINT_DIR", f"{tmp_path}/")
    monkeypatch.setenv("PAI_JOB_ID", "job-7")
    module = Doubler(2.0)
    made = export.saved_model(module, signatures={"twice": module.times}, step=5)
    assert made.location == f"{tmp_path}/export/1/"
    manifest = json.loads(
        (tmp_path / "export/1/assets.extra/pai_manifest.json").read_text(encoding="utf-8")
    )
    assert (manifest["version"], manifest["step"], manifest["job_id"]) == (1, 5, "job-7")
    assert manifest["tensorflow"] == tf.__version__
    assert manifest["tags"] == [["serve"]]
    assert manifest["signatures"]["twice"] == {
        "signature_name": "twice",
        "inputs": [{"name": "x", "shape": [-1], "type": "DT_FLOAT"}],
        "outputs": [{"name": "product", "shape": [-1], "type": "DT_FLOAT"}],
    }
    assert made.signatures == manifest["signatures"]
    assert json.loads((tmp_path / "export/latest.json").read_text())["version"] == 1


def test_a_session_is_exported_with_its_global_step(tmp_path: Path) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        images = tf1.placeholder(tf1.uint8, [None, 4])
        weights = tf1.get_variable("w", initializer=np.eye(4, dtype=np.float32))
        scores = tf1.matmul(tf1.cast(images, tf1.float32) / 255.0, weights)
        step = tf1.train.get_or_create_global_step()
        session.run([tf1.global_variables_initializer()])
        session.run(tf1.assign(step, 42))
        made = export.saved_model(
            session, tmp_path, {"predict_images": ({"images": images}, {"scores": scores})}
        )
        manifest = LocalPlace(str(tmp_path)).read(f"{made.version}/assets.extra/pai_manifest.json")
        assert json.loads(manifest)["step"] == 42
        # In the midst of a script of TensorFlow 1's style, whose graph stays as it is.
        before = len(session.graph.get_operations())
        answer = export.load(tmp_path)["predict_images"](images=np.full((1, 4), 255, np.uint8))
        assert answer["scores"].tolist() == [[1.0, 1.0, 1.0, 1.0]]
        assert len(session.graph.get_operations()) == before


class Counts(tf1.train.SessionRunHook):
    """Counts the steps of a training."""

    steps = 0

    def before_run(self, run_context: Any) -> None:
        self.steps += 1


def test_a_training_is_exported_after_its_last_step(tmp_path: Path) -> None:
    counts = Counts()
    with tf1.Graph().as_default():
        weights = tf1.get_variable("w", initializer=np.eye(4, dtype=np.float32))
        train = tf1.assign_add(tf1.train.get_or_create_global_step(), 1)
        hooks = [tf1.train.StopAtStepHook(last_step=2), counts]
        with tf1.train.MonitoredSession(hooks=hooks) as session:
            while not session.should_stop():
                session.run(train)
            made = export.saved_model(session, tmp_path, {"s": ({}, {"w": weights})})
    assert read_manifest(LocalPlace(str(tmp_path)).at(str(made.version))).about.step == 2
    assert counts.steps == 2  # the export is none
    with pytest.raises(SetupError, match="the session is closed"):
        export.saved_model(session, tmp_path, {"s": ({}, {"w": weights})})


def test_versions_may_be_chosen_and_are_never_overwritten(tmp_path: Path) -> None:
    assert exported(str(tmp_path), 1.0, version="7").version == 7
    before = (tmp_path / "7/saved_model.pb").read_bytes()
    with pytest.raises(SetupError, match=r"version 7 of .* was given before") as caught:
        exported(str(tmp_path), 2.0, version=7)
    assert "versions there: 7" in str(caught.value.hint)
    with pytest.raises(SetupError, match="was given before"):
        export.saved_model("no model: it is not looked at any more", tmp_path, version=7)
    assert (tmp_path / "7/saved_model.pb").read_bytes() == before
    assert exported(str(tmp_path), 2.0).version == 8
    assert exported(str(tmp_path), 2.0, version="timestamp").version > 1_700_000_000
    with pytest.raises(UsageError, match="'seven' is not a version"):
        exported(str(tmp_path), 2.0, version="seven")
    assert not [name for name in os.listdir(tmp_path) if "staging" in name]


def test_nothing_stays_of_an_export_that_fails(location: str) -> None:
    with pytest.raises(UsageError, match="What can be exported: a TensorFlow 1 session"):
        export.saved_model(object(), location, {"not_there": None})
    assert open_place(location).find() == {}


def test_keep_removes_all_but_the_newest(location: str) -> None:
    for factor in (1.0, 2.0, 3.0):
        exported(location, factor)
    removed = export.keep(last=1, directory=location)
    assert [one.name for one in removed] == ["1", "2"]
    place = open_place(location)
    assert {name for name in place.children() if name.isdigit()} == {"3"}
    assert exported(location, 4.0).version == 4


def test_without_a_directory_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAI_CHECKPOINT_DIR", raising=False)
    with pytest.raises(SetupError, match="no directory for exports") as caught:
        export.keep()
    assert "-DcheckpointDir" in str(caught.value.hint)


# ====== Damaged models ======


@pytest.fixture
def damaged(location: str) -> tuple[Place, str]:
    exported(location, 2.0)
    return open_place(location), location


@pytest.mark.parametrize(
    "name", ["variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_missing_file_is_named(damaged: tuple[Place, str], name: str) -> None:
    place, location = damaged
    place.remove(f"1/{name}")
    with pytest.raises(SetupError, match=f"1 of .* is not complete: {name} is missing"):
        export.load(location, version=1)


def test_a_flipped_bit_and_a_cut_file_are_named(damaged: tuple[Place, str]) -> None:
    place, location = damaged
    name = "1/variables/variables.data-00000-of-00001"
    whole = place.read(name)
    place.write(name, bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(SetupError, match=f"{name}: its content is not what was published"):
        export.load(location)
    place.write(name, whole[:-1])
    with pytest.raises(SetupError, match=f"has {len(whole) - 1} bytes, not {len(whole)}"):
        export.load(location)


def test_wrong_names_list_the_right_ones(damaged: tuple[Place, str]) -> None:
    _, location = damaged
    with pytest.raises(SetupError, match="has no version 5") as caught:
        export.load(location, version=5)
    assert caught.value.hint == "versions there: 1"
    with pytest.raises(UsageError, match=r"no MetaGraph with the tags gpu. Its tags: serve"):
        export.load(location, tags=["gpu"])
    loaded = export.load(location)
    with pytest.raises(UsageError) as wrong:
        loaded["predict_images"]
    assert "serving_default" in f"{wrong.value} {wrong.value.hint}"
    with pytest.raises(UsageError) as wrong:
        loaded["serving_default"](y=[1.0])
    assert "x" in f"{wrong.value} {wrong.value.hint}"


def test_an_empty_directory_has_no_version(places: Places) -> None:
    with pytest.raises(SetupError, match="has no complete version"):
        export.load(places.local)
