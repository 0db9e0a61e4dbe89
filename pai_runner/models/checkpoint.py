"""Checkpoints for training scripts: start or resume with one line.

    from pai_runner import checkpoint

    saver = checkpoint.Saver()                       # TensorFlow 1: graphs and sessions
    first = saver.restore(session) or 0
    for step in range(first, steps):
        ...
        saver.save(session, step + 1)

    manager = checkpoint.Manager({"model": model, "optimizer": optimizer, "step": step})
    manager.restore()                                # TensorFlow 2: objects
    manager.save()

What they write TensorFlow's own Saver, CheckpointManager and latest_checkpoint read, and the
other way round. Damaged checkpoints are passed over with a warning, on the logger
`pai_runner.checkpoint`, and nothing is ever restored in part.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import tensorflow.compat.v1 as tf1
import tensorflow.compat.v2 as tf

from pai_runner.errors import SetupError, UsageError
from pai_runner.models import checkpoint_graph, checkpoint_match, checkpoint_objects
from pai_runner.models.checkpoint_directory import Directory, Keep
from pai_runner.models.checkpoint_exit import ExitSave
from pai_runner.models.checkpoint_index import OBJECT_GRAPH, DamageError, Index
from pai_runner.models.checkpoint_reading import damage_of, read_all
from pai_runner.models.quiet import quietly
from pai_runner.models.sources import raw_session

__all__ = ["Manager", "Saver"]

Which = Literal["latest", "best"]

_LOG = logging.getLogger("pai_runner.checkpoint")


class _Keeper(ABC):
    """What Saver and Manager share: which checkpoint, and when. How is theirs to say."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        name: str,
        keep: Keep,
        strict: bool,
    ) -> None:
        if not name or "/" in name:
            raise UsageError(f"name={name!r} is no name of a file", "give one such as model.ckpt")
        self._keep = keep
        self._strict = strict
        self._directory = Directory(_location(directory), name, keep, self._complain)
        self._held: Callable[[], AbstractContextManager[None]] = nullcontext
        # The step of what is both in memory and saved, as far as is known.
        self._saved_step: int | None = None
        self._has_begun = False  # by a restore, also one that found nothing, or a save

    @property
    def directory(self) -> str:
        """Where the checkpoints are."""
        return self._directory.location

    def best(self) -> str | None:
        """Return the path of the best checkpoint by the metric `best`, None if none has it."""
        steps = self._directory.best()
        return self._directory.prefix(steps[0]) if steps else None

    def _on_exit(self, save: Callable[[], str | None]) -> None:
        self._held = ExitSave(save).held

    def _save(self, step: int, metrics: Mapping[str, float] | None) -> str:
        measured = {name: float(value) for name, value in (metrics or {}).items()}
        if measured and self._keep.metric not in ("", *measured):
            raise UsageError(
                f"metrics has no {self._keep.metric}, by which the best checkpoints are kept",
                f"it has {', '.join(sorted(measured))}",
            )
        with self._held():
            self._write(self._directory.open(), step)
            self._directory.add(step, measured)
            self._saved_step, self._has_begun = step, True
        return self._directory.prefix(step)

    def _restore(self, which: Which) -> int | None:
        with self._held():
            for step in self._candidates(which):
                try:
                    index = self._directory.read_index(step)
                    self._assign(self._directory.prefix(step), index)
                except DamageError as error:
                    self._complain(f"{error}; the checkpoint is passed over")
                    self._directory.set_back(step)
                else:
                    self._saved_step, self._has_begun = step, True
                    return step
            self._has_begun = True
        return None

    def _is_news(self, step: int) -> bool:
        """Tell whether what is in memory is to be saved at the end, as `step`.

        Until something was restored, it does not go on from the checkpoints that there are: as
        the newest it would put the training back to its begin.
        """
        if not self._has_begun and self._directory.newest():
            return False
        return step != self._saved_step

    def _candidates(self, which: Which) -> list[int]:
        if which == "latest":
            return self._directory.newest()
        if which != "best":
            raise UsageError(f"which={which!r} is not known", "it is 'latest' or 'best'")
        if not self._keep.metric:
            raise UsageError(
                "no metric says which checkpoint is the best", "give best='NAME' and save metrics"
            )
        return self._directory.best()

    def _complain(self, problem: str) -> None:
        if self._strict:
            raise SetupError(
                problem, "mend or remove it, or leave strict out to go on from an older checkpoint"
            )
        _LOG.warning("%s", problem)

    @abstractmethod
    def _write(self, base: str, step: int) -> None:
        """Write the checkpoint BASE-STEP, its index last."""

    @abstractmethod
    def _assign(self, prefix: str, index: Index) -> None:
        """Restore a checkpoint, all or nothing. Raises DamageError, SetupError."""


