"""What is in a SavedModel, without loading it and without reading its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pai_runner.errors import SetupError
from pai_runner.models.manifest import MANIFEST, Manifest, entry_of, read_manifest
from pai_runner.models.place import Entry, Place
from pai_runner.models.proto import read_saved_model, type_name
from pai_runner.models.structure import public_signatures, shape_of, signatures_of

if TYPE_CHECKING:
    from pai_runner.models.checkpoint_index import Tensor

# Of the variables so many are listed.
LARGEST = 20

_INDEX = "variables/variables.index"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# What TensorFlow calls a variable to which the script gave no name.
_UNNAMED = "Variable"
_PARTS = ("variables", "assets", "assets.extra")


def describe(place: Place) -> dict[str, Any]:
    """Return what the SavedModel at `place` is, as plain data.

    `meta_graphs`: for each its tags, TensorFlow version, signatures (method; inputs and outputs
    by alias with dtype, shape and tensor) and their model structures in EAS's form (`eas`).
    `bytes`: size by part. `variables`: count, size in bytes and the largest ones; None where the
    model has none. `manifest`: what was noted when it was published, or None. Only
    saved_model.pb or .pbtxt, the index of the variables and the manifest are read. Raises
    SetupError for what is no SavedModel or is damaged, OSError.
    """
    model = read_saved_model(place)
    files = place.find()
    return {
        "location": place.prefix,
        "file": entry_of(files),
        "meta_graphs": [_meta_graph(one) for one in model.meta_graphs],
        "files": len(files),
        "bytes": _sizes(files),
        "variables": _variables(place, files, model),
        "manifest": _manifest(read_manifest(place) if MANIFEST in files else None),
    }


def _meta_graph(meta_graph: Any) -> dict[str, Any]:
    info, graph = meta_graph.meta_info_def, meta_graph.graph_def
    return {
        "tags": sorted(info.tags),
        "tensorflow": info.tensorflow_version,
        "nodes": len(graph.node),
        "functions": len(graph.library.function),
        "signatures": {
            name: {
                "method": signature.method_name,
                "inputs": _tensors(signature.inputs),
                "outputs": _tensors(signature.outputs),
            }
            for name, signature in public_signatures(meta_graph).items()
        },
        "eas": signatures_of(meta_graph),
    }


def _tensors(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Return dtype, shape (-1: unknown dimension, None: unknown rank) and tensor by alias."""
    return {
        alias: {
            "dtype": type_name(infos[alias].dtype),
            "shape": shape_of(infos[alias]),
            "tensor": infos[alias].name,
        }
        for alias in sorted(infos)
    }


def _sizes(files: Mapping[str, Entry]) -> dict[str, int]:
    """Return the bytes of each part of a SavedModel, and of all together."""
    sizes = dict.fromkeys(("saved_model", *_PARTS, "other"), 0)
    for name, entry in files.items():
        folder, slash, _ = name.partition("/")
        if slash:
            part = folder if folder in _PARTS else "other"
        else:
            part = "saved_model" if name.startswith("saved_model.") else "other"
        sizes[part] += entry.size
    return {**sizes, "total": sum(sizes.values())}


def _manifest(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    return {
        "version": manifest.version,
        "published_at": manifest.published_at,
        "tensorflow": manifest.about.tensorflow,
        "keras": manifest.about.keras,
        "job_id": manifest.about.job_id,
        "step": manifest.about.step,
    }


# ====== Variables ======


def _variables(place: Place, files: Mapping[str, Entry], model: Any) -> dict[str, Any] | None:
    if _INDEX not in files:
        return None
    names = _own_names(model)
    found = [_listed(key, tensor, names) for key, tensor in _tensors_of(place).items()]
    found.sort(key=lambda one: (-(one["bytes"] or 0), one["name"]))
    return {
        "count": len(found),
        "bytes": sum(one["bytes"] or 0 for one in found),
        "largest": found[:LARGEST],
    }


def _tensors_of(place: Place) -> Mapping[str, Tensor]:
    """Return what the index names. Raises SetupError for a damaged one."""
    from pai_runner.models.checkpoint_index import OBJECT_GRAPH, parse_index

    try:
        tensors = parse_index(place.read(_INDEX)).tensors
    except ValueError as error:
        raise SetupError(
            f"{place.shown(_INDEX)} is damaged: {error}", "export the model again as a new version"
        ) from error
    return {key: tensor for key, tensor in tensors.items() if key != OBJECT_GRAPH}


def _listed(key: str, tensor: Tensor, names: Mapping[str, str]) -> dict[str, Any]:
    """Return name, key in the checkpoint, dtype, shape and bytes (None for strings)."""
    import tensorflow.compat.v2 as tf

    dtype = tf.as_dtype(tensor.dtype)
    return {
        "name": names.get(key) or key.removesuffix(_SUFFIX),
        "key": key,
        "dtype": type_name(tensor.dtype),
        "shape": list(tensor.shape),
        "bytes": None if dtype == tf.string else dtype.size * math.prod(tensor.shape),
    }


def _own_names(model: Any) -> dict[str, str]:
    """Return the names that variables have in the script, by their keys in the checkpoint.

    TensorFlow 2 keys a variable by its way from the root object, `layers/0/w`.
    """
    names: dict[str, str] = {}
    for meta_graph in model.meta_graphs:
        nodes = meta_graph.object_graph_def.nodes
        waiting = [(0, "")] if nodes else []
        seen = set()
        while waiting:
            number, path = waiting.pop(0)
            if number in seen:
                continue
            seen.add(number)
            own = nodes[number].variable.name
            if own and not own.startswith(_UNNAMED):
                names[f"{path}{_SUFFIX}"] = own
            for child in nodes[number].children:
                name = child.local_name.replace(".", "..").replace("/", ".S")
                waiting.append((child.node_id, f"{path}/{name}" if path else name))
    return names
