"""What a tf.compat.v1.train.Saver restores, as its graph says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow.compat.v2 as tf

from pai_runner.models.checkpoint_index import Index
from pai_runner.models.checkpoint_match import Variable


def restored_variables(saver: Any, graph: Any, index: Index) -> dict[str, Variable]:
    """Return the variables that `saver` would restore from a checkpoint, by name."""
    found = {}
    for operation in _restoring(saver, graph):
        names = tf.get_static_value(operation.inputs[1])
        slices = tf.get_static_value(operation.inputs[2])
        dtypes = operation.get_attr("dtypes")
        for name, part, dtype, output in zip(names, slices, dtypes, operation.outputs, strict=True):
            key = name.decode()
            # Of a partitioned variable it is "whole shape, then where the part lies in it".
            *shape, _ = part.decode().split(" ")
            expected = tf.TensorShape([int(size) for size in shape]) if shape else _target(output)
            found[key] = Variable(key, tf.as_dtype(dtype), expected, index.tensors.get(key))
    return found


def is_read_at_once(saver: Any, graph: Any) -> bool:
    """Tell whether all is read before anything is assigned.

    TensorFlow makes one operation read all variables, and assigns what it gives. Of a sharded
    Saver each device has its own.
    """
    return sum(1 for _ in _restoring(saver, graph)) <= 1


def _restoring(saver: Any, graph: Any) -> Iterator[Any]:
    """Yield the operations of a Saver that read a checkpoint."""
    waiting = [graph.get_operation_by_name(saver.saver_def.restore_op_name)]
    seen = set(waiting)
    while waiting:
        operation = waiting.pop()
        if operation.type == "RestoreV2":
            yield operation
        before = {*operation.control_inputs, *(one.op for one in operation.inputs)} - seen
        seen |= before
        waiting.extend(before)


def _target(value: Any) -> Any:
    """Return the shape of the variable to which a tensor is assigned, if it is one."""
    for consumer in value.consumers():
        if consumer.type == "Assign":
            return consumer.inputs[0].shape
        if consumer.type == "AssignVariableOp":
            return _handle_shape(consumer.inputs[0].op)
        if consumer.type == "Identity":
            return _target(consumer.outputs[0])
    return tf.TensorShape(None)


def _handle_shape(handle: Any) -> Any:
    if handle.type != "VarHandleOp":
        return tf.TensorShape(None)
    return tf.TensorShape(handle.get_attr("shape"))
