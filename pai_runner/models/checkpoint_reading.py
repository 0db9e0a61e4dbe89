"""Reading tensors of a checkpoint, and so finding out whether they are what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.models.checkpoint_index import DamageError, Index, Tensor


@contextmanager
def damage_of(prefix: str) -> Iterator[None]:
    """Raise what TensorFlow raises for a damaged checkpoint as DamageError.

    What else can happen to a read, a bucket that does not answer, is no damage.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        # TensorFlow says around it which operation it was; the file is in one of the lines.
        lines = error.message.strip().splitlines()
        said = next((line for line in lines if prefix in line), lines[0] if lines else "")
        raise DamageError(f"{prefix} is damaged: {said.strip()}") from error


def read_all(prefix: str, index: Index) -> None:
    """Read all tensors, which TensorFlow compares with their checksums. Raises DamageError."""
    with damage_of(prefix):
        _run(prefix, index.tensors, lambda operation: operation)


def read_tensors(prefix: str, tensors: Mapping[str, Tensor]) -> list[Any]:
    """Return the values of some tensors. Raises DamageError."""
    with damage_of(prefix):
        values: list[Any] = _run(prefix, tensors, lambda operation: list(operation.outputs))
    return values


def _run(prefix: str, tensors: Mapping[str, Tensor], fetched: Any) -> Any:
    # A session of its own works beside eager execution and beside another graph's, and its
    # errors have classes, which those of TensorFlow's checkpoint readers have not.
    with tf1.Graph().as_default():
        read = tf1.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            dtypes=[one.dtype for one in tensors.values()],
        )
        with tf1.Session(config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
            return session.run(fetched(read[0].op))
