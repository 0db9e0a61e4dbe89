"""Estimators export themselves, where TensorFlow still has them; elsewhere that is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_build import BATCH, FEEDS, METHODS, Scorer, call_by_v1, call_by_v2, parsed

from pai_runner.errors import UsageError
from pai_runner.models.building import build
from pai_runner.models.loading import load_folder

pytestmark = pytest.mark.tensorflow


def has_estimators() -> bool:
    try:
        return hasattr(tf1.estimator, "Estimator")
    except AttributeError:
        return False


def model_fn(features: Any, labels: Any, mode: str) -> Any:
    """A model with outputs for all three of Serving's methods."""
    estimator = tf1.estimator
    weights = tf1.get_variable(
        "weights", initializer=np.arange(6.0, dtype=np.float32).reshape(3, 2)
    )
    scores = tf.matmul(features["x"], weights)
    total = tf.reduce_sum(scores, axis=1)
    outputs = {
        "serving_default": estimator.export.PredictOutput({"scores": scores}),
        "classify": estimator.export.ClassificationOutput(scores=scores),
        "regress": estimator.export.RegressionOutput(total),
    }
    loss = tf.reduce_mean(tf.square(total))
    step = tf1.train.get_or_create_global_step()
    train = tf1.train.GradientDescentOptimizer(0.01).minimize(loss, global_step=step)
    return estimator.EstimatorSpec(
        mode, predictions=scores, loss=loss, train_op=train, export_outputs=outputs
    )


def serving_input_fn() -> Any:
    serialized = tf1.placeholder(tf.string, [None], name="examples")
    receivers = {"inputs": serialized}
    return tf1.estimator.export.ServingInputReceiver({"x": parsed(serialized)}, receivers)


@pytest.mark.slow
@pytest.mark.skipif(not has_estimators(), reason="TensorFlow has no Estimators from 2.16 on")
def test_an_estimator_round_trips(tmp_path: Path) -> None:
    folder = str(tmp_path / "model")
    estimator = tf1.estimator.Estimator(model_fn, model_dir=str(tmp_path / "training"))
    with pytest.raises(UsageError, match="serving_input_fn is missing"):
        build(estimator, folder)
    with pytest.raises(UsageError, match="which signatures it exports"):
        build(estimator, folder, signatures={"s": abs}, serving_input_fn=serving_input_fn)
    estimator.train(lambda: tf1.data.Dataset.from_tensors(({"x": BATCH}, [0.0])), steps=1)
    build(estimator, folder, serving_input_fn=serving_input_fn)
    assert sorted(os.listdir(tmp_path)) == ["model", "training"]  # no temporary folder stays
    scores = BATCH @ estimator.get_variable_value("weights")
    expected = {
        "serving_default": {"scores": scores},
        "classify": {"scores": scores},
        "regress": {"outputs": scores.sum(axis=1)},
    }
    loaded = load_folder(folder, folder)
    for name, outputs in expected.items():
        assert loaded[name].method == METHODS[name]
        feeds = FEEDS["classify"]
        results = [loaded[name](**feeds)]
        results += [by(folder, name, feeds, ("serve",)) for by in (call_by_v1, call_by_v2)]
        for result in results:
            assert set(result) == set(outputs)
            for alias, value in outputs.items():
                np.testing.assert_array_equal(result[alias], results[0][alias])
                np.testing.assert_allclose(result[alias], value, rtol=1e-6)


@pytest.mark.skipif(has_estimators(), reason="this TensorFlow has Estimators")
def test_without_estimators_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("cat\n")
    with pytest.raises(UsageError, match=r"no Estimators from 2\.16 on"):
        build(Scorer(str(path)), str(tmp_path / "model"), serving_input_fn=serving_input_fn)
