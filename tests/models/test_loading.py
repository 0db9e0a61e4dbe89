"""Models are called by alias, and what is wrong with a call or with a file is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from google.protobuf import text_format
from models_to_build import BATCH, STRINGS, Scorer, in_session, vocabulary
from support import ROOT
from tensorflow.core.protobuf import saved_model_pb2

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.building import build
from pai_runner.models.loading import Loaded, load_folder
from pai_runner.models.signatures import MetaGraph

pytestmark = pytest.mark.tensorflow

SHOWN = "oss://models/mnist/7/"
INDEX = "variables/variables.index"
DATA = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def by_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of TensorFlow 2."""
    folder = tmp_path_factory.mktemp("module")
    model = Scorer(vocabulary(folder))
    build(model, str(folder / "model"), signatures=model.signatures())
    return folder / "model"


@pytest.fixture(scope="module")
def by_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of TensorFlow 1, with two MetaGraphs."""
    folder = tmp_path_factory.mktemp("session")
    with in_session(vocabulary(folder)) as model:
        scores = {"scores": model.signatures["serving_default"]}
        build(
            model.session,
            str(folder / "model"),
            signatures=model.signatures,
            meta_graphs=[MetaGraph(("serve", "gpu"), scores)],
        )
    return folder / "model"


@pytest.fixture(params=["by_module", "by_session"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of either model, to be damaged."""
    source: Path = request.getfixturevalue(request.param)
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.fixture(scope="module")
def loaded(by_session: Path) -> Iterator[Loaded]:
    with load_folder(str(by_session), SHOWN) as model:
        yield model


# ====== Calls ======


def test_signatures_are_a_mapping_with_names_dtypes_and_shapes(loaded: Loaded) -> None:
    assert sorted(loaded) == ["classify", "look_up", "regress", "serving_default"]
    assert loaded["look_up"] is loaded.signatures["look_up"]
    signature = loaded["serving_default"]
    assert {alias: str(tensor) for alias, tensor in signature.inputs.items()} == {
        "x": "float32 (?, 3)"
    }
    assert (signature.inputs["x"].name, signature.inputs["x"].shape) == ("x:0", (None, 3))
    assert {alias: tensor.dtype for alias, tensor in loaded["classify"].outputs.items()} == {
        "classes": "string",
        "scores": "float32",
    }


def test_values_without_loss_take_the_dtype_of_the_signature(loaded: Loaded) -> None:
    predict = loaded["serving_default"]
    expected = predict(x=np.array([[1, 2, 3]], np.float32))["scores"]
    for value in ([[1, 2, 3]], [[1.0, 2.0, 3.0]], np.array([[1, 2, 3]]), np.array([[1.0, 2, 3]])):
        result = predict(x=value)["scores"]
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, expected)
    # A list of Python's floats has no dtype that could be lost.
    assert predict(x=[[0.1, 0.2, 0.3]])["scores"].shape == (1, 2)
    with np.errstate(invalid="raise"):
        assert np.isnan(predict(x=np.array([[np.nan, 0, 0]]))["scores"]).all()


def test_strings_keep_all_their_bytes(loaded: Loaded) -> None:
    look_up = loaded["look_up"]
    assert look_up(words=STRINGS)["places"].tolist() == [2, 0, -1, -1]
    assert look_up(words=["owl", b"dog\x00"])["places"].tolist() == [2, -1]
    assert look_up(words=np.array(["dog", "cat"]))["places"].tolist() == [1, 0]
    classes = loaded["classify"](inputs=[b""] * 0)["classes"]
    assert classes.dtype == object
    assert classes.shape == (0, 2)


def test_an_alias_may_be_called_as_python_calls_the_object(tmp_path: Path) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None])
        build(session, str(tmp_path / "m"), signatures={"s": ({"self": x}, {"y": x * 2.0})})
    assert load_folder(str(tmp_path / "m"), SHOWN)["s"](self=[3.0])["y"].tolist() == [6.0]


def test_a_scalar_of_bytes_keeps_its_final_zeros(tmp_path: Path) -> None:
    echo = tf.function(lambda text: {"text": text})
    spec = {"text": tf.TensorSpec([], tf.string)}
    build(tf.Module(), str(tmp_path / "m"), signatures={"echo": (spec, echo)})
    result = load_folder(str(tmp_path / "m"), SHOWN)["echo"](text=b"a\x00")["text"]
    assert (result.shape, result.item()) == ((), b"a\x00")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint64", "bool", "complex64"])
