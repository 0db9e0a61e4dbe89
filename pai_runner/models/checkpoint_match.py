"""Whether a graph, or objects, and a checkpoint are of the same variables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow.compat.v2 as tf

from pai_runner.errors import SetupError
from pai_runner.models.checkpoint_index import Tensor

# As many names are told; of the others, how many there are.
_TOLD = 10


class Variable(NamedTuple):
    """What a script would restore, and what the checkpoint has for it, None for nothing.

    `shape` is a tf.TensorShape; what it leaves open fits everything.
    """

    name: str
    dtype: Any
    shape: Any
    saved: Tensor | None


def check(
    what: str,
    prefix: str,
    variables: Iterable[Variable],
    extra: Iterable[str],
    strict: bool,
    hint: str,
) -> None:
    """Check that the checkpoint at `prefix` fits `variables` of `what`, a graph or objects.

    Variables that only the checkpoint has, `extra`, are an error where `strict`. Raises
    SetupError, which names all that differs.
    """
    missing, shapes, dtypes = [], [], []
    for name, dtype, shape, saved in variables:
        if saved is None:
            missing.append(name)
            continue
        if not shape.is_compatible_with(saved.shape):
            shapes.append(f"{name} has {tuple(shape.as_list())}, saved is {saved.shape}")
        saved_dtype = tf.as_dtype(saved.dtype)
        if dtype.base_dtype != saved_dtype:
            dtypes.append(f"{name} has {dtype.base_dtype.name}, saved is {saved_dtype.name}")
    extra = sorted(extra)
    if not (missing or shapes or dtypes or (extra and strict)):
        return
    found = (
        (f"missing in the checkpoint, though {what} has them", missing),
        (f"in the checkpoint only, {what} has none of these names", extra),
        ("of another shape", shapes),
        ("of another dtype", dtypes),
    )
    lines = [f"  {kind}: {_told(names)}" for kind, names in found if names]
    message = f"{what} and the checkpoint {prefix} disagree, nothing was restored:"
    raise SetupError("\n".join([message, *lines]), hint)


def _told(names: list[str]) -> str:
    text = "; ".join(sorted(names)[:_TOLD])
    return text if len(names) <= _TOLD else f"{text}; and {len(names) - _TOLD} more"
