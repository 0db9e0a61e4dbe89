"""checkpoint.Manager: models, optimizers and modules, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

tf = pytest.importorskip("tensorflow.compat.v2")

from pai_runner import checkpoint  # noqa: E402
from pai_runner.errors import SetupError, UsageError  # noqa: E402
from pai_runner.models.checkpoint_index import Index, parse_index  # noqa: E402

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

XS, YS = np.ones((8, 4), "f"), np.ones((8, 3), "f")


def keras_model(units: int = 3, is_built: bool = True) -> Any:
    """Return a compiled model, with layers that have more than weights."""
    layers = tf.keras.layers
    inputs = [layers.Input((4,))] if is_built else []
    model = tf.keras.Sequential(
        [*inputs, layers.Dense(5), layers.Dropout(0.5), layers.BatchNormalization(),
         layers.Dense(units, name="last")]
    )  # fmt: skip
    model.compile("adam", "mse", metrics=["mae"])
    return model


def objects_of(model: Any) -> dict[str, Any]:
    return {"model": model, "optimizer": model.optimizer, "step": tf.Variable(0, dtype=tf.int64)}


def variables_of(optimizer: Any) -> list[Any]:
    found = optimizer.variables
    return [one.numpy() for one in (found() if callable(found) else found)]  # as in Keras 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model that was trained, and where it was saved at step 7."""
    folder = tmp_path_factory.mktemp("trained")
    model = keras_model()
    model.fit(XS, YS, epochs=2, verbose=0)
    objects = objects_of(model)
    objects["step"].assign(7)
    assert checkpoint.Manager(objects, folder).save() == f"{folder}/ckpt-7"
    return model, folder


def assert_equal(one: list[Any], other: list[Any]) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_and_its_optimizer_go_on(strict: bool, trained: tuple[Any, Path]) -> None:
    before, folder = trained
    model = keras_model()
    model.optimizer.build(model.trainable_variables)
    objects = objects_of(model)
    assert checkpoint.Manager(objects, folder, strict=strict).restore() == 7
    assert int(objects["step"]) == 7
    assert_equal(before.get_weights(), model.get_weights())
    assert len(variables_of(model.optimizer)) == len(variables_of(before.optimizer)) > 12
    assert_equal(variables_of(before.optimizer), variables_of(model.optimizer))


def test_what_is_not_built_yet_is_restored_when_it_is(trained: tuple[Any, Path]) -> None:
    before, folder = trained
    model = keras_model(is_built=False)
    with pytest.raises(SetupError, match="in the checkpoint only"):
        checkpoint.Manager(objects_of(model), folder, strict=True).restore()
    assert checkpoint.Manager(objects_of(model), folder).restore() == 7
    model(XS)
    model.optimizer.build(model.trainable_variables)
    assert_equal(before.get_weights(), model.get_weights())
    assert_equal(variables_of(before.optimizer), variables_of(model.optimizer))


def test_slots_of_old_optimizers_are_known(tmp_path: Path) -> None:
    def objects() -> dict[str, Any]:
        weight = tf.Variable([1.0, 2.0])
        optimizer = tf.compat.v1.train.AdamOptimizer(0.1)
        optimizer.minimize(lambda: tf.reduce_sum(weight**2), var_list=[weight])
        return {"weight": weight, "optimizer": optimizer}

    checkpoint.Manager(objects(), tmp_path).save(1)
    assert checkpoint.Manager(objects(), tmp_path, strict=True).restore() == 1


def test_another_model_is_told_how_it_differs(trained: tuple[Any, Path]) -> None:
    _, folder = trained
    model = keras_model(units=2)
    weights = model.get_weights()
    objects = {**objects_of(model), "fresh": tf.Variable(1.0)}
    with pytest.raises(SetupError) as raised:
        checkpoint.Manager(objects, folder).restore()
    lines = str(raised.value).splitlines()
    assert "ckpt-7 disagree, nothing was restored" in lines[0]
    assert lines[1].endswith("though the script has them: fresh")
    (shapes,) = (line for line in lines if "of another shape" in line)
    assert "last/kernel) has (5, 2), saved is (5, 3)" in shapes
    assert "last/bias) has (2,), saved is (3,)" in shapes
    assert_equal(weights, model.get_weights())


