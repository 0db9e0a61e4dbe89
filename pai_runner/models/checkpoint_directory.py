"""The checkpoints of one name in a directory: which there are, which are kept, which are whole.

A save is the data files, the index, what it measured, then the `checkpoint` file that names it;
then those that are not kept are deleted, their index first. So whatever moment a process is
killed at, the newest checkpoint that has an index can be restored.

All files are TensorFlow's to read and write: a directory may lie wherever tf.io.gfile reaches.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf
from google.protobuf import text_format

from pai_runner.models.checkpoint_index import DamageError, Index, parse_index

_POINTER = "checkpoint"
_METRICS = "checkpoint_metrics.json"
_STEP = re.compile(r"0|[1-9][0-9]*")
# What comes after the step: a part of the checkpoint, or what a killed process left of one.
_PART = r"(?P<part>\.index|\.meta|\.data-\d{5}-of-\d{5})"
_LEFT = r"_temp|(\.index|\.meta|\.data-\d{5}-of-\d{5})(\.tempstate\d+|\.tmp[0-9a-f]{32})"
_LISTED = "what the directory lists is taken"


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept: the `newest`, and the `best` by `metric`. None is all."""

    newest: int | None
    best: int = 0
    metric: str = ""
    is_higher_better: bool = True


@dataclass
class _Files:
    """What a directory holds of one step."""

    index: str = ""
    others: list[str] = field(default_factory=list)
    has_data: bool = False

    @property
    def is_checkpoint(self) -> bool:
        """Tell whether it is a checkpoint, though it may lack a part."""
        return bool(self.index) or self.has_data


