"""Builds SavedModels: one function for what TensorFlow 1 and 2 each have several of."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.building_functions import build_functions
from pai_runner.models.building_graphs import build_session
from pai_runner.models.signatures import DEFAULT_NAME, SERVE, MetaGraph
from pai_runner.models.sources import Kind, keras_graph_signature, kind_of, raw_session

# TensorFlow's savers place their own operations so, on whatever machine loads the model.
_ANY_CPU = "/device:CPU:"


def build(
    source: Any,
    folder: str,
    *,
    signatures: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (SERVE,),
    assets: Sequence[str | os.PathLike[str]] = (),
    main_op: Any = None,
    clear_devices: bool = True,
    meta_graphs: Sequence[MetaGraph] = (),
    serving_input_fn: Any = None,
) -> None:
    """Write a complete SavedModel to the local `folder`, which must not exist yet.

    `source` is one of these (see `Kind`), and `signatures` maps names to:

    - a session: `Signature`, or `(inputs, outputs[, method])`, of tensors by alias. `main_op` is
      run when the model is loaded, by default the initializers of tables and local variables.
      `meta_graphs` adds further graphs by their tags, with the variables of the first.
    - a Keras model: nothing, for one signature `serving_default` with the names of the model's
      inputs and output layers; or what functions have.
    - a function with an input signature, a tf.Module or another tracked object: a function;
      `(function, method)`; or `({parameter: tf.TensorSpec}, function[, method])`.
    - an Estimator, with `serving_input_fn`: nothing; its model_fn says what it exports.

    `assets` are files that are kept in `assets/`, beside those of the tables: in the session's
    collection of assets, or tracked as tf.saved_model.Asset. `clear_devices` leaves it to the
    machine that loads the model where its operations run. Raises UsageError for arguments that
    do not fit, before anything is written, and SetupError; then `folder` does not exist.
    """
    if os.path.lexists(folder):
        raise SetupError(f"{folder} exists already: a model is not written over another")
    kind = kind_of(source)
    _check_tags([tags, *(meta.tags for meta in meta_graphs)])
    for_sessions = {"main_op": main_op, "meta_graphs": meta_graphs or None}
    _check_options(kind, signatures, serving_input_fn, for_sessions)
    paths = _asset_paths(kind, assets)
    try:
        methods: Mapping[str, str] = {}
        if kind is Kind.ESTIMATOR:
            _build_estimator(source, folder, serving_input_fn)
        elif kind is Kind.SESSION or (kind is Kind.KERAS and not tf.executing_eagerly()):
            session, chosen = _session_of(source, kind, signatures)
            metas = [MetaGraph(tuple(tags), chosen), *meta_graphs]
            build_session(session, folder, metas, paths, main_op, clear_devices)
        else:
            methods = build_functions(source, kind, folder, signatures, paths)
        _finish(folder, tags, methods, clear_devices)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_tags(tag_sets: Sequence[Sequence[str]]) -> None:
    for tags in tag_sets:
        if isinstance(tags, str) or not tags or not all(tags):
            raise UsageError(f"tags {tags!r}: give a list of at least one tag, usually ['serve']")
    if len({frozenset(tags) for tags in tag_sets}) < len(tag_sets):
        raise UsageError("two MetaGraphs have the same tags: a loader could not choose")


def _check_options(
    kind: Kind,
    signatures: Mapping[str, Any] | None,
    serving_input_fn: Any,
    for_sessions: Mapping[str, Any],
) -> None:
    """Check that the kind of source takes the arguments that are given. Raises UsageError."""
    is_estimator = kind is Kind.ESTIMATOR
    if serving_input_fn is not None and not is_estimator:
        gone = "" if hasattr(tf1, "estimator") else "; TensorFlow has no Estimators from 2.16 on"
        raise UsageError(f"serving_input_fn is for Estimators; the source is {kind.value}{gone}")
    if serving_input_fn is None and is_estimator:
        raise UsageError("serving_input_fn is missing: an Estimator is exported with one")
    if signatures and is_estimator:
        raise UsageError("an Estimator's model_fn says which signatures it exports: leave them out")
    if kind is Kind.SESSION:
        if not signatures:
            raise UsageError(
                "signatures are missing: a session does not say which of its tensors are served",
                "give signatures={'serving_default': ({'images': x}, {'scores': y})}",
            )
        return
    for name, value in for_sessions.items():
        if value is not None:
            raise UsageError(f"{name} is for sessions; the source is {kind.value}")


def _asset_paths(kind: Kind, assets: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the assets as text. Raises UsageError, and SetupError for one that is not there."""
    if isinstance(assets, str | os.PathLike):
        assets = [assets]
    paths = [os.fspath(path) for path in assets or ()]
    if paths and kind is Kind.ESTIMATOR:
        raise UsageError("an Estimator exports the assets of its own graph: leave assets out")
    names: dict[str, str] = {}
    for path in paths:
        if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
            raise SetupError(f"the asset {path} is not a file")
        name = os.path.basename(path)
        if names.setdefault(name, path) != path:
            raise UsageError(
                f"two assets would both be assets/{name}: {names[name]} and {path}",
                "rename one of them",
            )
    return list(names.values())


def _session_of(
    source: Any, kind: Kind, signatures: Mapping[str, Any] | None
) -> tuple[Any, Mapping[str, Any]]:
    """Return the session that holds the values, and the signatures to export."""
    if kind is Kind.SESSION:
        session = raw_session(source)
        if session is None:
            raise SetupError("the session is closed", "export before its `with` block ends")
        return session, signatures or {}
    chosen = signatures or {DEFAULT_NAME: keras_graph_signature(source)}
    return tf1.keras.backend.get_session(), chosen


def _build_estimator(estimator: Any, folder: str, serving_input_fn: Any) -> None:
    """Let the Estimator write into a folder of its own, then move what it wrote."""
    parent = os.path.dirname(os.path.abspath(folder))
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        written = estimator.export_saved_model(temporary, serving_input_fn)
        os.rename(os.fsdecode(written), folder)


def _finish(
    folder: str, tags: Sequence[str], methods: Mapping[str, str], clear_devices: bool
) -> None:
    """Put into saved_model.pb what TensorFlow's writers do not write as it was asked for.

    They give all functions the method predict, and the tag serve, and leave devices in functions.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = os.path.join(folder, "saved_model.pb")
    with open(path, "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    first = model.meta_graphs[0]
    is_changed = False
    if set(first.meta_info_def.tags) != set(tags):
        first.meta_info_def.tags[:] = tags
        is_changed = True
    for name, method in methods.items():
        is_changed |= first.signature_def[name].method_name != method
        first.signature_def[name].method_name = method
    if clear_devices:
        cleared = [_clear_devices(one.graph_def) for one in model.meta_graphs]
        is_changed |= any(cleared)
    if not is_changed:
        return
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
    # It is of the file as it was. Loaders do without one.
    fingerprint = os.path.join(folder, "fingerprint.pb")
    if os.path.exists(fingerprint):
        os.unlink(fingerprint)


def _clear_devices(graph: Any) -> bool:
    """Clear the devices of the graph and its functions; tell whether there were any."""
    functions = (function.node_def for function in graph.library.function)
    placed = [
        node
        for nodes in (graph.node, *functions)
        for node in nodes
        if node.device and not node.device.startswith(_ANY_CPU)
    ]
    for node in placed:
        node.device = ""
    return bool(placed)
