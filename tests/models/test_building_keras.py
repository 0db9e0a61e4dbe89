"""Keras models are served by the names of their layers, each weight once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v2 as tf
from models_to_build import (
    BATCH,
    FEEDS,
    assert_same,
    call_by_v1,
    call_by_v2,
    table,
    vocabulary,
    weights_in,
)

from pai_runner.errors import UsageError
from pai_runner.models.building import build
from pai_runner.models.loading import load_folder
from pai_runner.models.signatures import Signature

pytestmark = pytest.mark.tensorflow

keras = tf.keras
SERVE = ("serve",)
# Keras computes eagerly, and a graph may fuse the same operations.
ROUNDING = 1e-5


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    return vocabulary(tmp_path / "source")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "model")


def sequential() -> Any:
    model = keras.Sequential(
        [
            keras.Input((3,), name="pixels"),
            keras.layers.Dense(512, name="hidden"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2, name="probabilities"),
        ]
    )
    model.compile("adam", "mse")
    model.fit(BATCH, BATCH[:, :2], verbose=0)
    return model


def functional() -> Any:
    pixels, side = keras.Input((3,), name="pixels"), keras.Input((2,), name="side-info")
    joined = keras.layers.Concatenate()([pixels, side])
    first = keras.layers.Dense(2, name="first")(joined)
    return keras.Model([pixels, side], [first, keras.layers.Dense(1, name="second")(joined)])


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, inputs: Any) -> Any:
        return {"sum": self.dense(inputs["a"]) + self.dense(inputs["b"])}


class Plain(Subclassed):
    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


@pytest.mark.slow
def test_a_keras_model_is_served_by_the_names_of_its_layers(folder: str) -> None:
    model = sequential()
    build(model, folder)
    expected = {"probabilities": np.asarray(model(BATCH, training=False))}
    signature = load_folder(folder, folder)["serving_default"]
    assert str(signature.inputs["pixels"]) == "float32 (?, 3)"
    assert_same(signature(pixels=BATCH), expected, ROUNDING)
    assert_same(call_by_v2(folder, "serving_default", {"pixels": BATCH}, SERVE), expected, ROUNDING)
    assert_same(call_by_v1(folder, "serving_default", {"pixels": BATCH}, SERVE), expected, ROUNDING)
    # Each weight once, under its name, and nothing of the optimizer. (Keras 3.15's own
    # model.export() stores each twice: keras#23553.)
    held = weights_in(folder)
    assert sorted(map(tuple, held.values())) == sorted(tuple(w.shape) for w in model.weights)
    assert any("hidden/kernel" in name for name in held)
    bytes_of_weights = sum(weight.nbytes for weight in model.get_weights())
    data = os.path.getsize(f"{folder}/variables/variables.data-00000-of-00001")
    assert data < bytes_of_weights + 2000


@pytest.mark.slow
def test_keras_models_of_several_inputs_and_outputs(folder: str) -> None:
    model, side = functional(), np.ones((2, 2), np.float32)
    build(model, f"{folder}1")
    first, second = model([BATCH, side])
    signature = load_folder(f"{folder}1", "")["serving_default"]
    result = signature(pixels=BATCH, side_info=side)
    assert_same(result, {"first": np.asarray(first), "second": np.asarray(second)}, ROUNDING)
    of_dicts = Subclassed()
    expected = np.asarray(of_dicts({"a": BATCH, "b": BATCH + 1})["sum"])
    build(of_dicts, f"{folder}2")
    signature = load_folder(f"{folder}2", "")["serving_default"]
    assert_same(signature(a=BATCH, b=BATCH + 1), {"sum": expected}, ROUNDING)
    plain = Plain()
    expected = np.asarray(plain(BATCH))
    build(plain, f"{folder}3")
    signature = load_folder(f"{folder}3", "")["serving_default"]
    assert [tensor.shape for tensor in signature.inputs.values()] == [(None, 3)]
    assert_same(
        signature(**{next(iter(signature.inputs)): BATCH}), {"output_0": expected}, ROUNDING
    )


def test_a_keras_model_with_signatures_of_its_own(words: str, folder: str) -> None:
    """A table that the functions use is found, though the model does not hold it."""
    model, found = Plain(), table(words)
    model(BATCH)

    def classified(inputs: Any) -> Any:
        features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([3], tf.float32)})
        return {"scores": model(features["x"])}

    def looked_up(strings: Any) -> Any:
        return {"places": found.lookup(strings)}

    texts = {"inputs": tf.TensorSpec([None], tf.string)}
    build(
        model,
        folder,
        signatures={
            "classify": (texts, classified, "classify"),
            "look_up": Signature({"strings": tf.TensorSpec([None], tf.string)}, looked_up),
        },
    )
    loaded = load_folder(folder, folder)
    result = loaded["classify"](**FEEDS["classify"])
    assert_same(result, {"scores": np.asarray(model(BATCH))}, ROUNDING)
    assert loaded["look_up"](strings=["owl"])["places"].tolist() == [2]


def test_a_keras_model_with_a_vocabulary(folder: str) -> None:
    layer = keras.layers.StringLookup(vocabulary=["cat", "dog"], name="ids")
    model = keras.Sequential([keras.Input((1,), dtype="string", name="words"), layer])
    build(model, folder)
    result = load_folder(folder, folder)["serving_default"](words=[["dog"], ["zebra"]])
    assert result["ids"].tolist() == [[2], [0]]


def test_names_that_python_does_not_take_are_renamed_as_tensorflow_does(folder: str) -> None:
    inputs = {name: keras.Input((3,), name=name) for name in ("1st", "side-info")}
    build(keras.Model(inputs, keras.layers.Add(name="sum")(list(inputs.values()))), folder)
    result = load_folder(folder, folder)["serving_default"](arg_1st=BATCH, side_info=BATCH)
    assert_same(result, {"sum": BATCH + BATCH})


class OfTwo(keras.Model):
    def call(self, one: Any, two: Any) -> Any:
        return {"sum": one + two}


def test_a_keras_model_whose_call_takes_two_arguments(folder: str) -> None:
    model = OfTwo()
    model(BATCH, BATCH)
    if hasattr(model, "save_spec"):  # Keras 2 notes both
        build(model, folder)
        assert len(load_folder(folder, folder)["serving_default"].inputs) == 2
    else:
        with pytest.raises(UsageError, match=r"did not note all that .*missing .*'two'"):
            build(model, folder)


def test_a_keras_model_that_was_never_called(folder: str) -> None:
    with pytest.raises(UsageError, match="was never called"):
        build(Plain(), folder)
    assert not os.path.exists(folder)