def test_other_dtypes_come_back_as_they_went_in(tmp_path: Path, dtype: str) -> None:
    spec = {"value": tf.TensorSpec([None], dtype)}
    echo = tf.function(lambda value: {"value": value})
    build(tf.Module(), str(tmp_path / "m"), signatures={"echo": (spec, echo)})
    value = np.array([0, 1, 1]).astype(tf.as_dtype(dtype).as_numpy_dtype)
    result = load_folder(str(tmp_path / "m"), SHOWN)["echo"](value=value)["value"]
    assert result.dtype == value.dtype
    np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("serving_default", {"y": BATCH}, "has no input y and needs the input x. Its inputs: x: "),
        ("serving_default", {}, "needs the input x"),
        ("serving_default", {"x": BATCH[0]}, r"x is float32 \(\?, 3\); .*has the shape \(3,\)"),
        ("serving_default", {"x": BATCH[:, :2]}, r"has the shape \(2, 2\)"),
        ("serving_default", {"x": [["a", "b", "c"]]}, "the value given is text"),
        ("serving_default", {"x": np.array([[0.1, 0, 0]])}, "is float64, and not all of it fits"),
        ("serving_default", {"x": np.array([[2**24 + 1, 0, 0]])}, "is int64, and not all of it"),
        ("serving_default", {"x": [[1, 2, 3], [4]]}, r"x is float32 \(\?, 3\);"),
        ("serving_default", {"x": [[None, 1, 2]]}, "the value given is object"),
        ("look_up", {"words": [1, 2]}, "the value given holds a int"),
    ],
)
def test_calls_that_do_not_fit_are_refused(
    loaded: Loaded, name: str, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"signature {name}.*{message}"):
        loaded[name](**arrays)


def test_an_input_with_a_default_may_be_left_out(by_session: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(by_session, tmp_path / "model"))
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    definition = model.meta_graphs[0].signature_def["serving_default"]
    definition.defaults["x"].CopyFrom(tf.make_tensor_proto(BATCH))
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    predict = load_folder(str(folder), SHOWN)["serving_default"]
    np.testing.assert_array_equal(predict()["scores"], predict(x=BATCH)["scores"])


def test_unknown_names_list_those_that_there_are(by_session: Path, loaded: Loaded) -> None:
    with pytest.raises(UsageError, match=r"mnist/7/ has no signature nope. .*: classify, look_up,"):
        loaded["nope"]
    with pytest.raises(UsageError, match="no signature nope"):
        loaded.signatures["nope"]
    assert "nope" not in loaded
    with pytest.raises(UsageError, match=r"tags train. Its tags: serve; gpu, serve"):
        load_folder(str(by_session), SHOWN, ("train",))


def test_sparse_inputs_are_listed_but_not_called(tmp_path: Path) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        sparse = tf1.sparse_placeholder(tf.float32, [None, 3])
        total = tf1.sparse_reduce_sum(sparse)
        signatures = {"s": ({"x": sparse}, {"total": total}), "one": ({}, {"one": tf.ones([])})}
        build(session, str(tmp_path / "m"), signatures=signatures)
    model = load_folder(str(tmp_path / "m"), SHOWN)
    assert model["one"]()["one"] == 1
    with pytest.raises(UsageError, match="signature s has sparse"):
        model["s"](x=BATCH)


# ====== Damage ======


def flip(path: Path, position: float = 0.1) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * position)] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xff\xfe not a model")


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("saved_model.pb", Path.unlink, "has no saved_model.pb or saved_model.pbtxt"),
    ("saved_model.pb", cut, "saved_model.pb is damaged"),
    ("saved_model.pb", overwrite, "saved_model.pb is damaged"),
    (INDEX, Path.unlink, f"{INDEX} is missing"),
    (INDEX, cut, f"{INDEX} is damaged"),
    (INDEX, flip, f"{INDEX} is damaged"),
    (DATA, Path.unlink, f"{DATA} is missing"),
    (DATA, cut, f"{DATA} is damaged"),
    (DATA, flip, f"{DATA} is damaged: "),
    ("assets/words.txt", Path.unlink, "assets/words.txt is missing"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_a_damaged_file_is_named(
    model: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(model / name)
    with pytest.raises(SetupError) as error:
        load_folder(str(model), SHOWN)
    assert str(error.value).startswith(SHOWN)
    assert str(model) not in str(error.value)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """Variables of two devices are saved as two shards."""
    two = tf1.ConfigProto(device_count={"CPU": 2})
    with tf1.Graph().as_default(), tf1.Session(config=two) as session:
        variables = {}
        for number in range(2):
            with tf1.device(f"/cpu:{number}"):
                variables[f"v{number}"] = tf1.get_variable(f"v{number}", initializer=1.0)
        session.run(tf1.global_variables_initializer())
        build(session, str(tmp_path / "m"), signatures={"s": ({}, variables)})
    assert load_folder(str(tmp_path / "m"), SHOWN)["s"]() == {"v0": 1, "v1": 1}
    (tmp_path / "m/variables/variables.data-00001-of-00002").unlink()
    with pytest.raises(SetupError, match=r"7/variables/variables.data-00001-of-00002 is missing"):
        load_folder(str(tmp_path / "m"), SHOWN)


def test_every_flipped_bit_of_the_weights_is_noticed(by_session: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(by_session, tmp_path / "model"))
    data = (folder / DATA).read_bytes()
    for position in range(len(data)):
        flip(folder / DATA, (position + 0.5) / len(data))
        with pytest.raises(SetupError, match=r"weights: .*[Cc]hecksum"):
            load_folder(str(folder), SHOWN)
        (folder / DATA).write_bytes(data)
    load_folder(str(folder), SHOWN).close()


def test_variables_of_another_model(model: Path, tmp_path: Path) -> None:
    with tf1.Graph().as_default(), tf1.Session() as session:
        bias = tf1.get_variable("bias", initializer=1.0)
        session.run(tf1.global_variables_initializer())
        build(session, str(tmp_path / "other"), signatures={"s": ({}, {"bias": bias})})
    shutil.rmtree(model / "variables")
    shutil.copytree(tmp_path / "other/variables", model / "variables")
    with pytest.raises(
        SetupError, match=r"variables.index does not fit .*/saved_model.pb: .*weigh"
    ):
        load_folder(str(model), SHOWN)


def test_an_asset_that_does_not_fill_its_table(model: Path) -> None:
    (model / "assets/words.txt").write_text("dog\ndog\n")
    with pytest.raises(SetupError, match=r"cannot be initialized: .*") as error:
        load_folder(str(model), SHOWN)
    assert "assets/words.txt" in str(error.value.hint)


def test_an_operation_that_this_tensorflow_lacks(model: Path) -> None:
    path = model / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"MatMul", b"MatMol"))
    with pytest.raises(SetupError, match=r"saved_model.pb holds a graph that TensorFlow .*MatMol"):
        load_folder(str(model), SHOWN)


