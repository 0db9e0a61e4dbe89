"""What in a SavedModel stands in the way of serving it, seen without loading or running it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pai_runner.models.findings import Finding
from pai_runner.models.proto import Graph, Reached, node_name, type_name
from pai_runner.models.structure import public_signatures, shape_of, tensor_names

METHOD_PREFIX = "tensorflow/serving/"
_METHODS = ("predict", "classify", "regress")
# What the methods on tf.Example may give; one of the two is enough for classify.
_EXAMPLE_OUTPUTS = {
    "classify": {"classes": "DT_STRING", "scores": "DT_FLOAT"},
    "regress": {"outputs": "DT_FLOAT"},
}

# What `saved_model_cli scan` looks for, and the ops through which a graph calls Python.
_DENIED = frozenset(("ReadFile", "WriteFile", "PrintV2"))
_PYTHON = frozenset(("PyFunc", "PyFuncStateless", "EagerPyFunc"))
_LEFTOVER = re.compile(
    r"(^|/)(checkpoint|[^/]*\.ckpt[^/]*|[^/]*\.index|[^/]*\.data-\d{5}-of-\d{5}"
    r"|[^/]*tfevents[^/]*)$"
)
_OWN = re.compile(r"variables/variables\.[^/]*|assets/.*")
# Of nodes with the same fault so many are named.
_SHOWN = 5


def lint_files(names: Iterable[str]) -> list[Finding]:
    """Return what does not belong into a version. `names` are its files, paths below it.

    What lies in `assets/` is the model's own, whatever it is called.
    """
    return [
        Finding("leftover-file", f"{name}: a checkpoint or event file does not belong into a model")
        for name in sorted(names)
        if _LEFTOVER.search(name) and not _OWN.fullmatch(name)
    ]


def denied_ops(model: Any) -> list[Finding]:
    """Return the ops for which a model is not to be run: it would act on files, or call Python."""
    found = []
    for meta_graph in model.meta_graphs:
        bodies = Graph(meta_graph.graph_def).bodies()
        nodes = [node for body in bodies for node in body.nodes.values()]
        for code, denied in (("denied-op", _DENIED), ("python-op", _PYTHON)):
            there = [f"{node.name} ({node.op})" for node in nodes if node.op in denied]
            if there:
                found.append(Finding(code, f"{shown_tags(meta_graph)} has {_listed(there)}"))
    return found


def lint_model(model: Any) -> list[Finding]:
    """Return what a server would refuse in a SavedModel, or answer wrongly for."""
    found = []
    if not any(list(one.meta_info_def.tags) == ["serve"] for one in model.meta_graphs):
        there = "; ".join(shown_tags(one) for one in model.meta_graphs)
        found.append(Finding("no-serve-tag", f"there: {there}"))
    for meta_graph in model.meta_graphs:
        found += _lint_meta_graph(meta_graph)
    return found


def shown_tags(meta_graph: Any) -> str:
    """Return the tags of a MetaGraph for people to read."""
    tags = ", ".join(f"`{tag}`" for tag in sorted(meta_graph.meta_info_def.tags))
    return f"the MetaGraph {tags}" if tags else "the MetaGraph without tags"


def _lint_meta_graph(meta_graph: Any) -> Iterator[Finding]:
    graph = Graph(meta_graph.graph_def)
    signatures = public_signatures(meta_graph)
    if not signatures:
        yield Finding("no-signature", f"{shown_tags(meta_graph)} has no signature to call it by")
    used: set[str] = set()
    for name, signature in signatures.items():
        yield from _lint_method(name, signature)
        yield from _lint_batch(name, signature)
        reached = reached_by(graph, signature)
        yield from _lint_tensors(name, signature, graph, reached)
        yield from _lint_training(name, reached)
        used |= {one.node.name for one in reached if one.body is graph.main}
    # Functions beyond the main graph's are for who loads the model in Python, to train it on.
    unused = [
        f"{node.name} ({node.op})"
        for node in graph.main.nodes.values()
        if node.name not in used and _kind_of(node) in ("reader", "queue", "optimizer", "gradient")
    ]
    if unused:
        text = f"{shown_tags(meta_graph)} has {_listed(unused)}, which no signature needs: "
        text += "they do no harm but take room"
        yield Finding("unused-training-op", text)


def reached_by(graph: Graph, signature: Any) -> list[Reached]:
    """Return the nodes that a signature's outputs depend on."""
    fed = [name for info in signature.inputs.values() for name in tensor_names(info)]
    outputs = [name for info in signature.outputs.values() for name in tensor_names(info)]
    return graph.reached(outputs, fed)


