"""checkpoint.Saver: the variables of a graph, whole or not at all."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

tf1 = pytest.importorskip("tensorflow.compat.v1")

from pai_runner import checkpoint  # noqa: E402
from pai_runner.errors import SetupError, UsageError  # noqa: E402

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


class Counter:
    """Two variables, a partitioned one, and the global step, all of the same value."""

    def __init__(
        self, folder: Path, width: int = 3, extra: str = "", device: str = "", **options: Any
    ) -> None:
        zeros = tf1.zeros_initializer()
        with tf1.Graph().as_default() as self.graph:
            self.step = tf1.train.create_global_step()
            self.values = [
                self.step,
                tf1.get_variable("one", [width], initializer=zeros, use_resource=False),
                tf1.get_variable("two", [4], initializer=zeros, use_resource=True),
                *tf1.get_variable(
                    "parts", [7, 2], initializer=zeros, partitioner=tf1.fixed_size_partitioner(3)
                ),
            ]
            if extra:
                with tf1.device(device):
                    self.values.append(tf1.get_variable(extra, [50], initializer=zeros))
            self.add = [tf1.assign_add(one, tf1.ones_like(one)) for one in self.values]
            self.saver = checkpoint.Saver(folder, **options)
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.session.run(self.add)

    def saved(self, steps: int) -> Counter:
        """Save at so many steps, from 1."""
        for _ in range(steps):
            self.train()
            self.saver.save(self.session)
        return self

    def all_equal(self) -> int:
        """Return the value that all variables have."""
        values = {float(one) for value in self.session.run(self.values) for one in value.flat}
        (value,) = values
        return int(value)


def test_a_graph_starts_or_resumes(tmp_path: Path) -> None:
    first = Counter(tmp_path / "new")
    assert first.saver.restore(first.session) is None
    first.train()
    path = first.saver.save(first.session, first.step)
    assert path == str(tmp_path / "new" / "model.ckpt-1")
    second = Counter(tmp_path / "new")
    assert second.saver.restore(second.session) == 1
    assert second.all_equal() == 1


def test_plain_tensorflow_reads_it_wherever_the_folder_is(tmp_path: Path) -> None:
    Counter(tmp_path / "out").saved(2)
    moved = shutil.move(tmp_path / "out", tmp_path / "moved")
    path = tf1.train.latest_checkpoint(moved)
    assert path == f"{moved}/model.ckpt-2"
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.train.import_meta_graph(f"{path}.meta").restore(session, path)
        assert (session.run("one:0") == 2).all()


def test_what_plain_tensorflow_saved_is_resumed(tmp_path: Path) -> None:
    counter = Counter(tmp_path)
    counter.train(4)
    with counter.graph.as_default():
        tf1.train.Saver().save(counter.session, f"{tmp_path}/model.ckpt", 4)
    other = Counter(tmp_path)
    assert other.saver.restore(other.session) == 4
    assert other.all_equal() == 4


def test_a_monitored_session_resumes_through_its_scaffold(tmp_path: Path) -> None:
    Counter(tmp_path).saved(3)
    other = Counter(tmp_path)
    with other.graph.as_default():
        scaffold = tf1.train.Scaffold(init_fn=lambda _, session: other.saver.restore(session))
        with tf1.train.MonitoredTrainingSession(scaffold=scaffold) as session:
            assert session.run(other.step) == 3
            session.run(other.add)
            assert other.saver.save(session).endswith("model.ckpt-4")


# ====== Damage ======


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(1).randrange(len(data) // 2)] ^= 16
    path.write_bytes(data)


DATA, INDEX = "model.ckpt-3.data-00000-of-00001", "model.ckpt-3.index"


@pytest.mark.parametrize("harm", [cut, empty, flip, Path.unlink])
@pytest.mark.parametrize("name", [DATA, INDEX])
def test_a_damaged_checkpoint_is_passed_over(
    name: str, harm: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Counter(tmp_path).saved(3)
    harm(tmp_path / name)
    other = Counter(tmp_path)
    other.train(9)
    assert other.saver.restore(other.session) == 2
    assert other.all_equal() == 2
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pai_runner.checkpoint", logging.WARNING)
    assert "model.ckpt-3" in record.message
    strict = Counter(tmp_path, strict=True)
    strict.train(9)
    with pytest.raises(SetupError, match=r"model\.ckpt-3"):
        strict.saver.restore(strict.session)
    assert strict.all_equal() == 9


def test_when_all_are_damaged_nothing_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Counter(tmp_path).saved(2)
    for path in tmp_path.glob("*.data-*"):
        flip(path)
    other = Counter(tmp_path)
    other.train(9)
    assert other.saver.restore(other.session) is None
    assert other.all_equal() == 9
    assert len(caplog.records) == 2
    assert all("Checksum does not match" in record.message for record in caplog.records)


def test_of_several_data_files_a_damaged_one_lets_nothing_be_restored(tmp_path: Path) -> None:
    options = {"extra": "extra", "device": "/cpu:0", "sharded": True}
    Counter(tmp_path, **options).saved(1)
    other = Counter(tmp_path, **options)
    other.train(9)
    data = sorted(tmp_path.glob("*.data-*-of-00002"))
    assert len(data) == 2
    for path in data:
        whole = path.read_bytes()
        flip(path)
        assert other.saver.restore(other.session) is None
        assert other.all_equal() == 9
        path.write_bytes(whole)
    assert other.saver.restore(other.session) == 1
    assert other.all_equal() == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"nonsense {", b'model_checkpoint_path: "x']
)
def test_without_a_pointer_the_newest_listed_is_taken(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Counter(tmp_path).saved(2)
    pointer = tmp_path / "checkpoint"
    if content is None:
        pointer.unlink()
    else:
        pointer.write_bytes(content)
    other = Counter(tmp_path)
    assert other.saver.restore(other.session) == 2
    told = [record.message for record in caplog.records]
    assert content == b"" or (len(told) == 1 and str(pointer) in told[0]), told


def test_the_pointer_may_name_what_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Counter(tmp_path).saved(2)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    other = Counter(tmp_path)
    assert other.saver.restore(other.session) == 2
    assert f"{tmp_path}/model.ckpt-7.index is missing" in caplog.text


# ====== Disagreement ======


def test_a_graph_that_disagrees_is_told_how(tmp_path: Path) -> None:
    Counter(tmp_path).saved(1)
    other = Counter(tmp_path, width=5, extra="fresh")
    other.train(9)
    with pytest.raises(SetupError) as raised:
        other.saver.restore(other.session)
    assert other.all_equal() == 9
    assert str(raised.value) == (
        f"the graph and the checkpoint {tmp_path}/model.ckpt-1 disagree, nothing was restored:\n"
        "  missing in the checkpoint, though the graph has them: fresh\n"
        "  of another shape: one has (5,), saved is (3,)"
    )


def test_another_dtype_and_an_old_name(tmp_path: Path) -> None:
    Counter(tmp_path).saved(2)
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.get_variable("one", [3], tf1.float64)
        tf1.get_variable("zwei", [4])
        with pytest.raises(SetupError) as raised:
            checkpoint.Saver(tmp_path).restore(session)
    text = str(raised.value)
    assert "of another dtype: one has float64, saved is float32" in text
    assert "none of these names: global_step; parts; two" in text


def test_what_only_the_checkpoint_has_is_an_error_if_strict(tmp_path: Path) -> None:
    Counter(tmp_path).saved(1)
    with tf1.Graph().as_default(), tf1.Session() as session:
        one = tf1.get_variable("one", [3])
        assert checkpoint.Saver(tmp_path).restore(session) == 1
        assert session.run(one).all()
        with pytest.raises(SetupError, match="global_step; parts; two"):
            checkpoint.Saver(tmp_path, strict=True).restore(session)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    Counter(tmp_path).saved(1)
    with tf1.Graph().as_default(), tf1.Session() as session:
        for number in range(25):
            tf1.get_variable(f"v{number:02}", [1])
        with pytest.raises(SetupError, match="v09; and 15 more"):
            checkpoint.Saver(tmp_path).restore(session)


# ====== Arguments ======


@pytest.mark.parametrize("kind", ["MonitoredSession", "SingularMonitoredSession"])
def test_a_monitored_session_is_saved_after_its_last_step(kind: str, tmp_path: Path) -> None:
    with tf1.Graph().as_default():
        step = tf1.train.create_global_step()
        train = tf1.assign_add(step, 1)
        saver = checkpoint.Saver(tmp_path)
        hooks = [tf1.train.StopAtStepHook(last_step=2)]
        with getattr(tf1.train, kind)(hooks=hooks) as session:
            while not session.should_stop():
                session.run(train)
            assert saver.save(session) == f"{tmp_path}/model.ckpt-2"
            assert saver.restore(session) == 2
        with pytest.raises(SetupError, match="the session is closed"):
            saver.save(session, 3)


@pytest.fixture
def empty_graph() -> Iterator[None]:
    with tf1.Graph().as_default():
        yield


@pytest.mark.usefixtures("empty_graph")
def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="no variables"):
        checkpoint.Saver(tmp_path)
    value = tf1.get_variable("value", [1])
    with pytest.raises(UsageError, match="needs to know the step"):
        checkpoint.Saver(tmp_path, save_on_exit=True)
    for options in ({"max_to_keep": 0}, {"mode": "up"}, {"keep_best": 0}, {"name": "a/b"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            checkpoint.Saver(tmp_path, **options)
    monkeypatch.delenv("PAI_CHECKPOINT_DIR", raising=False)
    with pytest.raises(SetupError, match="no directory"):
        checkpoint.Saver()
    monkeypatch.setenv("PAI_CHECKPOINT_DIR", str(tmp_path / "job"))
    saver = checkpoint.Saver(best="loss")
    with tf1.Session() as session:
        session.run(value.initializer)
        with pytest.raises(UsageError, match="needs a step"):
            saver.save(session)
        with pytest.raises(UsageError, match="no loss"):
            saver.save(session, 1, {"accuracy": 1})
        assert saver.save(session, 1) == f"{tmp_path}/job/model.ckpt-1"
