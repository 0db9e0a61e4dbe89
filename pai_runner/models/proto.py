"""The SavedModel that a directory holds, as a protocol buffer, and what in it leads to a signature.

It is read as a message; nothing of it is loaded or run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.models.manifest import ENTRIES
from pai_runner.models.place import Place

# Ops that run one of several functions; all others run the functions that they name.
_CONDITIONS = frozenset(("If", "StatelessIf", "Case", "StatelessCase"))
# The same in TensorFlow 1's control flow, where a loop has switches as well.
_SWITCHES = frozenset(("Switch", "RefSwitch"))
_MERGES = frozenset(("Merge", "RefMerge"))


def read_saved_model(place: Place) -> Any:
    """Return the SavedModel in a directory's saved_model.pb or .pbtxt.

    Raises SetupError when neither is there or it is damaged, OSError.
    """
    for name in ENTRIES:
        try:
            data = place.read(name)
        except FileNotFoundError:
            continue
        return parse_saved_model(data, place.shown(name))
    raise SetupError(
        f"{place.prefix} is no SavedModel: it has no {' or '.join(ENTRIES)}",
        "name the directory of a model, or one with numbered versions in it",
    )


def parse_saved_model(data: bytes, shown: str) -> Any:
    """Return the SavedModel that a file holds; `shown` is its name.

    Raises SetupError for a damaged one.
    """
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        if shown.endswith(".pbtxt"):
            text_format.Parse(data.decode(), model)
        else:
            model.ParseFromString(data)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise _damaged(shown, str(error)) from error
    if not model.meta_graphs:
        raise _damaged(shown, f"its {len(data)} bytes hold no MetaGraph")
    return model


def _damaged(shown: str, problem: str) -> SetupError:
    return SetupError(f"{shown} is damaged: {problem}", "export the model again as a new version")


# ====== Graphs ======


@dataclass(frozen=True, eq=False)
class Body:
    """The nodes of a graph or of a function, by name, and those that make its results."""

    nodes: Mapping[str, Any]
    results: tuple[str, ...]

    def inputs(self, node: Any) -> Iterator[Any]:
        """Yield the nodes whose outputs `node` takes; a function's arguments are no nodes."""
        for text in node.input:
            found = self.nodes.get(node_name(text))
            if found is not None:
                yield found

    @cached_property
    def consumers(self) -> Mapping[str, list[Any]]:
        """The nodes that take the outputs of a node, by its name."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes.values():
            for text in node.input:
                if not text.startswith("^"):
                    found.setdefault(node_name(text), []).append(node)
        return found

    def ancestors(self, node: Any, until: frozenset[str] = frozenset()) -> Iterator[Any]:
        """Yield the nodes that `node` depends on; the search does not go beyond ops in `until`."""
        seen = {node.name}
        waiting = [node]
        while waiting:
            for found in self.inputs(waiting.pop()):
                if found.name not in seen:
                    seen.add(found.name)
                    yield found
                    if found.op not in until:
                        waiting.append(found)

    def is_switched(self, node: Any) -> bool:
        """Tell whether `node` lies in a branch of TensorFlow 1's `cond`."""
        for found in self.ancestors(node, until=_MERGES):
            if found.op in _SWITCHES:
                condition = self.nodes.get(node_name(found.input[1]))
                if condition is None or condition.op != "LoopCond":
                    return True
        return False


@dataclass(frozen=True)
class Reached:
    """A node that a signature's outputs depend on, and the body that it is in.

    `is_conditional`: it lies in the branch of a condition.
    """

    node: Any
    body: Body
    is_conditional: bool


class Graph:
    """A GraphDef with its library of functions."""

    def __init__(self, graph_def: Any) -> None:
        self.main = _body(graph_def.node, ())
        self.functions = {
            function.signature.name: _body(
                function.node_def, (*function.ret.values(), *function.control_ret.values())
            )
            for function in graph_def.library.function
        }

    def bodies(self) -> list[Body]:
        """Return the main graph and all functions of the library."""
        return [self.main, *self.functions.values()]

    def reached(self, outputs: Iterable[str], fed: Iterable[str] = ()) -> list[Reached]:
        """Return the nodes that the tensors `outputs` depend on, in functions as well.

        The tensors `fed` are given from outside: what lies before them is not reached.
        """
        given = {node_name(name) for name in fed}
        # Per body and node: whether all ways to it lead through a condition.
        found: dict[tuple[int, str], Reached] = {}
        waiting = [(self.main, node_name(name), False) for name in outputs]
        while waiting:
            body, name, conditional = waiting.pop()
            node = body.nodes.get(name)
            known = found.get((id(body), name))
            if node is None or (known and (conditional or not known.is_conditional)):
                continue
            found[id(body), name] = Reached(node, body, conditional)
            if body is self.main and name in given:
                continue
            waiting += [(body, node_name(text), conditional) for text in node.input]
            inner = conditional or node.op in _CONDITIONS
            for called in self._called(node):
                waiting += [(called, result, inner) for result in called.results]
        return list(found.values())

    def _called(self, node: Any) -> Iterator[Body]:
        names = [node.op]
        for value in node.attr.values():
            names.append(value.func.name)
            names += [function.name for function in value.list.func]
        return (self.functions[name] for name in names if name in self.functions)


def _body(nodes: Iterable[Any], results: Iterable[str]) -> Body:
    return Body({node.name: node for node in nodes}, tuple(map(node_name, results)))


def node_name(tensor: str) -> str:
    """Return the node of a tensor `node:0`, in a function `node:out:0`, or a control `^node`."""
    return tensor.removeprefix("^").partition(":")[0]


def type_name(number: int) -> str:
    """Return the name of a DataType, for example DT_FLOAT."""
    from tensorflow.core.framework import types_pb2

    return str(types_pb2.DataType.Name(number))
