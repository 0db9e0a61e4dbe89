"""Which checkpoints are kept, found, and taken for the newest or the best."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

tf = pytest.importorskip("tensorflow.compat.v2")

from pai_runner import checkpoint  # noqa: E402
from pai_runner.errors import SetupError, UsageError  # noqa: E402

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


class Run:
    """What a process does: a manager, and a value that says which step it holds."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.value = tf.Variable(-1)
        self.manager = checkpoint.Manager({"value": self.value}, folder, **options)

    def save(self, *steps: int, **metrics: float) -> Run:
        for step in steps:
            self.value.assign(step)
            self.manager.save(step, metrics)
        return self

    def restored(self, which: Any = "latest") -> int | None:
        """Return the step that was restored, when the value is of that step."""
        step = self.manager.restore(which)
        assert step is None or int(self.value) == step
        return step


def steps(folder: Path, name: str = "ckpt", suffix: str = ".index") -> list[int]:
    """Return those of which there is an index, or another part."""
    found = (path.name.removesuffix(suffix) for path in folder.glob(f"{name}-*{suffix}"))
    return sorted(int(one.removeprefix(f"{name}-")) for one in found)


def pointed(folder: Path) -> list[str]:
    """Return what TensorFlow reads in the `checkpoint` file."""
    state = tf.train.get_checkpoint_state(folder)
    return [path.removeprefix(f"{folder}/") for path in state.all_model_checkpoint_paths]


def test_the_newest_are_kept_across_runs(tmp_path: Path) -> None:
    Run(tmp_path, max_to_keep=2).save(1, 2, 3)
    assert steps(tmp_path) == [2, 3]
    assert pointed(tmp_path) == ["ckpt-2", "ckpt-3"]
    Run(tmp_path, max_to_keep=2).save(4)
    assert steps(tmp_path) == [3, 4]
    assert pointed(tmp_path) == ["ckpt-3", "ckpt-4"]
    assert len(list(tmp_path.iterdir())) == 5
    Run(tmp_path, max_to_keep=None).save(5, 6)
    assert steps(tmp_path) == [3, 4, 5, 6]


def test_the_best_are_kept_beside_the_newest(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_to_keep": 1, "best": "accuracy", "keep_best": 2}
    run = Run(tmp_path, **options)
    assert run.manager.best() is None
    for step, accuracy in enumerate([0.3, 0.9, 0.1, 0.8, float("nan")], start=1):
        run.save(step, accuracy=accuracy)
    assert steps(tmp_path) == [2, 4, 5]
    run = Run(tmp_path, **options).save(6)
    assert steps(tmp_path) == [2, 4, 6]
    assert run.manager.best() == f"{tmp_path}/ckpt-2"
    assert Run(tmp_path, **options).restored("best") == 2
    assert Run(tmp_path, **options).restored() == 6
    measured = json.loads((tmp_path / "checkpoint_metrics.json").read_text())
    assert measured == {"ckpt-2": {"accuracy": 0.9}, "ckpt-4": {"accuracy": 0.8}}
    lowest = Run(tmp_path, **{**options, "mode": "min"})
    assert lowest.manager.best() == f"{tmp_path}/ckpt-4"


def test_a_damaged_best_gives_way_to_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path, best="accuracy")
    for step in (1, 2, 3):
        run.save(step, accuracy=step / 10)
    (tmp_path / "ckpt-3.index").write_bytes(b"")
    again = Run(tmp_path, best="accuracy")
    assert again.restored("best") == 2
    assert again.manager.best() == f"{tmp_path}/ckpt-2"


def test_garbled_metrics_are_told_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path, best="loss", mode="min").save(1, loss=1.0)
    (tmp_path / "checkpoint_metrics.json").write_text("[1")
    run = Run(tmp_path, best="loss", mode="min").save(2, loss=2.0)
    assert "checkpoint_metrics.json is garbled" in caplog.text
    assert run.manager.best() == f"{tmp_path}/ckpt-2"
    assert Run(tmp_path, best="loss").restored("best") == 2