class Module(tf.Module):
    """Two variables, one of which is reached on two ways."""

    def __init__(self, value: float = 0.0, dtype: Any = tf.float32) -> None:
        super().__init__()
        self.alias = None
        self.values = [tf.Variable([value] * 50, dtype=dtype), tf.Variable([value] * 50)]
        self.alias = self.values[1]
        self.step = tf.Variable(int(value), dtype=tf.int64)

    def manager(self, folder: Path, **options: Any) -> checkpoint.Manager:
        return checkpoint.Manager({"module": self, "step": self.step}, folder, **options)

    def all_equal(self) -> float:
        values = {float(one) for value in self.values for one in value.numpy()}
        (value,) = values | {float(self.step)}
        return value


def test_a_module_of_another_dtype(tmp_path: Path) -> None:
    Module(3.0).manager(tmp_path).save()
    with pytest.raises(SetupError, match="values/0 has float64, saved is float32"):
        Module(9.0, tf.float64).manager(tmp_path).restore()


def test_a_variable_on_a_new_way_is_known_by_the_old_one(tmp_path: Path) -> None:
    module = Module(3.0)
    module.manager(tmp_path).save()
    other = Module(9.0)
    other.added = other.values[0]
    assert other.manager(tmp_path, strict=True).restore() == 3
    assert other.all_equal() == 3


@pytest.mark.parametrize("has_more", [False, True])
def test_every_byte_of_the_data_counts(has_more: bool, tmp_path: Path) -> None:
    # With `has_more` a part of the checkpoint is for an object that is not there yet.
    Module(1.0).manager(tmp_path).save()
    module = Module(2.0)
    more = {"more": tf.Variable(1.0)} if has_more else {}
    checkpoint.Manager({"module": module, "step": module.step, **more}, tmp_path).save()
    (path,) = tmp_path.glob("ckpt-2.data-*")
    whole = path.read_bytes()
    used = max(parse_index((tmp_path / "ckpt-2.index").read_bytes()).sizes)
    assert used == len(whole)
    other = Module(9.0)
    manager = other.manager(tmp_path)
    for at in range(0, used, used // 12):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert manager.restore() == 1, at
        assert other.all_equal() == 1
    path.write_bytes(whole)
    assert manager.restore() == 2
    assert other.all_equal() == 2


def parsed(data: bytes) -> Index | None:
    """Return what an index says; None if it is damaged."""
    try:
        return parse_index(data)
    except ValueError:
        return None


def test_every_byte_of_the_index_counts(tmp_path: Path) -> None:
    Module(1.0).manager(tmp_path).save()
    whole = (tmp_path / "ckpt-1.index").read_bytes()
    index = parse_index(whole)
    assert index.tensors["module/values/0/.ATTRIBUTES/VARIABLE_VALUE"].shape == (50,)
    noticed = 0
    for at in range(len(whole)):
        assert parsed(whole[:at]) is None
        found = parsed(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        assert found in (None, index)
        noticed += found is None
    # What remains is padding, and a block that nobody reads.
    assert noticed > len(whole) - 80


def test_the_last_step_counts_where_there_is_no_variable(tmp_path: Path) -> None:
    manager = checkpoint.Manager({"value": tf.Variable(1)}, tmp_path)
    assert [manager.save()[-1], manager.save()[-1], manager.save(8)[-1]] == ["1", "2", "8"]
    assert checkpoint.Manager({"value": tf.Variable(1)}, tmp_path).save().endswith("ckpt-9")


def test_each_kind_of_checkpoint_has_its_class(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("value", [1])
        session.run(v1.global_variables_initializer())
        saver = checkpoint.Saver(tmp_path / "graph", name="ckpt")
        saver.save(session, 1)
        objects = checkpoint.Saver(tmp_path / "objects", name="ckpt")
        with pytest.raises(UsageError, match="here is a graph"):
            checkpoint.Manager({}, tmp_path)
    Module(1.0).manager(tmp_path / "objects").save()
    with tf.Graph().as_default(), pytest.raises(SetupError) as raised:
        objects.restore(session)
    assert "checkpoint.Manager" in str(raised.value.hint)
    with pytest.raises(SetupError) as raised:
        Module(2.0).manager(tmp_path / "graph").restore()
    assert "checkpoint.Saver" in str(raised.value.hint)
    with pytest.raises(UsageError, match="runs eagerly"):
        checkpoint.Saver(tmp_path)
    with pytest.raises(UsageError, match="not what checkpoint"):
        checkpoint.Manager(Module(), tmp_path)
