"""Builds a SavedModel from a TensorFlow 1 session: from its graph and its variables' values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.signatures import (
    MetaGraph,
    Signature,
    Tensor,
    as_signature,
    check_signature,
    full_method,
)
from pai_runner.models.tensors import describe, problem_of


def build_session(
    session: Any,
    folder: str,
    metas: Sequence[MetaGraph],
    assets: Sequence[str],
    main_op: Any,
    clear_devices: bool,
) -> None:
    """Write the graphs `metas`, of which the first is the session's own, and its variables.

    The graph gets a few operations more, for saving and initializing, at the first export; a
    graph that was finalized is so again afterwards. Raises UsageError for
    wrong signatures, before anything is written, and SetupError for variables without a value.
    """
    graphs = [meta.graph or session.graph for meta in metas]
    signatures = [
        _signature_defs(meta.signatures, graph) for meta, graph in zip(metas, graphs, strict=True)
    ]
    for meta, graph in zip(metas[1:], graphs[1:], strict=True):
        _check_same_variables(meta, graph, session.graph)
    builder = tf1.saved_model.Builder(folder)
    for number, (meta, graph) in enumerate(zip(metas, graphs, strict=True)):
        with _open(graph):
            shared: dict[str, Any] = {
                "signature_def_map": signatures[number],
                "assets_collection": _asset_tensors(
                    graph, assets if graph is session.graph else ()
                ),
                "clear_devices": clear_devices,
                "strip_default_attrs": True,  # older servers do not know newer attributes
                "main_op": main_op if main_op is not None and not number else _main_op(graph),
                "saver": _saver(graph),
            }
            if number:
                builder.add_meta_graph(list(meta.tags), **shared)
            else:
                _save_first(builder, session, list(meta.tags), shared)
    builder.save()


def _save_first(builder: Any, session: Any, tags: list[str], shared: Mapping[str, Any]) -> None:
    try:
        builder.add_meta_graph_and_variables(session, tags, **shared)
    except tf.errors.FailedPreconditionError as error:
        raise SetupError(
            f"a variable of the session has no value yet: {problem_of(error)}",
            "run tf.compat.v1.global_variables_initializer() or restore a checkpoint first",
        ) from error


# Where a graph keeps what exports have added to it. TensorFlow leaves keys that are no texts out
# of the MetaGraphs that it writes.
_ADDED = ("pai_runner", "added by exports")


def _added(graph: Any, what: str, names: Iterable[str], make: Callable[[], Any]) -> Any:
    """Return what `make` adds to the graph for `names`; the next export finds it there."""
    kept = dict(graph.get_collection(_ADDED))
    key = what, tuple(names)
    if key not in kept:
        kept[key] = make()
        graph.add_to_collection(_ADDED, (key, kept[key]))
    return kept[key]


def _saver(graph: Any) -> Any:
    """Return the Saver for all variables, as the builder would make one at each export."""
    kinds = (tf1.GraphKeys.GLOBAL_VARIABLES, tf1.GraphKeys.SAVEABLE_OBJECTS)
    names = [one.name for kind in kinds for one in graph.get_collection(kind)]
    return _added(
        graph,
        "saver",
        names,
        lambda: tf1.train.Saver(sharded=True, max_to_keep=None, allow_empty=True),
    )


# What the builder notes in the graph itself, and would find there the next time.
_NOTES = ("saved_model_main_op", "legacy_init_op", "saved_model_assets")


@contextmanager
def _open(graph: Any) -> Iterator[None]:
    """Make `graph` the default, and one that can be added to, as long as the block runs.

    It can be exported again then: the builder's notes are taken off it.
    """
    was_finalized = graph.finalized
    if was_finalized:
        # A MonitoredSession finalizes its graph. The operations for saving must go into it, for
        # the values are in its session; TensorFlow has no public name for this.
        graph._unsafe_unfinalize()
    before = {name: graph.get_collection(name) for name in _NOTES}
    try:
        for name in _NOTES:
            graph.clear_collection(name)
        with graph.as_default():
            yield
    finally:
        for name, values in before.items():
            graph.clear_collection(name)
            for value in values:
                graph.add_to_collection(name, value)
        if was_finalized:
            graph.finalize()


def _main_op(graph: Any) -> Any:
    """Return what a loaded graph runs after its variables are restored, or None.

    Tables and local variables are not in a checkpoint: they are initialized, as Estimators'
    exports do.
    """
    kinds = (tf1.GraphKeys.TABLE_INITIALIZERS, tf1.GraphKeys.LOCAL_VARIABLES)
    names = [one.name for kind in kinds for one in graph.get_collection(kind)]
    if not names:
        return None
    return _added(
        graph,
        "main op",
        names,
        lambda: tf1.group(tf1.tables_initializer(), tf1.local_variables_initializer()),
    )


def _asset_tensors(graph: Any, assets: Sequence[str]) -> list[Any]:
    """Return the graph's own assets, such as tables' files, and one for each further path."""
    return [
        *graph.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
        *(_asset_tensor(graph, path) for path in assets),
    ]


def _asset_tensor(graph: Any, path: str) -> Any:
    return _added(graph, "asset", [path], lambda: tf1.constant(path, name="asset_path"))


def _signature_defs(signatures: Mapping[str, Any], graph: Any) -> dict[str, Any]:
    """Return the protos of the signatures. Raises UsageError for what is not of the graph."""
    protos = {}
    for name, value in signatures.items():
        signature = as_signature(name, value)
        _check_maps(name, signature)
        inputs = _tensors(name, signature.inputs, graph)
        outputs = _tensors(name, signature.outputs, graph)
        check_signature(name, signature.method, _described(inputs), _described(outputs))
        protos[name] = tf1.saved_model.build_signature_def(
            inputs={alias: _info(tensor) for alias, tensor in inputs.items()},
            outputs={alias: _info(tensor) for alias, tensor in outputs.items()},
            method_name=full_method(signature.method),
        )
    return protos


def _check_maps(name: str, signature: Signature) -> None:
    for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if not isinstance(tensors, Mapping):
            raise UsageError(
                f"signature {name}: its {side} are of type {type(tensors).__name__}. With a "
                "session they map aliases to tensors, for example {'images': x}"
            )


def _tensors(name: str, tensors: Mapping[str, Any], graph: Any) -> dict[str, Any]:
    """Return the tensors of the graph that are meant: tensors, variables, or names."""
    found = {}
    for alias, tensor in tensors.items():
        if isinstance(tensor, tf1.SparseTensor):
            found[alias] = tensor
            continue
        try:
            found[alias] = graph.as_graph_element(tensor, allow_operation=False)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(
                f"signature {name}: {alias} is not a tensor of the graph: {tensor!r}"
            ) from error
    return found


def _info(tensor: Any) -> Any:
    """Return the TensorInfo proto; TensorFlow's own function for it warns that it is of v1."""
    from tensorflow.core.protobuf import meta_graph_pb2

    info = meta_graph_pb2.TensorInfo(
        dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.get_shape().as_proto()
    )
    if isinstance(tensor, tf1.SparseTensor):
        info.coo_sparse.values_tensor_name = tensor.values.name
        info.coo_sparse.indices_tensor_name = tensor.indices.name
        info.coo_sparse.dense_shape_tensor_name = tensor.dense_shape.name
    else:
        info.name = tensor.name
    return info


def _described(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {alias: describe(tensor, alias) for alias, tensor in tensors.items()}


def _check_same_variables(meta: MetaGraph, graph: Any, first: Any) -> None:
    """Check that the first graph has the variables of a further one: it alone saves values."""
    if graph is first:
        return
    saved = _variables(first)
    for name, (dtype, shape) in _variables(graph).items():
        if saved.get(name) != (dtype, shape):
            there = saved.get(name)
            has = f"has it as {there[0]} {there[1]}" if there else "has none of that name"
            raise UsageError(
                f"the MetaGraph with tags {', '.join(meta.tags)} has the variable {name}, "
                f"{dtype} {shape}; the session's graph, whose values are saved, {has}"
            )


def _variables(graph: Any) -> dict[str, tuple[str, str]]:
    variables = graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)
    return {
        variable.op.name: (variable.dtype.base_dtype.name, str(variable.shape))
        for variable in variables
    }