def waits_for_data(reached: list[Reached]) -> bool:
    """Tell whether a signature reads from a queue or a reader: it may then never answer."""
    return any(_kind_of(one.node) in ("reader", "queue") for one in reached)


# ====== Signatures ======


def _lint_method(name: str, signature: Any) -> Iterator[Finding]:
    method = signature.method_name
    kind = method.removeprefix(METHOD_PREFIX)
    if not method or (method.startswith(METHOD_PREFIX) and kind not in _METHODS):
        valid = ", ".join(f"{METHOD_PREFIX}{known}" for known in _METHODS)
        text = f"signature `{name}`: its method is `{method}`; valid: {valid}"
        yield Finding("bad-signature", text)
    elif kind not in _METHODS or kind == method:
        text = f"signature `{name}`: servers that check methods refuse its own, `{method}`"
        yield Finding("custom-method", text)
    elif kind == "predict":
        if not signature.outputs:
            yield Finding("bad-signature", f"signature `{name}`: it has no output")
    else:
        problem = _example_problem(kind, signature)
        if problem:
            yield Finding("bad-signature", f"signature `{name}`: {kind} {problem}")


def _example_problem(kind: str, signature: Any) -> str:
    """Return why a classify or regress signature is none, after TensorFlow Serving's rules."""
    inputs = {alias: type_name(info.dtype) for alias, info in signature.inputs.items()}
    if inputs != {"inputs": "DT_STRING"}:
        return (
            "takes one input, `inputs`, of DT_STRING (serialized tf.Example); "
            f"it has {_dtypes_text(inputs)}"
        )
    wanted = _EXAMPLE_OUTPUTS[kind]
    outputs = {alias: type_name(info.dtype) for alias, info in signature.outputs.items()}
    if not outputs or not outputs.items() <= wanted.items():
        return f"gives {_dtypes_text(wanted)}; it has {_dtypes_text(outputs)}"
    return ""


def _dtypes_text(dtypes: Mapping[str, str]) -> str:
    return ", ".join(f"`{alias}` of {dtypes[alias]}" for alias in sorted(dtypes)) or "none"


def _lint_batch(name: str, signature: Any) -> Iterator[Finding]:
    for alias in sorted(signature.inputs):
        shape = shape_of(signature.inputs[alias])
        if shape and shape[0] != -1:
            yield Finding(
                "fixed-batch",
                f"signature `{name}`: input `{alias}` has the shape {shape}: it takes {shape[0]} "
                "rows at once and no other number; make its first dimension None",
            )


def _lint_tensors(
    name: str, signature: Any, graph: Graph, reached: list[Reached]
) -> Iterator[Finding]:
    fed = {node_name(one) for info in signature.inputs.values() for one in tensor_names(info)}
    for kind, infos in (("input", signature.inputs), ("output", signature.outputs)):
        for alias in sorted(infos):
            for tensor in tensor_names(infos[alias]):
                if node_name(tensor) not in graph.main.nodes:
                    text = f"{kind} `{alias}` is the tensor {tensor}, which is not in the graph"
                    yield Finding("bad-signature", f"signature `{name}`: {text}")
    for one in reached:
        if one.node.op == "Placeholder" and one.body is graph.main and one.node.name not in fed:
            text = f"it needs the placeholder {one.node.name}, which is not among its inputs"
            yield Finding("bad-signature", f"signature `{name}`: {text}")


def _lint_training(name: str, reached: list[Reached]) -> Iterator[Finding]:
    by_code: dict[str, list[str]] = {}
    for one in reached:
        problem = _training_problem(one)
        if problem:
            code, what = problem
            by_code.setdefault(code, []).append(f"{one.node.name} ({what})")
    for code, there in sorted(by_code.items()):
        yield Finding(code, f"signature `{name}` depends on {_listed(there)}")


# ====== Ops for training ======

