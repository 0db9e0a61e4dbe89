"""Loads a SavedModel from a local folder, and says which file or name is wrong when it cannot."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.errors import SetupError, UsageError
from pai_runner.models.loaded import Loaded, LoadedSignature
from pai_runner.models.manifest import ENTRIES, entry_of
from pai_runner.models.proto import parse_saved_model
from pai_runner.models.signatures import SERVE, Tensor
from pai_runner.models.tensors import problem_of

__all__ = ["Loaded", "load_folder"]

_INDEX = "variables/variables.index"
_DATA = re.compile(r"variables\.data-\d{5}-of-\d{5}")
# Signatures that TensorFlow writes for itself, and the one that initializes a model.
_INTERNAL = "__saved_model_"
_INIT_OP = "__saved_model_init_op"
# What a checkpoint's reader raises for files that it cannot read.
_READER_ERRORS = (ValueError, RuntimeError, LookupError, OSError, tf.errors.OpError)
_EXPORT_AGAIN = "export the model again as a new version"


def load_folder(folder: str, shown: str, tags: Collection[str] = (SERVE,)) -> Loaded:
    """Load the SavedModel in the local `folder`; `shown` is its location for messages.

    It runs in a graph and a session of its own, as in TensorFlow Serving: whichever TensorFlow
    wrote it, whether this process executes eagerly or builds a graph, and without touching that
    graph. Raises UsageError for tags that it does not have, and SetupError, which names the file,
    for one that is damaged.
    """
    entry, model = _read(folder, shown)
    meta_graph = _meta_graph(model, shown, tags)
    files = _Files(folder, shown, entry, meta_graph)
    files.check_presence()
    graph = tf1.Graph()
    # The machine that wrote it may have had devices that this one has not.
    session = tf1.Session(graph=graph, config=tf1.ConfigProto(allow_soft_placement=True))
    try:
        with graph.as_default():
            _load(meta_graph, session, files)
        signatures = _signatures(meta_graph, session, files)
    except BaseException:
        session.close()
        raise
    return Loaded(shown, session, signatures)


def _read(folder: str, shown: str) -> tuple[str, Any]:
    """Return the name of the file that holds the graphs, for messages, and what is in it."""
    name = entry_of(os.listdir(folder)) if os.path.isdir(folder) else ""
    if not name:
        raise SetupError(
            f"{shown} is no SavedModel: it has no {' or '.join(ENTRIES)}",
            "name the directory of a model; it may have been removed, or not be written yet",
        )
    entry = f"{shown.rstrip('/')}/{name}"
    with open(os.path.join(folder, name), "rb") as file:
        return entry, parse_saved_model(file.read(), entry)


def _meta_graph(model: Any, shown: str, tags: Collection[str]) -> Any:
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return meta_graph
    present = "; ".join(", ".join(sorted(one.meta_info_def.tags)) for one in model.meta_graphs)
    raise UsageError(
        f"{shown} has no MetaGraph with the tags {', '.join(sorted(tags))}. Its tags: {present}"
    )


def _load(meta_graph: Any, session: Any, files: _Files) -> None:
    """Import, restore and initialize, in the order of TensorFlow's own loaders."""
    try:
        saver = tf1.train.import_meta_graph(meta_graph)
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise SetupError(
            f"{files.entry} holds a graph that TensorFlow {tf.__version__} cannot read: "
            f"{files.problem(error)}",
            "it is damaged, or uses operations that this TensorFlow does not have",
        ) from error
    if saver is not None:
        try:
            saver.restore(session, files.variables)
        except (ValueError, tf.errors.OpError) as error:
            raise files.damaged_variables(error) from error
    try:
        operation = _main_op(meta_graph, session.graph)
        if operation is not None:
            session.run(operation, files.assets)
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise SetupError(
            f"{files.shown} cannot be initialized: {files.problem(error)}",
            "its tables come from its assets and its graph: is one of these files damaged? "
            + (", ".join(files.shown_assets) or "it has no assets"),
        ) from error


def _main_op(meta_graph: Any, graph: Any) -> Any:
    """Return the operation that initializes the model, or None (loader_impl.get_init_op)."""
    definition = meta_graph.signature_def
    if _INIT_OP in definition:
        return graph.as_graph_element(definition[_INIT_OP].outputs[_INIT_OP].name)
    for name in ("saved_model_main_op", "legacy_init_op"):
        for operation in graph.get_collection(name):
            return operation
    return None


