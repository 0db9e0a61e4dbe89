"""What a model's signatures are, and what serving needs of them; without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pai_runner.errors import UsageError

# The signature that servers take when a request names none, and the tag of models to serve.
DEFAULT_NAME = "serving_default"
SERVE = "serve"

# TensorFlow Serving's full method names (signature_constants.py).
_FULL_NAMES = {
    "predict": "tensorflow/serving/predict",
    "classify": "tensorflow/serving/classify",
    "regress": "tensorflow/serving/regress",
}
# Signatures that TensorFlow keeps for itself (constants.py of its saved_model).
_RESERVED = frozenset(("__saved_model_init_op", "__saved_model_train_op"))


@dataclass(frozen=True)
class Signature:
    """One way to call a model, by aliases: the names that requests and answers use.

    For a session `inputs` and `outputs` map aliases to tensors. For other sources `inputs` maps
    the parameters of a function to tf.TensorSpec, and `outputs` is the function. `method` is
    predict, classify, regress, or a method name of one's own, which is kept as it is.
    """

    inputs: Mapping[str, Any]
    outputs: Any
    method: str = "predict"


@dataclass(frozen=True)
class MetaGraph:
    """A further graph of a SavedModel, with tags of its own and the variables of the first.

    `signatures` is as for the first; `graph` is the session's own when it is None.
    """

    tags: Sequence[str]
    signatures: Mapping[str, Any]
    graph: Any = None


@dataclass(frozen=True)
class Tensor:
    """A tensor of a signature: its name in the graph, its dtype, its shape.

    A size that may vary is None, and so is a shape of which not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """Return dtype and shape as people read them, for example `float32 (?, 784)`."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        if not self.shape:
            return f"{self.dtype} scalar"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes})"


def in_words(tensors: Mapping[str, Tensor]) -> str:
    """Return aliases with dtypes and shapes, for messages."""
    return ", ".join(f"{alias}: {tensor}" for alias, tensor in sorted(tensors.items())) or "none"


def as_signature(name: str, value: Any) -> Signature:
    """Return the signature that a script wrote in one of its short forms.

    They are `(inputs, outputs)`, `(inputs, outputs, method)`, a function that knows its inputs,
    and `(function, method)`. Raises UsageError for anything else.
    """
    if isinstance(value, Signature):
        return value
    if callable(value):
        return Signature({}, value)
    if isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], Mapping):
        return Signature(*value)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        return Signature({}, *value)
    raise UsageError(
        f"signature {name}: cannot use a value of type {type(value).__name__}. A signature is "
        "a Signature, (inputs, outputs), (inputs, outputs, method), a function, or "
        "(function, method)"
    )


def full_method(method: str) -> str:
    """Return the method name that a SavedModel keeps: Serving's for the three that it knows."""
    return _FULL_NAMES.get(method, method)


def check_signature(
    name: str, method: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Check that a server can call the signature by its method. Raises UsageError.

    The rules are TensorFlow Serving's (classifier.cc, regressor.cc): classify and regress take
    serialized tf.Examples as `inputs`; classify gives `classes` (strings) or `scores` (float32)
    or both, regress gives `outputs` (float32). Predict takes and gives what the signature says.
    """
    if not name or name in _RESERVED:
        raise UsageError(f"{name!r} cannot be the name of a signature: TensorFlow uses it itself")
    if not method:
        raise UsageError(f"signature {name}: its method name is empty")
    if not outputs:
        raise UsageError(f"signature {name} has no outputs: a server could not answer with it")
    full_names = {full: short for short, full in _FULL_NAMES.items()}
    check = _CHECKS.get(full_names.get(method, method))
    wrong = check(inputs, outputs) if check else ""
    if wrong:
        raise UsageError(
            f"signature {name}: {wrong}. It has inputs {in_words(inputs)}; "
            f"outputs {in_words(outputs)}",
            "rename the aliases, or export it with the method predict",
        )


def _wrong_for_classify(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> str:
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if not _takes_examples(inputs):
        return f"classify needs {_EXAMPLES}"
    if set(outputs) - {"classes", "scores"}:
        return "classify needs no other outputs than classes (strings) and scores (float32)"
    if classes and classes.dtype != "string":
        return "classify needs strings as classes"
    if scores and scores.dtype != "float32":
        return "classify needs float32 as scores"
    return ""


def _wrong_for_regress(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> str:
    if not _takes_examples(inputs):
        return f"regress needs {_EXAMPLES}"
    if set(outputs) != {"outputs"} or outputs["outputs"].dtype != "float32":
        return "regress needs one output, outputs, of float32"
    return ""


_EXAMPLES = "one input, inputs, of strings: serialized tf.Examples"
_CHECKS = {"classify": _wrong_for_classify, "regress": _wrong_for_regress}


def _takes_examples(inputs: Mapping[str, Tensor]) -> bool:
    return set(inputs) == {"inputs"} and inputs["inputs"].dtype == "string"
