"""Builds a SavedModel from functions of TensorFlow 2 and the objects that hold their variables."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow.compat.v2 as tf

from pai_runner.errors import UsageError
from pai_runner.models.signatures import (
    DEFAULT_NAME,
    Signature,
    Tensor,
    as_signature,
    check_signature,
    full_method,
)
from pai_runner.models.sources import Kind, keras_signature
from pai_runner.models.tensors import describe

# Under this name of the saved object its assets are tracked.
_ASSETS = "export_assets"


def build_functions(
    source: Any,
    kind: Kind,
    folder: str,
    signatures: Mapping[str, Any] | None,
    assets: Sequence[str],
) -> dict[str, str]:
    """Write `source` by tf.saved_model.save; return the full method names by signature.

    TensorFlow writes the method predict for all of them: the caller puts in the others. An
    object is saved as it is. Of a Keras model and of functions the variables and tables are
    saved that the signatures use: each once, and no optimizer. Raises UsageError.
    """
    if not tf.executing_eagerly():
        raise UsageError(
            f"{kind.value} can be exported only where TensorFlow executes eagerly, and here it "
            "builds a graph",
            "export the session that holds the variables, or run the script as TensorFlow 2",
        )
    wanted = _signatures(source, kind, signatures)
    concrete = {name: _traced(name, signature) for name, signature in wanted.items()}
    for name, function in concrete.items():
        inputs, outputs = _described_inputs(function), _described_outputs(name, function)
        check_signature(name, wanted[name].method, inputs, outputs)
    root = source
    if kind is not Kind.OBJECT:
        holders = [source, *(signature.outputs for signature in wanted.values())]
        root = _root(concrete.values(), holders)
    with _tracked(root, assets):
        _save(root, folder, concrete, type(source).__name__)
    return {name: full_method(signature.method) for name, signature in wanted.items()}


def _signatures(
    source: Any, kind: Kind, signatures: Mapping[str, Any] | None
) -> dict[str, Signature]:
    if signatures:
        return {name: as_signature(name, value) for name, value in signatures.items()}
    if kind is Kind.KERAS:
        return {DEFAULT_NAME: keras_signature(source)}
    if kind is Kind.FUNCTION:
        return {DEFAULT_NAME: Signature({}, source)}
    raise UsageError(
        f"signatures are missing: a {type(source).__name__} does not say which of its functions "
        "a server may call",
        "give signatures={'serving_default': the_module.a_function}",
    )


def _traced(name: str, signature: Signature) -> Any:
    """Return the concrete function of a signature. Raises UsageError where its inputs are unknown.

    What goes wrong within the function itself is raised as it is.
    """
    function, specs = signature.outputs, signature.inputs
    if not callable(function):
        raise UsageError(
            f"signature {name}: its outputs are of type {type(function).__name__}. With this "
            "kind of source they are a function, and the inputs map its parameters to tf.TensorSpec"
        )
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return function
    if specs:
        if not hasattr(function, "get_concrete_function"):
            function = tf.function(function)
        return function.get_concrete_function(
            **{alias: _named(name, alias, spec) for alias, spec in specs.items()}
        )
    if getattr(function, "input_signature", None) is None:
        raise UsageError(
            f"signature {name}: {getattr(function, '__name__', function)!s} does not say what it "
            "takes",
            "give tf.function an input_signature, or the signature as "
            "({parameter: tf.TensorSpec(shape, dtype)}, function)",
        )
    return function.get_concrete_function()


def _named(name: str, alias: str, spec: Any) -> Any:
    if not isinstance(spec, tf.TypeSpec):
        raise UsageError(
            f"signature {name}: the input {alias} is of type {type(spec).__name__}. With this "
            "kind of source an input is a tf.TensorSpec"
        )
    # A spec's own name would replace the alias.
    is_dense = isinstance(spec, tf.TensorSpec)
    return tf.TensorSpec(spec.shape, spec.dtype, name=alias) if is_dense else spec


def _described_inputs(function: Any) -> dict[str, Tensor]:
    specs = tf.nest.flatten(function.structured_input_signature)
    dense = [spec for spec in specs if isinstance(spec, tf.TensorSpec)]
    return {str(spec.name): describe(spec) for spec in dense}


def _described_outputs(name: str, function: Any) -> dict[str, Tensor]:
    """Return the outputs by the aliases that TensorFlow gives them (signature_serialization).

    Raises UsageError for one that is no tensor.
    """
    outputs = function.structured_outputs
    if not isinstance(outputs, Mapping):
        flat = [] if outputs is None else tf.nest.flatten(outputs)
        outputs = {f"output_{number}": output for number, output in enumerate(flat)}
    for alias, output in outputs.items():
        if not hasattr(output, "dtype"):
            raise UsageError(
                f"signature {name}: the output {alias} is of type {type(output).__name__}. "
                "A function returns tensors, or tensors by alias"
            )
    return {str(alias): describe(output, str(alias)) for alias, output in outputs.items()}


def _root(functions: Iterable[Any], holders: Iterable[Any]) -> Any:
    """Return an object that tracks the variables that `functions` use, and the tables of `holders`.

    A variable keeps its name, so that the checkpoint says what is what: `weights/dense/kernel`.
    """
    variables = {id(one): one for function in functions for one in function.variables}
    root = tf.Module()
    root.weights = _by_name(variables.values())
    root.tables = _tables(holders)
    return root


def _by_name(variables: Iterable[Any]) -> dict[str, Any]:
    """Return the variables in nested dicts, by the parts of their names, each made unique."""
    tree: dict[str, Any] = {}
    for variable in variables:
        *parents, name = [part for part in variable.name.partition(":")[0].split("/") if part]
        node = tree
        for parent in parents:
            node = node.setdefault(_free(node, parent, dict), {})
        node[_free(node, name, None)] = variable
    return tree


def _free(node: Mapping[str, Any], name: str, kind: type | None) -> str:
    """Return `name`, with a number when something else than a `kind` has it already."""
    number, free = 0, name
    while free in node and (kind is None or not isinstance(node[free], kind)):
        number += 1
        free = f"{name}_{number}"
    return free


def _tables(holders: Iterable[Any]) -> list[Any]:
    """Return the tables and other resources that the holders refer to.

    A function captures a table as a bare handle: whose it is can only be found from what the
    Python code names.
    """
    tables: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = list(holders)
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        code = getattr(holder, "python_function", holder)
        if inspect.isroutine(code):
            waiting += _named_by(code)
            continue
        shelf = tf.Module()
        shelf.held = holder  # takes objects, and lists and dicts of them
        for one in tf.train.TrackableView(shelf).descendants():
            if isinstance(one, tf.saved_model.experimental.TrackableResource):
                tables[id(one)] = one
    return list(tables.values())


def _named_by(code: Any) -> list[Any]:
    """Return what a function of Python refers to, apart from modules and classes."""
    try:
        names = inspect.getclosurevars(code)
    except TypeError:  # not written in Python
        return []
    values = [*names.nonlocals.values(), *names.globals.values(), getattr(code, "__self__", None)]
    return [one for one in values if not (inspect.ismodule(one) or inspect.isclass(one))]


@contextmanager
def _tracked(root: Any, assets: Sequence[str]) -> Iterator[None]:
    """Let `root` track the files `assets` as long as the block runs."""
    if not assets:
        yield
        return
    setattr(root, _ASSETS, [tf.saved_model.Asset(path) for path in assets])
    try:
        yield
    finally:
        delattr(root, _ASSETS)


def _save(root: Any, folder: str, concrete: Mapping[str, Any], source: str) -> None:
    try:
        tf.saved_model.save(root, folder, signatures=dict(concrete))
    except AssertionError as error:
        if "untracked" not in str(error):
            raise
        raise UsageError(
            f"a signature uses a variable or table that the {source} does not hold",
            "make it an attribute of the tf.Module or tf.train.Checkpoint that is exported",
        ) from error
