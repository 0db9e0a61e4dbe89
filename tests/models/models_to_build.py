"""Small models for tests of exports, in the styles of TensorFlow 1 and 2, and ways to call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

WORDS = ("cat", "dog", "owl")
BATCH = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -0.125]], np.float32)
# A word that is not in the vocabulary, and one of bytes that are no text.
STRINGS = np.array([b"owl", b"cat", b"zebra", b"\xff\x00"], dtype=object)
PLACES = [2, 0, -1, -1]
KEEP = "tensorflow/serving/"


def examples() -> np.ndarray[Any, Any]:
    """The rows of BATCH as serialized tf.Examples."""
    rows = [
        tf.train.Example(
            features=tf.train.Features(
                feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=row))}
            )
        ).SerializeToString()
        for row in BATCH
    ]
    return np.array(rows, dtype=object)


def vocabulary(folder: Path) -> str:
    """Write a file of WORDS, and return its path."""
    path = folder / "words.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS))
    return str(path)


def table(path: str) -> Any:
    """Return a table from the words in the file to their places; works in graphs and eagerly."""
    initializer = tf.lookup.TextFileInitializer(
        path,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticHashTable(initializer, -1)


def parsed(serialized: Any) -> Any:
    """Return the features of serialized tf.Examples."""
    return tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([3], tf.float32)})["x"]


class Scorer(tf.Module):
    """A model of TensorFlow 2 with all kinds of signature, over one set of variables."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.weights = tf.Variable(np.arange(6.0).reshape(3, 2).astype(np.float32), name="weights")
        self.words = table(words)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def predict(self, x: Any) -> Any:
        return {"scores": x @ self.weights}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs: Any) -> Any:
        scores = tf.nn.softmax(parsed(inputs) @ self.weights)
        names = tf.tile(tf.constant([["no", "yes"]]), [tf.shape(scores)[0], 1])
        return {"scores": scores, "classes": names}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs: Any) -> Any:
        return {"outputs": tf.reduce_sum(parsed(inputs) @ self.weights, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def look_up(self, words: Any) -> Any:
        return {"places": self.words.lookup(words)}

    def signatures(self) -> dict[str, Any]:
        return {
            "serving_default": self.predict,
            "classify": (self.classify, "classify"),
            "regress": (self.regress, "regress"),
            "look_up": (self.look_up, "my/look_up"),
        }


@dataclass(frozen=True)
class InSession:
    """A model of TensorFlow 1 like `Scorer`, in a session."""

    session: Any
    signatures: Mapping[str, Any]

    def run(self, name: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the session itself gives for a signature."""
        inputs, outputs = self.signatures[name][:2]
        feed = {inputs[alias]: value for alias, value in feeds.items()}
        return dict(self.session.run(dict(outputs), feed))


@contextmanager
def in_session(words: str, device: str = "") -> Iterator[InSession]:
    """A session with the model, initialized; its graph is built for `device`."""
    graph = tf1.Graph()
    config = tf1.ConfigProto(allow_soft_placement=True)
    with graph.as_default(), tf1.device(device), tf1.Session(config=config) as session:
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        serialized = tf1.placeholder(tf.string, [None], name="examples")
        strings = tf1.placeholder(tf.string, [None], name="strings")
        values = np.arange(6.0).reshape(3, 2).astype(np.float32)
        weights = tf1.get_variable("weights", initializer=values)
        found = table(words).lookup(strings)
        scores = tf.nn.softmax(tf.matmul(parsed(serialized), weights))
        names = tf.tile(tf.constant([["no", "yes"]]), [tf.shape(scores)[0], 1])
        total = tf.reduce_sum(tf.matmul(parsed(serialized), weights), axis=1)
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        yield InSession(
            session,
            {
                "serving_default": ({"x": x}, {"scores": tf.matmul(x, weights)}),
                "classify": (
                    {"inputs": serialized},
                    {"scores": scores, "classes": names},
                    "classify",
                ),
                "regress": ({"inputs": serialized}, {"outputs": total}, "regress"),
                "look_up": ({"words": strings}, {"places": found}, "my/look_up"),
            },
        )


# What each signature of the models above is called with.
FEEDS: Mapping[str, dict[str, Any]] = {
    "serving_default": {"x": BATCH},
    "classify": {"inputs": examples()},
    "regress": {"inputs": examples()},
    "look_up": {"words": STRINGS},
}
METHODS = {
    "serving_default": f"{KEEP}predict",
    "classify": f"{KEEP}classify",
    "regress": f"{KEEP}regress",
    "look_up": "my/look_up",
}


def call_by_v2(folder: str, name: str, feeds: Mapping[str, Any], tags: Sequence[str]) -> Any:
    """Call a signature through tf.saved_model.load."""
    model = tf.saved_model.load(folder, tags=list(tags))
    tensors = {alias: tf.constant(value) for alias, value in feeds.items()}
    return {alias: value.numpy() for alias, value in model.signatures[name](**tensors).items()}


def call_by_v1(folder: str, name: str, feeds: Mapping[str, Any], tags: Sequence[str]) -> Any:
    """Call a signature through TensorFlow 1's loader."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        signature = tf1.saved_model.loader.load(session, list(tags), folder).signature_def[name]
        feed = {signature.inputs[alias].name: value for alias, value in feeds.items()}
        fetches = {alias: info.name for alias, info in signature.outputs.items()}
        return dict(session.run(fetches, feed))


def assert_same(
    result: Mapping[str, Any], expected: Mapping[str, Any], rounding: float = 0.0
) -> None:
    """Assert that outputs are equal, floats up to a relative error of `rounding`."""
    assert set(result) == set(expected)
    for alias, value in expected.items():
        if rounding:
            np.testing.assert_allclose(result[alias], value, rtol=rounding)
        else:
            np.testing.assert_array_equal(result[alias], value)


def weights_in(folder: str) -> dict[str, list[int]]:
    """The shapes of what the checkpoint holds, without TensorFlow's own entries."""
    entries = tf.train.list_variables(f"{folder}/variables/variables")
    return {name: shape for name, shape in entries if not name.startswith("_CHECKPOINTABLE")}
