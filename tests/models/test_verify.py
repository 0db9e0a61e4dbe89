"""Whether a model can be served: sound ones of all makes, and one fault at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_inspect import (
    METHODS,
    classifier,
    model_of,
    save_module,
    save_session,
    signature,
)
from tensorflow.core.protobuf import saved_model_pb2

from pai_runner.models.manifest import About, Manifest, digest_folder
from pai_runner.models.verify import verify

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

_INDEX = "variables/variables.index"
_DATA = "variables/variables.data-00000-of-00001"


def found_in(folder: str | Path, **options: Any) -> list[tuple[str, str]]:
    """Return code and text of what is wrong with a model; it is called s3://b/m/3."""
    return [(one.code, one.text) for one in verify(str(folder), "s3://b/m/3/", **options)]


def manifest_of(folder: str | Path) -> Manifest:
    return Manifest(3, digest_folder(str(folder)), About(), "2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_module(tmp_path_factory.mktemp("made") / "module")


@pytest.fixture
def copy(module: str, tmp_path: Path) -> Path:
    """A sound model that a test may damage."""
    return Path(shutil.copytree(module, tmp_path / "copy"))


def change(path: Path, how: Callable[[bytearray], Any]) -> None:
    data = bytearray(path.read_bytes())
    how(data)
    path.write_bytes(data)


def flip_middle(data: bytearray) -> None:
    data[len(data) // 2] ^= 4


# ====== Sound models ======


def test_a_module_with_tables_and_strings_is_sound(module: str) -> None:
    assert found_in(module, manifest=manifest_of(module)) == []


def test_a_keras_model_is_sound(tmp_path: Path) -> None:
    layers = [
        tf.keras.layers.Dense(8, activation="relu"),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.Dropout(0.5),
        tf.keras.layers.Dense(2),
    ]
    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), *layers])
    model.export(str(tmp_path / "model"))
    assert found_in(tmp_path / "model") == []


@pytest.mark.parametrize("as_text", [False, True])
def test_a_session_that_parses_examples_is_sound(as_text: bool, tmp_path: Path) -> None:
    assert found_in(save_session(tmp_path / "model", classifier, as_text=as_text)) == []


@pytest.mark.skipif(not hasattr(tf1, "estimator"), reason="there is no Estimator after 2.15")
def test_what_an_estimator_exports_is_sound(tmp_path: Path) -> None:
    columns = [tf1.feature_column.numeric_column("x", (4,))]
    estimator = tf1.estimator.LinearClassifier(columns, model_dir=str(tmp_path / "run"))
    data = lambda: tf1.data.Dataset.from_tensors(({"x": np.ones((2, 4))}, [0, 1]))  # noqa: E731
    estimator.train(data, steps=1)
    parsing = tf1.feature_column.make_parse_example_spec(columns)
    receiver = tf1.estimator.export.build_parsing_serving_input_receiver_fn(parsing)
    exported = estimator.export_saved_model(str(tmp_path / "export"), receiver).decode()
    assert {code for code, _ in found_in(exported)} <= {"unused-training-op"}


# ====== Files ======


def test_each_file_that_is_not_what_was_published_is_named(copy: Path) -> None:
    manifest = manifest_of(copy)
    change(copy / _DATA, flip_middle)
    change(copy / "saved_model.pb", lambda data: data.pop())
    (copy / "variables/variables.index").unlink()
    (copy / "assets/new.txt").write_text("new", encoding="utf-8")
    size = (copy / "saved_model.pb").stat().st_size
    assert sorted(found_in(copy, manifest=manifest)) == [
        ("damaged", f"saved_model.pb: it has {size} bytes, published were {size + 1}"),
        ("damaged", f"{_DATA}: its content is not what was published"),
        ("damaged", "variables/variables.index: it is missing"),
        ("unknown-file", "assets/new.txt: it was not there when the version was published"),
    ]


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize(
    ("name", "how", "code", "said"),
    [
        ("saved_model.pb", bytearray.clear, "damaged", "s3://b/m/3/saved_model.pb is damaged"),
        ("saved_model.pb", cut, "damaged", "s3://b/m/3/saved_model.pb is damaged"),
        (_INDEX, flip_middle, "not-loaded", f"s3://b/m/3/{_INDEX}"),
        (_INDEX, cut, "not-loaded", f"s3://b/m/3/{_INDEX} is damaged"),
        (_INDEX, None, "not-loaded", f"s3://b/m/3/{_INDEX} is missing"),
        (_DATA, flip_middle, "not-loaded", f"s3://b/m/3/{_DATA} is damaged"),
        (_DATA, cut, "not-loaded", f"s3://b/m/3/{_DATA} is damaged"),
        (_DATA, None, "not-loaded", "s3://b/m/3/variables/variables.data-"),
        ("saved_model.pb", None, "incomplete", "it has no saved_model.pb"),
        ("assets/module-words.txt", None, "not-loaded", "assets/module-words.txt"),
    ],
)
def test_damage_is_found_without_a_manifest_too(
    copy: Path, name: str, how: Callable[[bytearray], Any] | None, code: str, said: str
) -> None:
    if how is None:
        (copy / name).unlink()
    else:
        change(copy / name, how)
    ((found, text),) = found_in(copy)
    assert (found, said in text, str(copy) in text) == (code, True, False), text


# ====== Running ======


