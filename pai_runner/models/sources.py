"""What a SavedModel can be built from, and how each kind is told from the others."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.errors import UsageError
from pai_runner.models.signatures import Signature

# The packages that hold a Keras. Only one that the script has imported can have made its model.
_KERAS_PACKAGES = ("keras", "tf_keras")
# What Keras 3 calls an input without a name; the number changes from run to run.
_UNNAMED = re.compile(r"keras_tensor(_\d+)?")


class Kind(Enum):
    """The kinds of source, in words for messages."""

    SESSION = "a TensorFlow 1 session"
    KERAS = "a Keras model"
    ESTIMATOR = "an Estimator (with serving_input_fn)"
    FUNCTION = "a tf.function or a concrete function"
    OBJECT = "a tf.Module, tf.train.Checkpoint or other object that TensorFlow tracks"


def kind_of(source: Any) -> Kind:
    """Return which kind of source it is. Raises UsageError for one that is none."""
    if isinstance(source, tf1.Session | tf1.InteractiveSession) or _is_monitored(source):
        return Kind.SESSION
    if is_keras(source):
        return Kind.KERAS
    # Estimators are asked by name: TensorFlow from 2.16 on has none.
    if any(base.__module__.startswith("tensorflow_estimator.") for base in type(source).__mro__):
        return Kind.ESTIMATOR
    if hasattr(source, "get_concrete_function") or isinstance(
        source, tf.types.experimental.ConcreteFunction
    ):
        return Kind.FUNCTION
    if isinstance(source, tf.__internal__.tracking.AutoTrackable):
        return Kind.OBJECT
    kinds = "; ".join(kind.value for kind in Kind)
    raise UsageError(
        f"cannot export a value of type {type(source).__name__}. What can be exported: {kinds}",
        "a plain Python function becomes one by tf.function(…, input_signature=[…])",
    )


def is_keras(source: Any) -> bool:
    """Tell whether it is a model of Keras 2 or 3."""
    packages = [sys.modules[name] for name in _KERAS_PACKAGES if name in sys.modules]
    return any(isinstance(source, package.Model) for package in packages)


def raw_session(source: Any) -> Any:
    """Return the plain session of a session: a MonitoredSession holds one behind its hooks.

    None if that is closed. What is run in it is no step of the training: no hook sees it, and it
    can be run after the last step as well.
    """
    return source._tf_sess() if _is_monitored(source) else source


def keras_graph_signature(model: Any) -> Signature:
    """Return the signature of a Keras model that was built in a TensorFlow 1 graph."""
    if not getattr(model, "inputs", None):
        raise UsageError(_not_called(model))
    return Signature(
        dict(zip(model.input_names, model.inputs, strict=True)),
        dict(zip(model.output_names, model.outputs, strict=True)),
    )


def keras_signature(model: Any) -> Signature:
    """Return the signature of a Keras model: its inputs and outputs by their names.

    Input aliases are the keys of a dict of inputs, else the names of the inputs; output aliases
    are the keys of a dict of outputs, else the names of the output layers, else output_0 and so
    on. The batch dimension is None, and the model is called with training=False. Raises
    UsageError for a model that was not built yet, or whose inputs Keras does not know.
    """
    arguments = _arguments(model)
    _check_complete(model, arguments)
    flat = tf.nest.flatten(arguments)
    aliases = _input_aliases(model, arguments, flat)
    names = _output_names(model)

    def serve(**inputs: Any) -> dict[str, Any]:
        called = tf.nest.pack_sequence_as(arguments, [inputs[alias] for alias in aliases])
        result = model(*called, training=False)
        if isinstance(result, Mapping):
            return dict(result)
        tensors = tf.nest.flatten(result)
        usable = len(set(names)) == len(names) == len(tensors)
        chosen = names if usable else [f"output_{number}" for number in range(len(tensors))]
        return dict(zip(chosen, tensors, strict=True))

    specs = {
        alias: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype, name=alias)
        for alias, leaf in zip(aliases, flat, strict=True)
    }
    # Keras has traced its layers already; AutoGraph would only look at the lines above.
    return Signature(specs, tf.function(serve, autograph=False))


def _arguments(model: Any) -> tuple[Any, ...]:
    """Return the positional arguments of the model's call, as things with shape and dtype.

    Of a subclassed model Keras 3 keeps the shapes only. Its dtype for inputs is taken then,
    float32 by default, as Keras' own export does.
    """
    if getattr(model, "inputs", None):
        # Keras keeps the structure for a model of layers as `input`; for a Sequential it is one.
        return (model.input if hasattr(model, "input") else model.inputs[0],)
    if hasattr(model, "save_spec"):  # Keras 2
        specs = model.save_spec()
        if specs is not None:
            return tuple(specs[0])
    elif model.built:
        config = model.get_build_config() or {}
        shapes = config.get("shapes_dict") or {"": config.get("input_shape")}
        if all(shapes.values()):
            return tuple(
                _specs(shape, model.input_dtype, name.removesuffix("_shape"))
                for name, shape in shapes.items()
            )
    raise UsageError(_not_called(model))


def _check_complete(model: Any, arguments: tuple[Any, ...]) -> None:
    """Check that the model can be called so: Keras 3 may remember the first argument alone."""
    try:
        inspect.signature(model.call).bind(*arguments)
    except TypeError as error:
        raise UsageError(
            f"Keras did not note all that the model {model.name} takes: {error}. "
            "Give signatures with tf.TensorSpecs"
        ) from error


def _specs(shapes: Any, dtype: str, name: str) -> Any:
    """Return the specs for a structure of shapes, as Keras 3 keeps it."""
    if isinstance(shapes, Mapping):
        return {key: _specs(shape, dtype, key) for key, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return tf.TensorSpec(shapes, dtype, name=name or None)
    return type(shapes)(_specs(shape, dtype, "") for shape in shapes)


def _input_aliases(model: Any, arguments: tuple[Any, ...], flat: list[Any]) -> list[str]:
    if len(arguments) == 1 and isinstance(arguments[0], Mapping):
        names: list[Any] = sorted(arguments[0])  # the order in which tf.nest flattens it
    else:
        names = [getattr(leaf, "name", None) for leaf in flat]
    named = [
        _as_parameter(str(name).partition(":")[0])
        if name and not _UNNAMED.fullmatch(str(name))
        else ("inputs" if len(flat) == 1 else f"input_{number}")
        for number, name in enumerate(names)
    ]
    if len(set(named)) == len(named) == len(flat):
        return named
    return [f"input_{number}" for number in range(len(flat))]


def _as_parameter(name: str) -> str:
    """Return `name` as TensorFlow renames it: aliases of functions are names of Python."""
    renamed = re.sub(r"\W", "_", name, flags=re.ASCII)
    return renamed if renamed[:1].isalpha() else f"arg_{renamed}"


def _output_names(model: Any) -> list[str]:
    if getattr(model, "output_names", None):
        return list(model.output_names)
    layers = getattr(model, "layers", [])
    # Keras 3's Sequential keeps no names of outputs; its output is that of its last layer.
    is_sequential = any(base.__name__ == "Sequential" for base in type(model).__mro__)
    return [layers[-1].name] if is_sequential and layers else []


def _not_called(model: Any) -> str:
    return (
        f"the Keras model {model.name} was never called: its inputs are not known. "
        "Call it once on data, or give signatures with tf.TensorSpecs"
    )


def _is_monitored(source: Any) -> bool:
    kinds = (tf1.train.MonitoredSession, tf1.train.SingularMonitoredSession)
    return isinstance(source, kinds)
