"""Input for a signature, made from what the model says of it: two rows of ones and zeros.

Floats are ones, so that a rate of what is kept keeps all; integers are zeros, which every table
and embedding has. Strings that the graph parses as tf.Example are examples with its features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pai_runner.models.proto import Reached
from pai_runner.models.structure import shape_of

ROWS = 2
# What unknown dimensions other than the first are taken for, in turn: some models need room,
# others take short sequences alone.
SIZES = (8, 1, 64)

_EXAMPLE_OPS = frozenset(("ParseExample", "ParseExampleV2", "ParseSingleExample"))


def inputs_of(signature: Any, reached: list[Reached]) -> Iterator[dict[str, Any]]:
    """Yield the inputs to try one after another: numpy arrays by alias.

    `reached` is what the signature's outputs depend on.
    """
    example = _example(reached)
    shapes = [shape_of(info) for info in signature.inputs.values()]
    has_sizes = any(-1 in shape[1:] for shape in shapes if shape)
    for size in SIZES if has_sizes else SIZES[:1]:
        yield {
            alias: _array(info.dtype, _filled(shape_of(info), size), example)
            for alias, info in signature.inputs.items()
        }


def _filled(shape: list[int] | None, size: int) -> list[int]:
    if shape is None:
        return [ROWS]
    return [
        known if known != -1 else (ROWS if index == 0 else size)
        for index, known in enumerate(shape)
    ]


def _array(dtype: int, shape: list[int], example: bytes) -> Any:
    import numpy as np
    import tensorflow.compat.v2 as tf

    kind = tf.as_dtype(dtype)
    if kind == tf.string:
        # Through a list: numpy's own strings would drop the final zero bytes.
        return np.array([example] * math.prod(shape), dtype=object).reshape(shape)
    made = np.ones if kind.is_floating or kind.is_complex else np.zeros
    return made(shape, kind.as_numpy_dtype)


# ====== Examples ======


def _example(reached: list[Reached]) -> bytes:
    """Return a serialized tf.Example with the features that the graph parses of each row.

    It is empty, and a good example as well, where the graph parses none. Features that may be
    left out are.
    """
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    for one in reached:
        if one.node.op in _EXAMPLE_OPS:
            for key, dtype, count in _dense_features(one):
                _add(example.features.feature[key], dtype, count)
    return bytes(example.SerializeToString())


def _dense_features(one: Reached) -> Iterator[tuple[str, int, int]]:
    """Yield name, DataType and number of values of each feature that a parsing op requires."""
    node = one.node
    keys = _dense_keys(one)
    attributes: Mapping[str, Any] = node.attr
    shapes = attributes["dense_shapes"].list.shape
    for key, dtype, shape in zip(keys, attributes["Tdense"].list.type, shapes, strict=False):
        count = 1
        for dimension in shape.dim:
            count *= max(dimension.size, 1)
        yield key, dtype, count


def _dense_keys(one: Reached) -> list[str]:
    node, nodes = one.node, one.body.nodes
    if node.op == "ParseSingleExample":
        return [key.decode() for key in node.attr["dense_keys"].list.s]
    if node.op == "ParseExampleV2":  # serialized, names, sparse_keys, dense_keys, …
        return _constant_strings(nodes.get(node.input[3]))
    first = 2 + node.attr["Nsparse"].i  # serialized, names, one input for each key
    keys = node.input[first : first + node.attr["Ndense"].i]
    return [key for name in keys for key in _constant_strings(nodes.get(name))]


def _constant_strings(node: Any) -> list[str]:
    """Return the strings of a Const node; none where the node is another."""
    import tensorflow.compat.v2 as tf

    if node is None or node.op != "Const":
        return []
    values = tf.make_ndarray(node.attr["value"].tensor)
    return [value.decode() for value in values.reshape(-1)]


def _add(feature: Any, dtype: int, count: int) -> None:
    from tensorflow.core.framework import types_pb2 as types

    if dtype == types.DT_FLOAT:
        feature.float_list.value.extend([1.0] * count)
    elif dtype == types.DT_INT64:
        feature.int64_list.value.extend([0] * count)
    else:
        feature.bytes_list.value.extend([b""] * count)