def found_after(folder: Path, compute: Callable[[Any], Any], **options: Any) -> list[Any]:
    """Return what is found in a model that gives `compute` of a batch of four numbers."""

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, (None, 4), "x")
        return {"one": signature({"x": x}, {"y": compute(x)})}

    return found_in(save_session(folder / "model", build, **options))


def test_an_answer_that_is_not_a_number_is_a_warning(tmp_path: Path) -> None:
    ((code, text),) = found_after(tmp_path, lambda x: tf.math.log(x - 2.0))
    assert (code, text) == (
        "not-finite",
        "signature `one`: output `y` has NaN or infinite values",
    )


def test_a_table_that_nothing_fills_fails(tmp_path: Path) -> None:
    def looked_up(x: Any) -> Any:
        values = tf.lookup.KeyValueTensorInitializer([1], [1.0], tf.int64, tf.float32)
        return tf1.lookup.StaticHashTable(values, 0.0).lookup(tf.cast(x, tf.int64))

    assert found_after(tmp_path / "whole", looked_up) == []
    ((code, text),) = found_after(tmp_path / "part", looked_up, has_tables=False)
    assert code == "fails"
    assert "signature `one`: FailedPreconditionError: Table not initialized" in text


def test_a_signature_that_needs_real_data_is_a_warning(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        files = tf1.placeholder(tf.string, (None,), "files")
        pictures = tf.map_fn(tf.io.decode_jpeg, files, fn_output_signature=tf.uint8)
        return {"one": signature({"files": files}, {"pictures": pictures})}

    ((code, text),) = found_in(save_session(tmp_path / "model", build))
    assert code == "needs-data"
    assert "signature `one`: synthetic input was refused: InvalidArgumentError" in text


def test_unknown_sizes_are_tried_until_one_suits(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        images = tf1.placeholder(tf.float32, (None, None, None, 3), "images")
        pooled = tf.nn.max_pool2d(images, 16, 16, "VALID")
        flat = tf.reshape(tf.reduce_mean(pooled, 3), (-1, 16))  # 64 by 64 pixels and no others
        return {"one": signature({"images": images}, {"flat": flat})}

    assert found_in(save_session(tmp_path / "model", build)) == []


def test_an_output_of_another_dtype_or_shape_is_found(copy: Path) -> None:
    proto = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    outputs = proto.meta_graphs[0].signature_def["serving_default"].outputs
    outputs["ids"].dtype = tf.int32.as_datatype_enum
    outputs["scores"].tensor_shape.dim[1].size = 5
    (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert found_in(copy) == [
        (
            "wrong-output",
            "signature `serving_default`: output `ids` is of int64, the signature says int32",
        ),
        (
            "wrong-output",
            "signature `serving_default`: output `scores` has the shape [2, 3], the signature "
            "says [-1, 5]",
        ),
    ]


def test_a_signature_that_waits_for_a_queue_is_not_run(tmp_path: Path) -> None:
    found = found_after(tmp_path, lambda x: x + tf1.FIFOQueue(1, tf.float32, shapes=[()]).dequeue())
    assert [code for code, _ in found] == ["training-op", "not-run"]


def test_each_metagraph_is_loaded_by_its_tags(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, (None,))
        return {"one": signature({"x": x}, {"y": tf.math.log(-x)})}

    found = found_in(save_session(tmp_path / "model", build, tags=["serve", "gpu"]))
    assert [code for code, _ in found] == ["no-serve-tag", "not-finite"]


def test_a_model_that_calls_python_is_not_run_unless_asked(tmp_path: Path) -> None:
    seen: list[int] = []
    graphs = []  # a graph that goes takes its Python functions with it

    def build() -> dict[str, Any]:
        graphs.append(tf1.get_default_graph())
        x = tf1.placeholder(tf.float32, (None,))
        y = tf1.py_func(lambda value: seen.append(len(value)) or value, [x], tf.float32)
        y.set_shape((None,))
        return {"one": signature({"x": x}, {"y": y})}

    folder = save_session(tmp_path / "model", build)
    assert [code for code, _ in found_in(folder)] == ["python-op", "not-run"]
    assert seen == []
    assert [code for code, _ in found_in(folder, runs_denied=True)] == ["python-op"]
    assert seen == [2]


def test_a_model_that_writes_files_is_not_run_unless_asked(tmp_path: Path) -> None:
    written = tmp_path / "written"

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.string, (None,))
        with tf1.control_dependencies([tf.io.write_file(str(written), "data")]):
            return {"one": signature({"x": x}, {"y": tf.identity(x)}, f"{METHODS}predict")}

    folder = save_session(tmp_path / "model", build)
    assert [code for code, _ in found_in(folder)] == ["denied-op", "not-run"]
    assert not written.exists()
    found_in(folder, runs_denied=True)
    assert written.read_text(encoding="utf-8") == "data"


def test_an_op_that_tensorflow_does_not_know_is_said(tmp_path: Path) -> None:
    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, (None,))
        return {"one": signature({"x": x}, {"y": tf.identity(x, "answer")})}

    proto = model_of(build)
    node = next(one for one in proto.meta_graphs[0].graph_def.node if one.name == "answer")
    node.op = "AcmeRank"
    (tmp_path / "saved_model.pb").write_bytes(proto.SerializeToString())
    ((code, text),) = found_in(tmp_path)
    assert code == "not-loaded"
    assert "AcmeRank" in text
