"""Signatures as plain data: EAS's model structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pai_runner.models.proto import type_name

# What TensorFlow 2 writes for its own loader, among the signatures.
INTERNAL_SIGNATURES = frozenset(("__saved_model_init_op", "__saved_model_train_op"))


def eas_structure(name: str, signature_def: Any) -> dict[str, Any]:
    """Return the model structure of a signature, as EAS answers it to an empty request.

    `{"signature_name": …, "inputs": [{"name", "shape", "type"}, …], "outputs": […]}`, aliases in
    order of name. An unknown dimension is -1, the shape of an unknown rank is []. Source of the
    form: Alibaba's "Construct a request for a TensorFlow service".
    """
    return {
        "signature_name": name,
        "inputs": _tensors(signature_def.inputs),
        "outputs": _tensors(signature_def.outputs),
    }


def signatures_of(meta_graph: Any) -> dict[str, dict[str, Any]]:
    """Return the model structure of each signature of a MetaGraph, by name and in its order."""
    return {
        name: eas_structure(name, signature)
        for name, signature in public_signatures(meta_graph).items()
    }


def public_signatures(meta_graph: Any) -> dict[str, Any]:
    """Return a MetaGraph's SignatureDefs by name and in its order, TensorFlow's own left out."""
    return {
        name: meta_graph.signature_def[name]
        for name in sorted(meta_graph.signature_def)
        if name not in INTERNAL_SIGNATURES
    }


def shape_of(info: Any) -> list[int] | None:
    """Return the shape of a TensorInfo; -1 is an unknown dimension, None an unknown rank."""
    if info.tensor_shape.unknown_rank:
        return None
    return [dimension.size for dimension in info.tensor_shape.dim]


def tensor_names(info: Any) -> list[str]:
    """Return the tensors of a TensorInfo: one, or those that a sparse or ragged one is made of."""
    if info.WhichOneof("encoding") == "coo_sparse":
        sparse = info.coo_sparse
        return [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
    parts = info.composite_tensor.components
    return [name for part in parts for name in tensor_names(part)] or [info.name]


def _tensors(infos: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": alias,
            "shape": shape_of(infos[alias]) or [],
            "type": type_name(infos[alias].dtype),
        }
        for alias in sorted(infos)
    ]