class Directory:
    """The checkpoints NAME-STEP of a directory. One process writes them at a time.

    `complain` is called with what is wrong with the directory itself; it may raise.
    """

    def __init__(
        self, location: str, name: str, keep: Keep, complain: Callable[[str], None]
    ) -> None:
        self.location = location
        self._complain = complain
        self._name = name
        self._keep = keep
        start = rf"{re.escape(name)}-(?P<step>{_STEP.pattern})"
        self._part = re.compile(rf"{start}(?:{_PART}|{_LEFT})")
        self._steps: list[int] | None = None  # in the order in which they were saved
        self._metrics: dict[int, dict[str, float]] = {}

    def prefix(self, step: int) -> str:
        """Return the path by which TensorFlow knows the checkpoint of `step`."""
        return self._path(f"{self._name}-{step}")

    def open(self) -> str:
        """Look at what there is before something is saved. Return the path that gets `-STEP`.

        TensorFlow makes the directory where it is missing.
        """
        self._known()
        return self._path(self._name)

    # ====== Which there are ======

    def newest(self) -> list[int]:
        """Return the steps of all checkpoints, whole or not, the newest first.

        The `checkpoint` file says the order in which they were saved, which is not that of the
        steps when a script went back. What it does not name, because a save was killed before
        it was written, goes where its step belongs.
        """
        return self._read()[::-1]

    def best(self) -> list[int]:
        """Return the steps of the checkpoints with the metric that is kept, the best first."""
        return self._ranked(self._known())

    def highest_step(self) -> int:
        """Return the highest step of all checkpoints, 0 if there are none."""
        return max(self._known(), default=0)

    def set_back(self, step: int) -> None:
        """Count a damaged checkpoint as the oldest: it is the first to be deleted."""
        if step in self._known():
            self._steps = [step, *(one for one in self._known() if one != step)]
            self._metrics.pop(step, None)

    def _known(self) -> list[int]:
        if self._steps is None:
            self._read()
        return self._steps or []

    def _read(self) -> list[int]:
        """Look at the directory anew. Return all steps, those without an index as well."""
        names = self._names()
        files = self._files(names)
        named = self._named() if _POINTER in names else []
        if _POINTER not in names and any(one.is_checkpoint for one in files.values()):
            self._complain(f"{self._path(_POINTER)} is missing; {_LISTED}")
        order = [step for step in named if step not in files or files[step].is_checkpoint]
        for step in sorted(set(files) - set(order)):
            if files[step].is_checkpoint:
                after = (at for at, other in enumerate(order) if other > step)
                order.insert(next(after, len(order)), step)
        self._steps = [step for step in order if step in files and files[step].index]
        stored = self._stored_metrics() if _METRICS in names else {}
        self._metrics = {step: stored[step] for step in self._steps if step in stored}
        return order

    def _names(self) -> list[str]:
        """Return the names in the directory; one request, in a bucket."""
        try:
            return [str(name).rstrip("/") for name in tf.io.gfile.listdir(self.location)]
        except tf.errors.NotFoundError:
            return []

    def _files(self, names: Iterable[str]) -> dict[int, _Files]:
        """Return what there is of each step."""
        found: dict[int, _Files] = {}
        for name in names:
            match = self._part.fullmatch(name)
            if match is None:
                continue
            files = found.setdefault(int(match["step"]), _Files())
            if match["part"] == ".index":
                files.index = name
                continue
            files.others.append(name)
            files.has_data |= (match["part"] or "").startswith(".data")
        return found

    def _named(self) -> list[int]:
        """Return the steps that the `checkpoint` file names, in its order."""
        path = self._path(_POINTER)
        state = _state(["none"])
        state.Clear()
        try:
            text_format.Parse(_read_file(path).decode(), state)
        except (ValueError, text_format.ParseError) as error:
            self._complain(f"{path} is garbled ({str(error).splitlines()[0]}); {_LISTED}")
            return []
        paths = [*state.all_model_checkpoint_paths, state.model_checkpoint_path]
        steps = [self._step_of(path.rpartition("/")[2]) for path in paths]
        # The last mention counts: model_checkpoint_path is the newest.
        return [step for step in dict.fromkeys(reversed(steps)) if step is not None][::-1]

    def _step_of(self, name: str) -> int | None:
        """Return the step of a checkpoint's name; None for another Saver's."""
        start, _, step = name.rpartition("-")
        return int(step) if start == self._name and _STEP.fullmatch(step) else None

    # ====== Whether one is whole ======

    def read_index(self, step: int) -> Index:
        """Return the index of a checkpoint of which all files are there in the right sizes.

        Raises DamageError. Whether the data is what was written shows only when it is read.
        """
        path = f"{self.prefix(step)}.index"
        try:
            index = parse_index(_read_file(path))
        except tf.errors.NotFoundError:
            raise DamageError(f"{path} is missing") from None
        except ValueError as error:
            raise DamageError(f"{path} is damaged: {error}") from error
        for shard, needed in enumerate(index.sizes):
            data = f"{self.prefix(step)}.data-{shard:05}-of-{len(index.sizes):05}"
            try:
                size = tf.io.gfile.stat(data).length
            except tf.errors.NotFoundError:
                raise DamageError(f"{data} is missing") from None
            if size < needed:
                raise DamageError(f"{data} is cut off: it has {size} bytes of {needed}")
        return index

    # ====== Saving ======

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Name a checkpoint that has just been written, and delete those that are not kept."""
        steps = [one for one in self._known() if one != step] + [step]
        before = self._metrics
        self._metrics = {**before, step: dict(metrics)}
        kept = self._kept(steps)
        self._metrics = {one: of for one, of in self._metrics.items() if of and one in kept}
        if self._metrics != before:
            self._write_metrics()
        names = [f"{self._name}-{one}" for one in kept]
        _write_file(self._path(_POINTER), text_format.MessageToString(_state(names)))
        self._steps = kept
        dropped = set(steps) - set(kept)
        if dropped:
            self._delete(dropped)

    def _kept(self, steps: list[int]) -> list[int]:
        newest = self._keep.newest
        if not newest:
            return steps
        best = self._ranked(steps)[: self._keep.best]
        kept = {*steps[-newest:], *best}
        return [step for step in steps if step in kept]

    def _ranked(self, steps: Iterable[int]) -> list[int]:
        """Return those of `steps` that have the metric, the best first, of equals the newest."""
        values = {step: self._metrics.get(step, {}).get(self._keep.metric) for step in steps}
        sign = 1 if self._keep.is_higher_better else -1
        ranked = [
            (sign * value, step)
            for step, value in values.items()
            if value is not None and not math.isnan(value)
        ]
        return [step for _, step in sorted(ranked, reverse=True)]

    def _delete(self, dropped: set[int]) -> None:
        """Delete checkpoints, and what killed saves left of others; an index before its data."""
        kept = set(self._steps or [])
        for step, files in self._files(self._names()).items():
            if step in dropped or (step not in kept and not files.index):
                for name in filter(None, (files.index, *files.others)):
                    if name.endswith("_temp"):
                        tf.io.gfile.rmtree(self._path(name))
                    else:
                        tf.io.gfile.remove(self._path(name))

    # ====== Metrics ======

    def _stored_metrics(self) -> dict[int, dict[str, float]]:
        """Return what the file has of this name, by step. What is garbled counts as not there."""
        try:
            named = {self._step_of(name): of for name, of in self._all_metrics().items()}
            return {
                step: {metric: float(value) for metric, value in of.items()}
                for step, of in named.items()
                if step is not None
            }
        except (ValueError, TypeError, AttributeError) as error:
            path = self._path(_METRICS)
            self._complain(f"{path} is garbled ({error}); no older checkpoint counts as best")
            return {}

    def _write_metrics(self) -> None:
        """Write what was measured; what the file has of other names stays."""
        try:
            found = self._all_metrics()
            others = {name: of for name, of in found.items() if self._step_of(name) is None}
        except (ValueError, TypeError, AttributeError):
            others = {}  # that it is garbled was said when it was first read
        ours = {f"{self._name}-{step}": of for step, of in self._metrics.items()}
        _write_file(self._path(_METRICS), json.dumps({**others, **ours}, indent=1) + "\n")

    def _all_metrics(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(_read_file(self._path(_METRICS)))
        except tf.errors.NotFoundError:
            return {}
        return found

    def _path(self, name: str) -> str:
        return posixpath.join(self.location, name)


def _state(names: list[str]) -> Any:
    """Return the content of a `checkpoint` file. Relative names let the directory be moved."""
    return tf1.train.generate_checkpoint_state_proto(".", names[-1], list(names))


def _read_file(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        data: bytes = file.read()
    return data


def _write_file(path: str, text: str) -> None:
    """Replace a file in one step, as TensorFlow replaces its `checkpoint` file."""
    temporary = f"{path}.tmp{uuid.uuid4().hex}"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(text)
    tf.io.gfile.rename(temporary, path, overwrite=True)
