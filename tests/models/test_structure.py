"""EAS's model structure of signatures."""

from __future__ import annotations

import json

import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_inspect import model_of, signature

from pai_runner.models.structure import eas_structure, signatures_of

pytestmark = pytest.mark.tensorflow


def test_a_structure_has_the_form_that_eas_answers() -> None:
    def build() -> dict[str, object]:
        images = tf1.placeholder(tf.uint8, (None, 784))
        rate = tf1.placeholder(tf.float32, ())
        names = tf1.placeholder(tf.string, None)
        return {
            "predict_images": signature(
                {"rate": rate, "images": images, "names": names},
                {"scores": tf.cast(images, "half")},
            )
        }

    found = signatures_of(model_of(build).meta_graphs[0])
    assert json.loads(json.dumps(found)) == {
        "predict_images": {
            "signature_name": "predict_images",
            "inputs": [
                {"name": "images", "shape": [-1, 784], "type": "DT_UINT8"},
                {"name": "names", "shape": [], "type": "DT_STRING"},
                {"name": "rate", "shape": [], "type": "DT_FLOAT"},
            ],
            "outputs": [{"name": "scores", "shape": [-1, 784], "type": "DT_HALF"}],
        }
    }


def test_signatures_of_tensorflows_own_are_left_out() -> None:
    def build() -> dict[str, object]:
        x = tf1.placeholder(tf.float32, (None,))
        one = signature({"x": x}, {"y": x})
        return {"b": one, "a": one, "__saved_model_init_op": one}

    meta_graph = model_of(build).meta_graphs[0]
    assert list(signatures_of(meta_graph)) == ["a", "b"]
    init = eas_structure("__saved_model_init_op", meta_graph.signature_def["__saved_model_init_op"])
    assert init["signature_name"] == "__saved_model_init_op"
