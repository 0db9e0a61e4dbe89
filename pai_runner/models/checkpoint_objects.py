"""What a tf.train.Checkpoint restores, by its objects and those that were saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow.compat.v2 as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from pai_runner.models.checkpoint_index import OBJECT_GRAPH, Index
from pai_runner.models.checkpoint_match import Variable
from pai_runner.models.checkpoint_reading import read_tensors

# How the attribute of a variable is called that holds its value.
_VALUE = "VARIABLE_VALUE"
# How often tf.train.Checkpoint has saved; it is the checkpoint's own.
_COUNTER = "save_counter"


@dataclass(frozen=True)
class Objects:
    """The variables that there are, and the names of those that only the checkpoint has.

    `is_read_at_once` tells that TensorFlow reads all of the checkpoint before it assigns
    anything: all that was saved is for variables that exist, on one machine.
    """

    variables: list[Variable]
    extra: list[str]
    is_read_at_once: bool


def match_objects(checkpoint: Any, prefix: str, index: Index) -> Objects:
    """Return how the objects of `checkpoint` fit what is saved at `prefix`.

    As in tf.train.Checkpoint, objects are the same that are reached by the same names. A name is
    the path through the objects, then what TensorFlow or Keras call the variable. Raises
    DamageError.
    """
    nodes = _saved_nodes(prefix, index)
    variables, machines, reached = [], set(), set()
    for path, found, number in _walk(checkpoint, nodes):
        if number is not None:
            reached.add(number)
        if not _is_variable(found) or path == _COUNTER:
            continue
        keys = [] if number is None else _keys(nodes[number])
        saved = index.tensors.get(keys[0]) if keys else None
        dtype, shape = tf.as_dtype(found.dtype), tf.TensorShape(found.shape)
        variables.append(Variable(_name(path, found), dtype, shape, saved))
        machines.add(str(getattr(found, "device", "")).partition("/device:")[0])
    for number in tuple(reached):
        reached |= {slot.slot_variable_node_id for slot in nodes[number].slot_variables}
    extra = [path for path, number in _saved_paths(nodes) if number not in reached]
    are_values = all(one.name == _VALUE for node in nodes for one in node.attributes)
    return Objects(variables, extra, are_values and not extra and len(machines - {""}) <= 1)


def _saved_nodes(prefix: str, index: Index) -> Any:
    (text,) = read_tensors(prefix, {OBJECT_GRAPH: index.tensors[OBJECT_GRAPH]})
    return trackable_object_graph_pb2.TrackableObjectGraph.FromString(text).nodes


def _walk(root: Any, nodes: Any) -> Iterable[tuple[str, Any, int | None]]:
    """Return each object once: a shortest path to it, itself, and its saved node's number.

    The number is None for an object that no path leads to in the checkpoint.
    """
    view = tf.train.TrackableView(root)
    waiting: deque[tuple[str, Any, int | None]] = deque([("", root, 0)])
    seen: dict[int, tuple[str, Any, int | None]] = {}
    while waiting:
        path, found, number = waiting.popleft()
        known = seen.get(id(found))
        if known is not None and (number is None or known[2] is not None):
            continue
        seen[id(found)] = (known[0] if known else path, found, number)
        saved = {} if number is None else _children(nodes[number])
        for name, child in view.children(found).items():
            waiting.append((_joined(path, name), child, saved.get(name)))
    return seen.values()


def _saved_paths(nodes: Any) -> Iterator[tuple[str, int]]:
    """Yield a shortest path and the number of each saved node that has a value."""
    waiting = deque([("", 0)])
    seen = {0}
    while waiting:
        path, number = waiting.popleft()
        if _keys(nodes[number]) and path != _COUNTER:
            yield path, number
        for name, child in _children(nodes[number]).items():
            if child not in seen:
                seen.add(child)
                waiting.append((_joined(path, name), child))


def _children(node: Any) -> dict[str, int]:
    return {one.local_name: one.node_id for one in node.children}


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _keys(node: Any) -> list[str]:
    return [one.checkpoint_key for one in node.attributes if one.name == _VALUE]


def _is_variable(found: Any) -> bool:
    # Keras 3 has variables of its own, which hold TensorFlow's.
    return isinstance(found, tf.Variable) or all(
        hasattr(found, name) for name in ("assign", "dtype", "shape", "path")
    )


def _name(path: str, variable: Any) -> str:
    own = str(getattr(variable, "path", None) or getattr(variable, "name", "")).partition(":")[0]
    return path if own in ("", "Variable") or path.endswith(own) else f"{path} ({own})"
