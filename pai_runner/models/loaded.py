"""A loaded model as its user has it: signatures that are called by alias."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow.compat.v2 as tf

from pai_runner.errors import UsageError
from pai_runner.models.signatures import Tensor, in_words


@dataclass(frozen=True, eq=False)
class LoadedSignature:
    """A signature that can be called: arrays by alias in, arrays by alias out.

    `inputs` and `outputs` say what there is; `method` is the full method name. An input for which
    the model has a default may be left out.
    """

    name: str
    method: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    _defaults: Mapping[str, np.ndarray[Any, Any]] = field(repr=False)
    _run: Callable[..., Sequence[Any]] = field(repr=False)

    def __call__(self, /, **arrays: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs for these inputs, as numpy arrays; strings are bytes, as objects.

        A list takes the input's dtype; an array of another dtype is converted where that loses
        nothing. Raises UsageError for aliases, dtypes and shapes that do not fit, and what
        TensorFlow raises for values that the model cannot use.
        """
        self._check_aliases(arrays)
        given = {**self._defaults, **arrays}
        values = [self._converted(alias, given[alias]) for alias in self.inputs]
        results = zip(self.outputs.items(), self._run(*values), strict=True)
        return {alias: _array(tensor, value) for (alias, tensor), value in results}

    def _check_aliases(self, arrays: Mapping[str, Any]) -> None:
        unknown = set(arrays) - set(self.inputs)
        missing = set(self.inputs) - set(arrays) - set(self._defaults)
        if unknown or missing:
            wrong = [f"has no input {alias}" for alias in sorted(unknown)]
            wrong += [f"needs the input {alias}" for alias in sorted(missing)]
            raise UsageError(
                f"signature {self.name} {' and '.join(wrong)}. Its inputs: {in_words(self.inputs)}"
            )

    def _converted(self, alias: str, value: Any) -> np.ndarray[Any, Any]:
        tensor = self.inputs[alias]
        wrong = f"signature {self.name}: the input {alias} is {tensor}"
        try:
            array = _lossless(value, tensor.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"{wrong}; {error}") from error
        sizes = tensor.shape
        if sizes is not None and (
            len(sizes) != array.ndim
            or any(
                size not in (None, given) for size, given in zip(sizes, array.shape, strict=True)
            )
        ):
            raise UsageError(f"{wrong}; the array given has the shape {array.shape}")
        return array


class Loaded:
    """A loaded model: its signatures by name. It holds the model until it is closed or dropped."""

    def __init__(self, shown: str, session: Any, signatures: Mapping[str, LoadedSignature]) -> None:
        self._shown = shown
        self._session = session
        self.signatures: Mapping[str, LoadedSignature] = _Named(shown, signatures)

    def __getitem__(self, name: str) -> LoadedSignature:
        return self.signatures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.signatures)

    def __contains__(self, name: object) -> bool:
        return name in self.signatures

    def __repr__(self) -> str:
        return f"Loaded({self._shown}: {', '.join(self)})"

    def close(self) -> None:
        """Free the model's memory; its signatures can be called no more."""
        self._session.close()

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Named(dict[str, LoadedSignature]):
    """Signatures by name, with an error that lists the names."""

    def __init__(self, shown: str, signatures: Mapping[str, LoadedSignature]) -> None:
        super().__init__(signatures)
        self._shown = shown

    def __missing__(self, name: str) -> LoadedSignature:
        names = ", ".join(sorted(self)) or "none"
        raise UsageError(f"{self._shown} has no signature {name}. Its signatures: {names}")


def _lossless(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Return `value` as an array of TensorFlow's `dtype`. Raises ValueError where it would change.

    What has no dtype yet, such as a list of Python's floats, takes this one.
    """
    if dtype == "string":
        return _strings(value)
    wanted = tf.as_dtype(dtype).as_numpy_dtype
    array = np.asarray(value)
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "biufcV" or (array.dtype.kind == "b") != (dtype == "bool"):
        raise ValueError(f"the value given is {_kind(array)}")
    # A cast that overflows is found by the comparison; numpy need not warn as well.
    with np.errstate(all="ignore"):
        converted = array.astype(wanted)
        back = converted.astype(array.dtype)
    is_float = tf.as_dtype(dtype).is_floating
    literal = not hasattr(value, "dtype") and array.dtype.kind == "f" and is_float
    if not literal and not np.array_equal(back, array, equal_nan=array.dtype.kind in "fc"):
        raise ValueError(f"the value given is {array.dtype}, and not all of it fits")
    return converted


def _strings(value: Any) -> np.ndarray[Any, Any]:
    """Return texts and bytes as an array of objects: numpy's own kind drops final zero bytes."""
    array = np.array(value, dtype=object)
    flat = [one.encode() if isinstance(one, str) else one for one in array.ravel()]
    for one in flat:
        if not isinstance(one, bytes):
            raise ValueError(f"the value given holds a {type(one).__name__}")
    result = np.empty(array.size, dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def _kind(array: np.ndarray[Any, Any]) -> str:
    return "text" if array.dtype.kind in "US" else str(array.dtype)


def _array(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    return np.array(value, dtype=object) if tensor.dtype == "string" else np.asarray(value)
