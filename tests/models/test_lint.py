"""What is found in a model without loading it; graphs of both styles, with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from models_to_inspect import METHODS, model_of, signature

from pai_runner.models.findings import CODES
from pai_runner.models.lint import denied_ops, lint_files, lint_model

pytestmark = pytest.mark.tensorflow


def found_in(build: Callable[[], Any], tags: tuple[str, ...] = ("serve",)) -> list[tuple[str, str]]:
    """Return code and text of what is found in a model; `build` makes its signatures."""
    model = model_of(build, tags)
    return [(one.code, one.text) for one in (*denied_ops(model), *lint_model(model))]


def found_after(change: Callable[[Any], Any]) -> list[tuple[str, str]]:
    """Return what is found in a model that gives `change` of a batch of four numbers."""

    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.float32, (None, 4), "x")
        return {"predict": signature({"x": x}, {"y": change(x)})}

    return found_in(build)


def codes_after(change: Callable[[Any], Any]) -> list[str]:
    return [code for code, _ in found_after(change)]


def test_a_graph_for_serving_is_clean() -> None:
    weights = np.ones((4, 4), np.float32)
    assert found_after(lambda x: tf.nn.relu(tf.matmul(x, weights))) == []
    in_function = tf.function(lambda x: {"y": tf.nn.softmax(x)}["y"])
    assert found_after(in_function) == []


# ====== Dropout and batch normalization ======


def test_dropout_is_found_whatever_it_is_called() -> None:
    ((code, text),) = found_after(lambda x: tf.nn.dropout(x, 0.5, name="thin_out"))
    assert code == "training-op"
    assert "signature `predict`" in text
    assert "thin_out" in text
    assert "(dropout)" in text
    assert codes_after(lambda x: tf1.nn.dropout(x, keep_prob=0.5)) == ["training-op"]


def test_dropout_is_found_in_functions_that_a_signature_calls() -> None:
    dropped = tf.function(lambda x: tf.nn.dropout(x, 0.5))
    assert codes_after(dropped) == ["training-op"]
    stateless = tf.function(lambda x: tf.nn.experimental.stateless_dropout(x, 0.5, seed=[1, 2]))
    assert codes_after(stateless) == ["training-op"]


def test_dropout_that_can_be_switched_off_is_a_warning() -> None:
    def keep(x: Any) -> Any:
        return tf1.nn.dropout(x, keep_prob=tf1.placeholder_with_default(1.0, ()))

    def training(x: Any) -> Any:
        chosen = tf1.placeholder_with_default(False, ())
        return tf1.cond(chosen, lambda: tf.nn.dropout(x, 0.5), lambda: tf.identity(x))

    assert codes_after(keep) == codes_after(training) == ["conditional-training-op"]
    tf1.disable_control_flow_v2()
    try:
        assert codes_after(training) == ["conditional-training-op"]
        # What comes after a condition is not in its branch, nor is what a loop repeats.
        assert codes_after(lambda x: tf.nn.dropout(training(x), 0.5)).count("training-op") == 1
        loop = lambda x: tf1.while_loop(lambda i, _: i < 3, repeat, (0, x))[1]  # noqa: E731
        assert codes_after(loop) == ["training-op"]
    finally:
        tf1.enable_control_flow_v2()


def repeat(i: Any, x: Any) -> tuple[Any, Any]:
    return i + 1, tf.nn.dropout(x, 0.5)


def test_batch_normalization_in_training_mode_is_found() -> None:
    def normalized(x: Any, **mode: bool) -> Any:
        images, ones = tf.reshape(x, (-1, 1, 1, 4)), np.ones(4, np.float32)
        return tf1.nn.fused_batch_norm(images, ones, ones, ones, ones, **mode)[0]

    assert codes_after(lambda x: normalized(x, is_training=True)) == ["training-op"]
    assert codes_after(lambda x: normalized(x, is_training=False)) == []


def test_layer_normalization_by_the_same_op_is_none() -> None:
    def normalized(x: Any) -> Any:
        rows = tf.shape(x)[0]
        ones, zeros = tf.fill([rows], 1.0), tf.fill([rows], 0.0)
        batches = tf.reshape(x, (1, rows, -1, 1))
        return tf1.nn.fused_batch_norm(batches, ones, zeros, data_format="NCHW")[0]

    assert codes_after(normalized) == []


# ====== Readers, queues, optimizers ======


def test_queues_readers_and_iterators_are_found() -> None:
    def queue(x: Any) -> Any:
        return x + tf1.FIFOQueue(1, tf.float32, shapes=[()]).dequeue()

    def reader(x: Any) -> Any:
        names = tf1.FIFOQueue(1, tf.string, shapes=[()])
        return tf.strings.join([tf.as_string(x[:, 0]), tf1.TFRecordReader().read(names)[1]])

    def iterator(x: Any) -> Any:
        dataset = tf1.data.Dataset.from_tensors(np.ones(4, np.float32))
        return x + tf1.data.make_initializable_iterator(dataset).get_next()

    ((code, text),) = found_after(queue)
    assert code == "training-op"
    assert "QueueDequeueV2" in text
    ((_, text),) = found_after(reader)
    assert "TFRecordReaderV2" in text
    assert "ReaderReadV2" in text
    assert codes_after(iterator) == ["training-op"]


def trained(x: Any) -> tuple[Any, Any]:
    weights = tf1.get_variable("weights", (4, 2), tf.float32)
    answer = tf.matmul(x, weights)
    return answer, tf1.train.AdamOptimizer().minimize(tf.reduce_sum(answer * answer))


def test_a_signature_that_trains_is_an_error_and_a_left_optimizer_a_warning() -> None:
    def trains(x: Any) -> Any:
        answer, train = trained(x)
        with tf1.control_dependencies([train]):
            return tf.identity(answer)

    codes = codes_after(trains)
    assert "training-op" in codes
    ((code, text),) = found_after(lambda x: trained(x)[0])
    assert code == "unused-training-op"
    assert "ResourceApplyAdam" in text


def test_gradients_and_changed_weights_are_warnings() -> None:
    def slope(x: Any) -> Any:
        return tf1.gradients(tf.nn.relu(x), x)[0]

    def averages(x: Any) -> Any:
        average = tf1.get_variable("average", (4,), tf.float32)
        return x - average.assign(0.9 * average + 0.1 * tf.reduce_mean(x, 0), read_value=True)

    def counts(x: Any) -> Any:
        counter = tf1.get_variable("counter", (), tf.int64)
        return x + tf.cast(counter.assign_add(1, read_value=True), tf.float32)

    assert codes_after(slope) == ["gradient-op"]
    assert codes_after(averages) == ["changes-variable"]
    assert codes_after(counts) == []


def test_a_transposed_convolution_is_no_gradient() -> None:
    def transposed(x: Any) -> Any:
        images, kernel = tf.reshape(x, (-1, 2, 2, 1)), np.ones((2, 2, 1, 1), np.float32)
        return tf.nn.conv2d_transpose(images, kernel, (1, 4, 4, 1), 2)

    assert codes_after(transposed) == []


# ====== Signatures ======


def found_with(
    make: Callable[[], tuple[Any, Any]], method: str = f"{METHODS}predict"
) -> list[tuple[str, str]]:
    """Return what is found in a model whose one signature has these inputs and outputs."""
    return found_in(lambda: {"one": signature(*make(), method)})


def test_a_fixed_batch_is_found_and_a_scalar_is_none() -> None:
    def fixed() -> tuple[Any, Any]:
        x = tf1.placeholder(tf.float32, (32, 4))
        return {"x": x}, {"y": x}

    def others() -> tuple[Any, Any]:
        rate, x = tf1.placeholder(tf.float32, ()), tf1.placeholder(tf.float32, None)
        return {"rate": rate, "x": x}, {"y": x * rate}

    ((code, text),) = found_with(fixed)
    assert code == "fixed-batch"
    assert "input `x` has the shape [32, 4]" in text
    assert found_with(others) == []


def numbers() -> tuple[Any, Any]:
    x = tf1.placeholder(tf.float32, (None,))
    return {"x": x}, {"y": x}


def examples(**outputs: str) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        rows = tf1.placeholder(tf.string, (None,))
        made = {"string": rows, "float32": tf.strings.to_number(rows)}
        return {"inputs": rows}, {alias: made[dtype] for alias, dtype in outputs.items()}

    return make


@pytest.mark.parametrize(
    ("method", "make", "code", "said"),
    [
        ("predict", numbers, None, ""),
        ("classify", examples(classes="string", scores="float32"), None, ""),
        ("classify", examples(scores="float32"), None, ""),
        ("regress", examples(outputs="float32"), None, ""),
        ("classify", numbers, "bad-signature", "it has `x` of DT_FLOAT"),
        ("classify", examples(outputs="float32"), "bad-signature", "it has `outputs` of DT_FLOAT"),
        ("classify", examples(classes="float32"), "bad-signature", "`classes` of DT_STRING"),
        ("regress", examples(outputs="string"), "bad-signature", "gives `outputs` of DT_FLOAT"),
        ("regress", examples(y="float32"), "bad-signature", "it has `y` of DT_FLOAT"),
        ("forecast", numbers, "bad-signature", "valid: tensorflow/serving/predict"),
    ],
)
def test_methods_are_compared_with_what_serving_needs(
    method: str, make: Callable[[], tuple[Any, Any]], code: str | None, said: str
) -> None:
    found = found_with(make, METHODS + method)
    assert [one for one, _ in found] == ([code] if code else [])
    assert all("signature `one`" in text and said in text for _, text in found)


def test_a_method_of_ones_own_is_a_warning_and_none_an_error() -> None:
    assert [code for code, _ in found_with(numbers, "acme/rank")] == ["custom-method"]
    assert [code for code, _ in found_with(numbers, "")] == ["bad-signature"]
    assert CODES["custom-method"][0] == "warning"


def test_a_placeholder_that_is_no_input_is_found() -> None:
    def forgotten() -> tuple[Any, Any]:
        x, rate = tf1.placeholder(tf.float32, (None,)), tf1.placeholder(tf.float32, (), "rate")
        return {"x": x}, {"y": x * rate}

    def inner() -> tuple[Any, Any]:
        """The signature feeds what the placeholder's value is made into."""
        decoded = tf.strings.to_number(tf1.placeholder(tf.string, (None,)))
        return {"x": decoded}, {"y": decoded * 2.0}

    ((code, text),) = found_with(forgotten)
    assert code == "bad-signature"
    assert "needs the placeholder rate" in text
    assert found_with(inner) == []


