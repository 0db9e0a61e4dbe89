"""What is built from sessions, Keras models, modules and functions is what the model computes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_build import (
    BATCH,
    FEEDS,
    METHODS,
    PLACES,
    Scorer,
    assert_same,
    call_by_v1,
    call_by_v2,
    in_session,
    table,
    vocabulary,
    weights_in,
)
from tensorflow.core.protobuf import saved_model_pb2

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.building import build
from pai_runner.models.loading import load_folder
from pai_runner.models.signatures import MetaGraph

pytestmark = pytest.mark.tensorflow

SERVE = ("serve",)


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    return vocabulary(tmp_path / "source")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "model")


def proto(folder: str) -> Any:
    return saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())


def methods(folder: str) -> dict[str, str]:
    definitions = proto(folder).meta_graphs[0].signature_def
    public = (name for name in definitions if not name.startswith("__"))
    return {name: definitions[name].method_name for name in public}


# ====== The four kinds of signature, by every loader ======


@pytest.mark.slow
def test_a_session_round_trips(words: str, folder: str) -> None:
    with in_session(words) as model:
        build(model.session, folder, signatures=model.signatures)
        expected = {name: model.run(name, feeds) for name, feeds in FEEDS.items()}
    os.unlink(words)  # the model brings its own
    assert methods(folder) == METHODS
    assert expected["look_up"]["places"].tolist() == PLACES
    loaded = load_folder(folder, folder)
    for name, feeds in FEEDS.items():
        assert loaded[name].method == METHODS[name]
        assert_same(loaded[name](**feeds), expected[name])
        assert_same(call_by_v2(folder, name, feeds, SERVE), expected[name])
        assert_same(call_by_v1(folder, name, feeds, SERVE), expected[name])
    assert list(weights_in(folder)) == ["weights"]  # all signatures share it


@pytest.mark.slow
def test_a_module_round_trips(words: str, folder: str) -> None:
    model = Scorer(words)
    build(model, folder, signatures=model.signatures())
    functions = {name: value for name, value in model.signatures().items() if callable(value)}
    functions |= {
        name: pair[0] for name, pair in model.signatures().items() if name != "serving_default"
    }
    os.unlink(words)
    assert methods(folder) == METHODS
    loaded = load_folder(folder, folder)
    for name, feeds in FEEDS.items():
        expected = {
            alias: value.numpy()
            for alias, value in functions[name](*map(tf.constant, feeds.values())).items()
        }
        assert loaded[name].method == METHODS[name]
        assert_same(loaded[name](**feeds), expected)
        assert_same(call_by_v2(folder, name, feeds, SERVE), expected)
        assert_same(call_by_v1(folder, name, feeds, SERVE), expected)


# ====== Sessions ======


def test_meta_graphs_are_chosen_by_their_tags(words: str, folder: str) -> None:
    """One has the graph of the session, one a graph of its own with the same variable."""
    other = tf1.Graph()
    with other.as_default():
        x = tf1.placeholder(tf.float32, [None, 3])
        weights = tf1.get_variable("weights", [3, 2])
        doubled = tf.matmul(x, weights) * 2.0
    with in_session(words) as model:
        expected = model.run("serving_default", {"x": BATCH})
        build(
            model.session,
            folder,
            signatures=model.signatures,
            meta_graphs=[
                MetaGraph(("serve", "gpu"), {"scores": model.signatures["serving_default"]}),
                MetaGraph(("twice",), {"scores": ({"x": x}, {"scores": doubled})}, other),
            ],
        )
    assert_same(load_folder(folder, folder, ("gpu", "serve"))["scores"](x=BATCH), expected)
    assert_same(call_by_v1(folder, "scores", {"x": BATCH}, ("serve", "gpu")), expected)
    twice = {"scores": expected["scores"] * 2}
    assert_same(load_folder(folder, folder, ("twice",))["scores"](x=BATCH), twice)
    assert_same(call_by_v2(folder, "scores", {"x": BATCH}, ("twice",)), twice)
    assert_same(load_folder(folder, folder)["serving_default"](x=BATCH), expected)


def test_a_graph_for_a_gpu_is_loaded_without_one(words: str, folder: str, tmp_path: Path) -> None:
    with in_session(words, device="/gpu:0") as model:
        signatures = {"s": model.signatures["serving_default"]}
        expected = model.run("serving_default", {"x": BATCH})
        build(model.session, folder, signatures=signatures)
        kept = str(tmp_path / "kept")
        build(model.session, kept, signatures=signatures, clear_devices=False)
    assert {node.device for node in proto(folder).meta_graphs[0].graph_def.node} == {""}
    assert_same(call_by_v1(folder, "s", {"x": BATCH}, SERVE), expected)
    placed = {node.device for node in proto(kept).meta_graphs[0].graph_def.node}
    assert any("GPU:0" in device.upper() for device in placed)
    assert_same(load_folder(kept, kept)["s"](x=BATCH), expected)


def test_a_graph_can_be_exported_twice_also_when_it_is_finalized(words: str, folder: str) -> None:
    with in_session(words) as model:
        graph = model.session.graph
        graph.finalize()
        sizes = []
        for number in (1, 2):
            build(
                model.session, f"{folder}{number}", signatures=model.signatures, assets=[__file__]
            )
            sizes.append(len(graph.get_operations()))
        assert graph.finalized
        assert sizes[0] == sizes[1]  # what the first export added serves the second
        assert graph.get_collection("saved_model_main_op") == []
    assert load_folder(f"{folder}2", "")["look_up"](words=["dog"])["places"].tolist() == [1]


def test_assets_and_a_main_op_of_the_scripts_own(words: str, folder: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("no\nyes\n")
    graph = tf1.Graph()
    with graph.as_default(), tf1.Session() as session:
        counter = tf1.get_variable("counter", initializer=0)
        session.run(tf1.global_variables_initializer())
        main = tf1.group(tf1.assign(counter, 7))
        build(
            session,
            folder,
            signatures={"count": ({}, {"count": counter})},
            assets=[labels],
            main_op=main,
        )
    assert Path(folder, "assets/labels.txt").read_text() == "no\nyes\n"
    assert load_folder(folder, folder)["count"]()["count"] == 7


def test_variables_without_values_are_named(folder: str) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        bias = tf1.get_variable("bias", [2])
        with pytest.raises(SetupError, match="bias"):
            build(session, folder, signatures={"s": ({}, {"bias": bias})})
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (({"x": "x:0"}, {"y": "nowhere:0"}), "signature s: y is not a tensor of the graph"),
        (({"x": "x:0"}, {}), "signature s has no outputs"),
        (({"x": "x:0"}, {"y": "x:0"}, "classify"), "s: classify needs one input, inputs, of str"),
        ((["x:0"], {"y": "x:0"}), "signature s: cannot use a value of type tuple"),
        (({"x": "x:0"}, ["x:0"]), "signature s: its outputs are of type list"),
        (3, "signature s: cannot use a value of type int"),
    ],
)
def test_what_a_session_cannot_serve_is_refused(
    folder: str, signature: object, message: str
) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.placeholder(tf.float32, [None], name="x")
        with pytest.raises(UsageError, match=message):
            build(session, folder, signatures={"s": signature})
    assert not os.path.exists(folder)


def test_a_further_graph_needs_variables_that_are_saved(words: str, folder: str) -> None:
    other = tf1.Graph()
    with other.as_default():
        bias = tf1.get_variable("bias", [2])
    with in_session(words) as model, pytest.raises(UsageError, match="variable bias, float32"):
        build(
            model.session,
            folder,
            signatures=model.signatures,
            meta_graphs=[MetaGraph(("other",), {"s": ({}, {"bias": bias})}, other)],
        )
    assert not os.path.exists(folder)


# ====== Functions and objects ======


def test_a_function_brings_what_it_uses(words: str, folder: str, tmp_path: Path) -> None:
    weight, found = tf.Variable(3.0, name="weight"), table(words)
    labels = tmp_path / "labels.txt"
    labels.write_text("no\n")

    def place_of(strings: Any) -> Any:
        return tf.cast(found.lookup(strings), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="strings")])
    def scaled(strings: Any) -> Any:
        return place_of(strings) * weight

    build(scaled, folder, assets=[str(labels)], tags=("serve", "cpu"))
    loaded = load_folder(folder, folder, ("cpu", "serve"))
    assert loaded["serving_default"](strings=["owl"])["output_0"].tolist() == [6.0]
    feeds = {"strings": np.array([b"owl"], dtype=object)}
    result = call_by_v2(folder, "serving_default", feeds, ("serve", "cpu"))
    assert result["output_0"].tolist() == [6.0]
    assert Path(folder, "assets/labels.txt").read_text() == "no\n"
    assert list(weights_in(folder)) == ["weights/weight/.ATTRIBUTES/VARIABLE_VALUE"]
    # It would be of the file that had other tags.
    assert not os.path.exists(f"{folder}/fingerprint.pb")


def test_variables_of_one_name_are_all_kept(folder: str) -> None:
    held = [tf.Variable(float(n), name=name) for n, name in enumerate(("a", "a", "a/b", "b/a"))]

    @tf.function(input_signature=[])
    def values() -> Any:
        return tuple(variable.read_value() for variable in held)

    build(values, folder)
    result = load_folder(folder, folder)["serving_default"]()
    assert result == {f"output_{number}": float(number) for number in range(4)}


def test_a_checkpoint_object_is_saved_as_it_is(folder: str) -> None:
    checkpoint = tf.train.Checkpoint(step=tf.Variable(5))
    step = tf.function(lambda: {"step": checkpoint.step.read_value()}, input_signature=[])
    build(checkpoint, folder, signatures={"step": step.get_concrete_function()})
    assert load_folder(folder, folder)["step"]()["step"] == 5
    assert "step/.ATTRIBUTES/VARIABLE_VALUE" in weights_in(folder)
    assert tf.saved_model.experimental.read_fingerprint(folder)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        (None, "signatures are missing: a Scorer does not say"),
        ({"s": tf.function(lambda x: x)}, "signature s: .*does not say what it takes"),
        ({"s": ({"x": 3}, abs)}, "signature s: the input x is of type int"),
        (
            {"s": ({"x": tf.TensorSpec([1])}, lambda x: {"y": [x, x]})},
            "signature s: the output y is of type list",
        ),
        ({"s": ({"x": tf.TensorSpec([1])}, {"y": 1})}, "signature s: its outputs are of type dict"),
    ],
)
def test_functions_that_cannot_be_served_are_refused(
    words: str, folder: str, signatures: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(Scorer(words), folder, signatures=signatures)
    assert not os.path.exists(folder)


def test_methods_of_functions_are_checked(words: str, folder: str) -> None:
    model = Scorer(words)
    with pytest.raises(
        UsageError, match=r"s: regress needs one output, outputs, of float32.* It has"
    ):
        build(model, folder, signatures={"s": (model.classify, "regress")})
    with pytest.raises(UsageError, match=r"classify needs one input.* It has inputs x: float32 "):
        build(model, folder, signatures={"s": (model.predict, "classify")})
    assert not os.path.exists(folder)


def test_a_variable_that_the_source_does_not_hold(words: str, folder: str) -> None:
    outside = tf.Variable(1.0)
    function = tf.function(lambda: outside.read_value(), input_signature=[])
    with pytest.raises(UsageError, match="that the Scorer does not hold"):
        build(Scorer(words), folder, signatures={"s": function})
    assert not os.path.exists(folder)


# ====== Arguments ======


def test_a_source_of_no_kind_is_told_which_there_are(folder: str) -> None:
    kinds = r"cannot export a value of type dict\..*session; a Keras model; an Estimator"
    with pytest.raises(UsageError, match=kinds):
        build({}, folder)


def test_nothing_is_written_over_what_is_there(words: str, folder: str) -> None:
    Path(folder).mkdir()
    model = Scorer(words)
    with pytest.raises(SetupError, match="exists already"):
        build(model, folder, signatures=model.signatures())
    assert os.listdir(folder) == []


def test_arguments_that_do_not_fit_the_source(words: str, folder: str, tmp_path: Path) -> None:
    model = Scorer(words)
    twin = tmp_path / "words.txt"
    twin.write_text("")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tags": "serve"}, "tags 'serve': give a list"),
        ({"tags": []}, "give a list of at least one"),
        ({"main_op": object()}, "main_op is for sessions"),
        ({"meta_graphs": [MetaGraph(("x",), {})]}, "meta_graphs is for sessions"),
        ({"meta_graphs": [MetaGraph(("serve",), {})]}, "two MetaGraphs have the same tags"),
        ({"assets": [words, str(twin)]}, "two assets would both be assets/words.txt"),
        ({"serving_input_fn": lambda: None}, "serving_input_fn is for Estimators"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UsageError, match=message):
            build(model, folder, signatures=model.signatures(), **arguments)
    with pytest.raises(SetupError, match=r"nowhere.txt is not a file"):
        build(model, folder, signatures=model.signatures(), assets=["nowhere.txt"])
    assert not os.path.exists(folder)
