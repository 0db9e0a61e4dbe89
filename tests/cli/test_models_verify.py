"""`pai models verify`, as a process: exit codes, versions in buckets, and what is printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_inspect import save_module, save_session, signature
from support import Pai, Places

from pai_runner.models.place import BucketPlace, Place
from pai_runner.models.publishing import publish, staging_folder

pytestmark = pytest.mark.slow

_DATA = "variables/variables.data-00000-of-00001"


def publish_copy(place: Place, model: str) -> None:
    with staging_folder(place) as folder:
        shutil.copytree(model, folder)
        publish(place, folder)


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=pytest.mark.tensorflow), "oss"])
def test_every_version_in_a_bucket_is_verified(
    kind: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
    place = {
        "s3": lambda: BucketPlace.opened(places.s3, places.server.options),
        "oss": lambda: BucketPlace.opened(places.oss, places.oss_server.options),
    }[kind]()
    model = save_module(tmp_path / "model")
    for _ in range(3):
        publish_copy(place, model)
    data = bytearray(place.read(f"2/{_DATA}"))
    data[5] ^= 1
    place.write(f"2/{_DATA}", bytes(data))
    place.remove("3/saved_model.pb")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = pai("models", "verify", places.folder(kind), "--all", TMPDIR=str(scratch))
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.splitlines() == [
        f"ok  {place.prefix}1/",
        f"NO  {place.prefix}2/",
        f"    error: damaged: {_DATA}: its content is not what was published",
        "    warning: not-run: the model was not loaded: its files are damaged",
        f"NO  {place.prefix}3/",
        "    error: damaged: saved_model.pb: it is missing",
        "    error: incomplete: it has no saved_model.pb or saved_model.pbtxt",
    ]
    assert list(scratch.iterdir()) == []


def test_warnings_fail_when_they_are_to_and_codes_can_be_allowed(pai: Pai, tmp_path: Path) -> None:
    def build() -> dict[str, object]:
        x = tf1.placeholder(tf.float32, (8, 4))
        return {"one": signature({"x": x}, {"y": tf.math.log(-x)}, "acme/rank")}

    folder = save_session(tmp_path / "7", build)
    ran = pai("models", "verify", folder, "--allow", "fixed-batch", "--json")
    (found,) = json.loads(ran.stdout)
    assert (ran.returncode, found["ok"], found["version"]) == (0, True, 7)
    levels = {one["code"]: one["level"] for one in found["findings"]}
    assert levels == {"custom-method": "warning", "not-finite": "warning"}
    strict = pai("models", "verify", folder, "--allow", "fixed-batch", "--strict")
    assert (strict.returncode, strict.stdout.splitlines()[0]) == (1, f"NO  {folder}/")
    assert "    warning: custom-method: signature `one`" in strict.stdout


def test_wrong_words_and_places_are_told_from_faulty_models(pai: Pai, tmp_path: Path) -> None:
    unknown = pai("models", "verify", str(tmp_path), "--allow", "everything")
    assert unknown.returncode == 2
    assert "fixed-batch" in unknown.stderr
    empty = pai("models", "verify", str(tmp_path), "--all")
    assert empty.returncode == 125
    assert "has no complete version" in empty.stderr
    helped = pai("models", "verify", "--help")
    assert helped.returncode == 0
    assert "training-op" in helped.stdout