class Saver(_Keeper):
    """Saves and restores the variables of a TensorFlow 1 graph, by tf.compat.v1.train.Saver."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        max_to_keep: int | None = 5,
        *,
        var_list: Any = None,
        name: str = "model.ckpt",
        strict: bool = False,
        best: str | None = None,
        mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
        save_on_exit: bool = False,
        step: Any = None,
        sharded: bool = False,
    ) -> None:
        """Prepare for the variables of the default graph, or those of `var_list`.

        The graph must be complete: later variables are not saved.

        directory: a folder, or a prefix that tf.io.gfile reaches, such as s3://bucket/dir/;
            by default the job's checkpointDir.
        max_to_keep: so many of the newest are kept, also those of earlier runs; None keeps all.
        name: a checkpoint is called NAME-STEP. Other names in the directory are left alone.
        strict: a damaged checkpoint, and variables that only the checkpoint has, are errors.
        best: the metric by which the `keep_best` best are kept beside the newest, as given to
            `save`; the highest is best, with mode="min" the lowest.
        save_on_exit: on SIGTERM, save once more if the step has moved since the last save; then
            call the handler that SIGTERM had before or, without one, end with code 143: exit
            handlers run, what stands behind `finally` does not.
            It happens as soon as a `session.run` under way returns, so between two of them; what
            a script does in several runs may be half done. Beside older checkpoints nothing is
            saved before the first `restore` or `save`: it would not go on from them.
        step: the step for `save` and `save_on_exit` where none is given: a tensor, a variable,
            or a function that returns it; by default TensorFlow's global step.
        sharded: each device writes a file of its own.

        Raises SetupError without a directory or variables, UsageError for arguments that cannot
        be.
        """
        super().__init__(directory, name, _keep(max_to_keep, best, mode, keep_best), strict)
        if tf1.executing_eagerly():
            raise UsageError(
                "checkpoint.Saver saves graphs, and TensorFlow runs eagerly here",
                "use checkpoint.Manager, or make the Saver under tf.Graph().as_default()",
            )
        self._graph = tf1.get_default_graph()
        self._step = tf1.train.get_global_step() if step is None else step
        self._session: Any = None
        try:
            # Which are kept is ours to say.
            self._saver = tf1.train.Saver(var_list, sharded=sharded, max_to_keep=None)
        except ValueError as error:
            if "No variables" not in str(error):
                raise
            raise SetupError(
                "there are no variables to save in the graph",
                "make the Saver when the graph is complete, and in the same graph",
            ) from error
        if save_on_exit:
            if self._step is None:
                raise UsageError(
                    "save_on_exit=True needs to know the step",
                    "give step=, or call tf.train.get_or_create_global_step() before",
                )
            self._on_exit(self._save_at_exit)

    def save(self, sess: Any, step: Any = None, metrics: Mapping[str, float] | None = None) -> str:
        """Save the variables of the session as those of `step`, and return the path.

        A step that is saved again is replaced. Raises UsageError without a step, and TensorFlow's
        errors when it cannot write.
        """
        self._session = sess
        return self._save(self._step_of(self._step if step is None else step), metrics)

    def restore(self, sess: Any, which: Which = "latest") -> int | None:
        """Restore the newest whole checkpoint, or the best. Return its step, None without one.

        Variables are then left as they are; initialize them before. Raises SetupError where
        graph and checkpoint disagree, or with `strict`; nothing is restored then.
        """
        self._session = sess
        return self._restore(which)

    def _save_at_exit(self) -> str | None:
        if self._session is None:
            raise SetupError("no session was given to save or restore so far")
        step = self._step_of(self._step)
        return self._save(step, None) if self._is_news(step) else None

    def _step_of(self, step: Any) -> int:
        if step is None:
            raise UsageError("save needs a step", "give a number, or step= to the Saver")
        if callable(step):
            return int(step())
        if tf.is_tensor(step) or isinstance(step, tf1.Variable):
            return int(self._opened().run(step))
        return int(step)

    def _opened(self) -> Any:
        session = raw_session(self._session)
        if session is None:
            raise SetupError("the session is closed")
        return session

    def _write(self, base: str, step: int) -> None:
        with self._graph.as_default():  # a Saver looks where it is, and not at its session
            self._saver.save(self._opened(), base, global_step=step, write_state=False)

    def _assign(self, prefix: str, index: Index) -> None:
        wanted = checkpoint_graph.restored_variables(self._saver, self._graph, index)
        if OBJECT_GRAPH in index.tensors:
            hint = "it was saved by tf.train.Checkpoint: restore it with checkpoint.Manager"
        else:
            hint = "build the graph that was saved, choose by var_list, or use another directory"
        checkpoint_match.check(
            "the graph",
            prefix,
            wanted.values(),
            set(index.tensors) - set(wanted),
            self._strict,
            hint,
        )
        if not checkpoint_graph.is_read_at_once(self._saver, self._graph):
            read_all(prefix, index)
        definition = self._saver.saver_def
        with damage_of(prefix):
            self._opened().run(
                definition.restore_op_name, {definition.filename_tensor_name: prefix}
            )


class Manager(_Keeper):
    """Saves and restores objects, by tf.train.Checkpoint: models, optimizers, modules."""

    def __init__(
        self,
        checkpoint: Any,
        directory: str | os.PathLike[str] | None = None,
        max_to_keep: int | None = 5,
        *,
        name: str = "ckpt",
        strict: bool = False,
        best: str | None = None,
        mode: Literal["max", "min"] = "max",
        keep_best: int = 1,
        save_on_exit: bool = False,
        step: Any = None,
    ) -> None:
        """Prepare for a tf.train.Checkpoint, or for objects by name.

        save_on_exit: as Saver's. It happens between two steps of Python: one call of a
            tf.function, or one batch of Keras' `fit`, is whole; a training step in plain Python
            may be half done.
        step: a variable, or a function that returns the step; by default the variable that the
            checkpoint calls `step`, where it has one.

        The rest is as Saver has it. A model that is not built yet takes its values from the
        checkpoint when it is built, as with tf.train.Checkpoint; with `strict` it must be built.
        Raises SetupError without a directory, UsageError for arguments that cannot be.
        """
        super().__init__(directory, name, _keep(max_to_keep, best, mode, keep_best), strict)
        if not tf.executing_eagerly():
            raise UsageError(
                "checkpoint.Manager needs eager execution, and here is a graph",
                "use checkpoint.Saver",
            )
        if isinstance(checkpoint, Mapping):
            checkpoint = tf.train.Checkpoint(**checkpoint)
        if not isinstance(checkpoint, tf.train.Checkpoint):
            raise UsageError(
                f"a {type(checkpoint).__name__} is not what checkpoint.Manager saves",
                'give a tf.train.Checkpoint, or objects by name: {"model": model}',
            )
        self._checkpoint = checkpoint
        self._counter = checkpoint.save_counter  # made now, it is restored with the rest
        self._step = getattr(checkpoint, "step", None) if step is None else step
        if save_on_exit:
            self._on_exit(self._save_at_exit)

    def save(self, step: int | None = None, metrics: Mapping[str, float] | None = None) -> str:
        """Save the objects and return the path.

        The step is `step`, else what the step's variable says, else one more than there is. A
        step that is saved again is replaced. Raises TensorFlow's errors when it cannot write.
        """
        return self._save(self._current_step() if step is None else int(step), metrics)

    def restore(self, which: Which = "latest") -> int | None:
        """Restore the newest whole checkpoint, or the best. Return its step, None without one.

        The objects are then left as they are. Raises SetupError where they and the checkpoint
        disagree, or with `strict`; nothing is restored then.
        """
        return self._restore(which)

    def _save_at_exit(self) -> str | None:
        # The signal may come while a function is traced; the save is no part of it.
        with tf.init_scope():
            step = self._current_step()
            return self._save(step, None) if self._is_news(step) else None

    def _current_step(self) -> int:
        if self._step is None:
            return self._directory.highest_step() + 1
        return int(self._step() if callable(self._step) else self._step)

    def _write(self, base: str, step: int) -> None:
        # As tf.train.CheckpointManager does, so that plain TensorFlow finds all that it expects.
        self._counter.assign_add(1)
        with quietly():
            self._checkpoint.write(f"{base}-{step}")

    def _assign(self, prefix: str, index: Index) -> None:
        if OBJECT_GRAPH not in index.tensors:
            raise SetupError(
                f"the checkpoint {prefix} has variables by name, not objects",
                "it was saved by a Saver: restore it with checkpoint.Saver",
            )
        objects = checkpoint_objects.match_objects(self._checkpoint, prefix, index)
        checkpoint_match.check(
            "the script",
            prefix,
            objects.variables,
            objects.extra,
            self._strict,
            "make the objects that were saved, under the same names, or use another directory",
        )
        if not objects.is_read_at_once:
            read_all(prefix, index)
        with damage_of(prefix):
            self._checkpoint.read(prefix)


def _location(directory: str | os.PathLike[str] | None) -> str:
    location = os.fspath(directory or os.environ.get("PAI_CHECKPOINT_DIR", ""))
    if not location:
        raise SetupError(
            "there is no directory for checkpoints",
            "run the script with -DcheckpointDir=…, or give directory=",
        )
    return location


def _keep(newest: int | None, metric: str | None, mode: str, best: int) -> Keep:
    if mode not in ("max", "min"):
        raise UsageError(f"mode={mode!r} is not known", "it is 'max' or 'min'")
    if newest is not None and newest < 1:
        raise UsageError(f"max_to_keep={newest} keeps nothing", "give 1 or more, or None for all")
    if best < 1:
        raise UsageError(f"keep_best={best} keeps none", "give 1 or more")
    return Keep(newest, best if metric else 0, metric or "", mode == "max")