@dataclass(frozen=True)
class _Files:
    """The files of a model on the local disk, and how messages name them."""

    folder: str
    shown: str
    entry: str
    meta_graph: Any

    @property
    def variables(self) -> str:
        """The checkpoint's prefix."""
        return os.path.join(self.folder, "variables", "variables")

    @property
    def assets(self) -> dict[str, str]:
        """The paths of the assets by the tensors that hold them."""
        return {
            asset.tensor_info.name: os.path.join(self.folder, "assets", asset.filename)
            for asset in _assets(self.meta_graph)
        }

    @property
    def shown_assets(self) -> list[str]:
        return [self._name(f"assets/{asset.filename}") for asset in _assets(self.meta_graph)]

    def check_presence(self) -> None:
        """Check that no file is missing. Raises SetupError.

        TensorFlow itself takes a model without an index for one without variables.
        """
        names = [f"assets/{asset.filename}" for asset in _assets(self.meta_graph)]
        if self.meta_graph.HasField("saver_def"):
            names.append(_INDEX)
        for name in names:
            if not os.path.isfile(os.path.join(self.folder, name)):
                raise self._wrong(name, "is missing")

    def damaged_variables(self, error: Exception) -> SetupError:
        """Return the error that names the damaged file of the checkpoint."""
        problem = self.problem(error)
        try:
            reader = tf.train.load_checkpoint(self.variables)
            names = list(reader.get_variable_to_shape_map())
        except _READER_ERRORS as wrong:
            return self._wrong(_INDEX, f"is damaged: {self.problem(wrong)}")
        for name in names:
            try:
                reader.get_tensor(name)
            except _READER_ERRORS as wrong:
                return self._damaged_data(f"{name}: {self.problem(wrong)}")
        # All there is can be read: something that the graph needs is not there.
        return self._wrong(_INDEX, f"does not fit {self.entry}: {problem}")

    def _damaged_data(self, problem: str) -> SetupError:
        """Return the error for a tensor that cannot be read; TensorFlow may name its file."""
        folder = os.path.join(self.folder, "variables")
        named = _DATA.search(problem)
        if named and not os.path.exists(os.path.join(folder, named[0])):
            return self._wrong(f"variables/{named[0]}", "is missing")
        there = sorted(filter(_DATA.fullmatch, os.listdir(folder)))
        which = [named[0]] if named else there
        return self._wrong(f"variables/{' or '.join(which)}", f"is damaged: {problem}")

    def problem(self, error: Exception) -> str:
        """Return what TensorFlow says is wrong, with the location for the folder here."""
        return problem_of(error).replace(self.folder, self.shown.rstrip("/"))

    def _wrong(self, name: str, what: str) -> SetupError:
        return SetupError(f"{self._name(name)} {what}", _EXPORT_AGAIN)

    def _name(self, name: str) -> str:
        return f"{self.shown.rstrip('/')}/{name}"


def _assets(meta_graph: Any) -> list[Any]:
    """Return the AssetFileDefs; TensorFlow 1's builder keeps them in a collection."""
    from tensorflow.core.protobuf import meta_graph_pb2

    found = list(meta_graph.asset_file_def)
    if not found and "saved_model_assets" in meta_graph.collection_def:
        for packed in meta_graph.collection_def["saved_model_assets"].any_list.value:
            asset = meta_graph_pb2.AssetFileDef()
            packed.Unpack(asset)
            found.append(asset)
    return found


def _signatures(meta_graph: Any, session: Any, files: _Files) -> dict[str, LoadedSignature]:
    try:
        return {
            name: _signature(name, definition, session)
            for name, definition in meta_graph.signature_def.items()
            if not name.startswith(_INTERNAL)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{files.entry} has a signature that its graph does not fit: {files.problem(error)}",
            _EXPORT_AGAIN,
        ) from error


def _signature(name: str, definition: Any, session: Any) -> LoadedSignature:
    inputs = {alias: _tensor(info) for alias, info in sorted(definition.inputs.items())}
    outputs = {alias: _tensor(info) for alias, info in sorted(definition.outputs.items())}
    defaults = {alias: tf.make_ndarray(proto) for alias, proto in definition.defaults.items()}
    if all(tensor.name for tensor in (*inputs.values(), *outputs.values())):
        element = session.graph.as_graph_element
        run = session.make_callable(
            [element(tensor.name) for tensor in outputs.values()],
            feed_list=[element(tensor.name) for tensor in inputs.values()],
        )
    else:
        run = _refused(name)
    return LoadedSignature(name, definition.method_name, inputs, outputs, defaults, run)


def _refused(name: str) -> Callable[..., Sequence[Any]]:
    def run(*_: Any) -> Sequence[Any]:
        raise UsageError(
            f"signature {name} has sparse or composite tensors, and only arrays are taken here",
            "load the model by tf.compat.v1.saved_model.loader.load to call it",
        )

    return run


def _tensor(info: Any) -> Tensor:
    shape = info.tensor_shape
    sizes = [dimension.size if dimension.size >= 0 else None for dimension in shape.dim]
    return Tensor(
        info.name, tf.as_dtype(info.dtype).name, None if shape.unknown_rank else tuple(sizes)
    )
