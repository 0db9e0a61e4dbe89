"""What TensorFlow's tensors and errors say, as messages need it."""

from __future__ import annotations

from typing import Any

from pai_runner.models.signatures import Tensor


def describe(tensor: Any, name: str = "") -> Tensor:
    """Return name, dtype and shape of a tensor of TensorFlow, or of a spec."""
    # Under TensorFlow 1's behaviour a shape's sizes are objects; as_list gives numbers always.
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return Tensor(name or tensor.name, tensor.dtype.name, shape)


def problem_of(error: Exception) -> str:
    """Return the line of TensorFlow's error that says what is wrong."""
    text = getattr(error, "message", "") or str(error)
    # Savers put a long guess before what happened; sessions put headings and, for an operation
    # of this process, where it was made.
    lines = [line.strip() for line in text.rpartition("Original error:")[2].splitlines()]
    nodes = [number for number, line in enumerate(lines) if line.startswith("Node: ")]
    lines = lines[nodes[-1] + 1 :] if nodes else lines
    telling = (line for line in lines if line and not line.endswith(("error:", "found.")))
    return next(telling, type(error).__name__)