def test_another_name_in_the_directory_is_left_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_to_keep": 1, "best": "accuracy"}
    one, two = Run(tmp_path, **options), Run(tmp_path, name="ckpt-best", **options)
    for step in (1, 2, 3):
        one.save(step, accuracy=1 / step)
        two.save(step + 10, accuracy=step)
    assert steps(tmp_path, "ckpt-best") == [13]
    assert sorted(path.name for path in tmp_path.glob("ckpt-[0-9].index")) == [
        "ckpt-1.index", "ckpt-3.index",
    ]  # fmt: skip
    assert Run(tmp_path, **options).restored("best") == 1
    assert Run(tmp_path, **options).restored() == 3
    assert Run(tmp_path, name="ckpt-best", **options).restored("best") == 13


def test_the_order_is_that_of_the_saves(tmp_path: Path) -> None:
    # A script went back to an older step, and goes on from there.
    Run(tmp_path, max_to_keep=3).save(50, 100, 60)
    assert steps(tmp_path) == [50, 60, 100]
    assert Run(tmp_path).restored() == 60
    Run(tmp_path, max_to_keep=2).save(70)
    assert steps(tmp_path) == [60, 70]


def test_what_a_killed_save_did_not_name_is_the_newest(tmp_path: Path) -> None:
    Run(tmp_path).save(1, 2)
    pointer = (tmp_path / "checkpoint").read_bytes()
    Run(tmp_path).save(3)
    (tmp_path / "checkpoint").write_bytes(pointer)
    assert Run(tmp_path).restored() == 3
    Run(tmp_path, max_to_keep=2).save(4)
    assert pointed(tmp_path) == ["ckpt-3", "ckpt-4"]


def test_what_killed_saves_left_goes_with_the_next_deletion(tmp_path: Path) -> None:
    Run(tmp_path).save(1, 2)
    left = [
        "ckpt-3.data-00000-of-00001",
        "ckpt-4.data-00000-of-00001.tempstate123",
        "ckpt-5.meta",
        "ckpt-6.index.tmp0123456789abcdef0123456789abcdef",
    ]
    for name in left:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ckpt-7_temp").mkdir()
    (tmp_path / "ckpt-7_temp" / "part-00000-of-00001.index").write_bytes(b"x")
    mine = ["ckpt-x.index", "ckpt-08.index", "other-1.index", "notes"]
    for name in mine:
        (tmp_path / name).write_bytes(b"x")
    Run(tmp_path, max_to_keep=2).save(9)
    kept = {*mine, "checkpoint"} | {
        f"ckpt-{step}.{part}" for step in (2, 9) for part in ("index", "data-00000-of-00001")
    }
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_damaged_newest_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    Run(tmp_path).save(1, 2, 3)
    (tmp_path / "ckpt-3.index").write_bytes(b"")
    run = Run(tmp_path, max_to_keep=3)
    assert run.restored() == 2
    run.save(4)
    assert steps(tmp_path) == [1, 2, 4]


def test_plain_managers_and_ours_take_turns(tmp_path: Path) -> None:
    value = tf.Variable(0)
    plain = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), tmp_path, 3)
    for _ in range(2):
        plain.save()
    run = Run(tmp_path)
    assert run.manager.restore() == 2
    run.save(7)
    again = tf.train.Checkpoint(value=value)
    again.restore(tf.train.latest_checkpoint(tmp_path)).assert_consumed()
    assert (int(value), int(again.save_counter)) == (7, 3)


def test_only_known_ones_can_be_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.restored() is None
    with pytest.raises(UsageError, match="no metric"):
        run.restored("best")
    with pytest.raises(UsageError, match="which=3"):
        run.restored(3)
    strict = Run(tmp_path, strict=True)
    Run(tmp_path).save(1)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(SetupError, match="checkpoint is missing"):
        strict.restored()