_KINDS = (
    ("reader", re.compile(r"\w*Reader(V2)?|Reader\w+|IteratorGetNext\w*|MatchingFiles")),
    ("queue", re.compile(r"\w*Queue(V2)?|Queue(Dequeue|Enqueue|Size|Close|IsClosed)\w*|Unstage")),
    ("optimizer", re.compile(r"(Resource)?(Sparse)?Apply[A-Z]\w*")),
    # The input's gradient of a convolution is how a transposed convolution is computed.
    ("gradient", re.compile(r"(?!\w*BackpropInput)\w+(Grad|GradV\d|GradGrad|Backprop\w*)")),
    (
        "assignment",
        re.compile(
            r"Assign|Assign(Add|Sub)|Assign(Add|Sub)?VariableOp|Scatter(Nd)?(Add|Sub|Update)"
        ),
    ),
)
_CODES_OF_KINDS = {"gradient": "gradient-op", "assignment": "changes-variable"}

_RANDOM = re.compile(r"RandomUniform|StatelessRandomUniform(V2)?")
# What lies between a random number and its comparison with the rate: scaling into its range.
_SCALING = frozenset(("Mul", "Add", "AddV2", "Sub", "Identity", "Cast"))
_COMPARISONS = frozenset(("GreaterEqual", "Greater", "Less", "LessEqual", "Floor"))
_INPUTS = frozenset(("Placeholder", "PlaceholderWithDefault"))


def _kind_of(node: Any) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(node.op)), "")


def _training_problem(one: Reached) -> tuple[str, str] | None:
    """Return the code of a node that is for training, and what it is; None for any other."""
    kind = _kind_of(one.node)
    if kind == "assignment" and not _is_float(one.node):
        return None  # a counter, or the state of random numbers
    if kind:
        return _CODES_OF_KINDS.get(kind, "training-op"), one.node.op
    if _is_training_normalization(one):
        what = "batch normalization in training mode"
    elif _RANDOM.fullmatch(one.node.op) and _dropout_chain(one):
        what = "dropout"
    else:
        return None
    is_chosen = one.is_conditional or one.body.is_switched(one.node) or _has_fed_rate(one)
    return "conditional-training-op" if is_chosen else "training-op", what


def _is_float(assignment: Any) -> bool:
    """Tell whether the variable that is assigned to holds floats, as averages and weights do."""
    attributes = assignment.attr
    dtype = attributes["dtype" if "dtype" in attributes else "T"].type
    return type_name(dtype) in ("DT_HALF", "DT_BFLOAT16", "DT_FLOAT", "DT_DOUBLE")


def _is_training_normalization(one: Reached) -> bool:
    node = one.node
    # An attribute that has its default, here true, may have been left out of the file.
    is_training = "is_training" not in node.attr or node.attr["is_training"].b
    if not node.op.startswith("FusedBatchNorm") or not is_training:
        return False
    # Keras 2 makes layer normalization of this op: each row is a batch, scaled by ones.
    scale = one.body.nodes.get(node_name(node.input[1]))
    return scale is None or scale.op != "Fill"


def _dropout_chain(one: Reached) -> list[Any]:
    """Return the nodes from a random number to where it, and it alone, is compared with a rate.

    None are there when it is not compared. Dropout is known by this and not by its name, which a
    script can choose.
    """
    chain = {}
    waiting = [one.node.name]
    while waiting:
        for node in one.body.consumers.get(waiting.pop(), ()):
            if node.name in chain or node.op not in _SCALING | _COMPARISONS:
                continue
            chain[node.name] = node
            if node.op in _SCALING:
                waiting.append(node.name)
    compared = any(node.op in _COMPARISONS for node in chain.values())
    return list(chain.values()) if compared else []


def _has_fed_rate(one: Reached) -> bool:
    """Tell whether the rate of a dropout comes from outside; then a server can switch it off."""
    nodes = one.body.nodes
    chain = _dropout_chain(one)
    own = {one.node.name, *(node.name for node in chain)}
    rates = {node_name(text) for node in chain for text in node.input} - own
    return any(
        rate not in nodes  # an argument of the function
        or any(node.op in _INPUTS for node in (nodes[rate], *one.body.ancestors(nodes[rate])))
        for rate in rates
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