def test_a_tensor_that_is_not_in_the_graph_is_found() -> None:
    model = model_of(lambda: {"one": signature(*numbers())})
    model.meta_graphs[0].signature_def["one"].outputs["y"].name = "lost:0"
    ((code, text),) = [(one.code, one.text) for one in lint_model(model)]
    assert code == "bad-signature"
    assert "output `y` is the tensor lost:0" in text


def test_tags_and_missing_signatures_are_found() -> None:
    build = lambda: {"one": signature(*numbers())}  # noqa: E731
    ((code, text),) = found_in(build, ("serve", "gpu"))
    assert code == "no-serve-tag"
    assert "`gpu`, `serve`" in text
    assert [code for code, _ in found_in(dict)] == ["no-signature"]


# ====== Ops that act beyond the model ======


def test_files_and_python_are_found_also_where_no_signature_leads() -> None:
    def build() -> dict[str, Any]:
        x = tf1.placeholder(tf.string, (None,))
        unused = tf.function(lambda name: tf.io.read_file(name))
        unused(tf.constant("/etc/hostname"))
        tf1.py_func(lambda value: value, [x], tf.string, name="python")
        return {"one": signature({"x": x}, {"y": x})}

    found = dict(found_in(build))
    assert set(found) == {"denied-op", "python-op"}
    assert "ReadFile" in found["denied-op"]
    assert "python (PyFunc)" in found["python-op"]


def test_checkpoints_and_event_files_are_found() -> None:
    own = [
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00002",
        "assets/words.index",
        "assets.extra/tf_serving_warmup_requests",
    ]
    left = [
        "checkpoint",
        "variables/checkpoint",
        "model.ckpt-7.meta",
        "train/ckpt-1.index",
        "train/ckpt-1.data-00000-of-00001",
        "events.out.tfevents.1700000000.host",
    ]
    found = lint_files([*own, *left])
    assert [one.text.partition(":")[0] for one in found] == sorted(left)
    assert {one.level for one in found} == {"error"}