def test_a_signature_of_tensors_that_are_not_there(model: Path) -> None:
    path = model / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    proto.meta_graphs[0].signature_def["look_up"].outputs["places"].name = "nowhere:0"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(SetupError, match=r"7/saved_model.pb has a signature .*nowhere:0"):
        load_folder(str(model), SHOWN)


def test_a_text_model_is_loaded_like_a_binary_one(model: Path) -> None:
    path = model / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    path.unlink()
    text = model / "saved_model.pbtxt"
    text.write_text(text_format.MessageToString(proto))
    assert load_folder(str(model), SHOWN)["look_up"](words=["dog"])["places"] == [1]
    text.write_text("meta_graphs {")
    with pytest.raises(SetupError, match=r"7/saved_model.pbtxt is damaged"):
        load_folder(str(model), SHOWN)


def test_no_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is no SavedModel"):
        load_folder(str(tmp_path / "nowhere"), SHOWN)


# ====== Beside a script's own graph ======


@pytest.mark.slow
def test_within_a_script_of_tensorflow_1(by_module: Path, by_session: Path, tmp_path: Path) -> None:
    """With TensorFlow 1's behaviour, between a MonitoredSession's steps, and Keras in a graph."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    # tf.compat.v1.keras is Keras 2's.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_USE_LEGACY_KERAS": "1"}
    command = [sys.executable, str(script), str(by_module), str(by_session), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


_SCRIPT = """
    import sys

    import numpy as np
    import tensorflow.compat.v1 as tf1

    tf1.disable_v2_behavior()
    from pai_runner.errors import UsageError
    from pai_runner.models.building import build
    from pai_runner.models.description import step_of
    from pai_runner.models.loading import load_folder

    by_module, by_session, folder = sys.argv[1:]
    ones = np.ones((1, 3), np.float32)
    x = tf1.placeholder(tf1.float32, [None, 3])
    halves = tf1.fixed_size_partitioner(2)
    weights = tf1.get_variable("weights", [4, 3], partitioner=halves, use_resource=False)
    y = tf1.matmul(x, weights, transpose_b=True)
    step = tf1.train.get_or_create_global_step()
    train = tf1.assign_add(step, 1)
    with tf1.train.MonitoredTrainingSession() as session:
        expected = session.run(y, {x: ones})
        size = len(tf1.get_default_graph().get_operations())
        for model in (by_module, by_session):
            assert load_folder(model, model)["look_up"](words=["owl"])["places"].tolist() == [2]
        assert len(tf1.get_default_graph().get_operations()) == size
        for number in range(2):
            session.run(train)
            signatures = {"s": ({"x": x}, {"y": y, "step": step})}
            build(session, f"{folder}/{number}", signatures=signatures)
        assert tf1.get_default_graph().finalized
    result = load_folder(f"{folder}/1", "")["s"](x=ones)
    assert (result["y"] == expected).all() and result["step"] == 2, result

    tf1.reset_default_graph()
    keras = tf1.keras
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,), name="probabilities")])
    model.compile("sgd", "mse")
    model.fit(ones, np.ones((1, 2)), verbose=0)
    assert step_of(model) == 1
    build(model, f"{folder}/keras")
    signature = load_folder(f"{folder}/keras", "")["serving_default"]
    (alias,) = signature.inputs
    assert (signature(**{alias: ones})["probabilities"] == model.predict(ones)).all()

    try:
        build(tf1.Module(), f"{folder}/module", signatures={"s": lambda: 1})
    except UsageError as error:
        assert "only where TensorFlow executes eagerly" in str(error), error
    print("done")
"""
