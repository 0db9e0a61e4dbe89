"""Each way in which TensorFlow uses files, through the file layer.

The rows are those of the storage reference's table of TensorFlow's file operations: what is
written through an interface is read back through it, and what lies in the bucket is checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_systems import FileSystems

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

Row = Callable[[Any, str, Path], None]
ROWS: list[Row] = []


def row(function: Row) -> Row:
    ROWS.append(function)
    return function


@pytest.mark.parametrize("protocol", ["memory", "s3", "oss"])
@pytest.mark.parametrize("run", ROWS, ids=lambda run: run.__name__)
def test_works(run: Row, protocol: str, tf: Any, file_systems: FileSystems, tmp_path: Path) -> None:
    folder = file_systems.new_folder(protocol, tmp_path)
    with tf.Graph().as_default() if run.__name__.startswith("v1_") else nullcontext():
        run(tf, folder, tmp_path)
    left = [name for _, _, names in tf.io.gfile.walk(folder) for name in names if "temp" in name]
    assert not left
    if protocol != "memory":
        keys = file_systems.keys(folder)
        assert keys, "nothing was uploaded"
        assert not [key for key in keys if "temp" in key or ".tmp" in key or key.endswith("/")]


def names(tf: Any, folder: str) -> set[str]:
    """Return the files below `folder`, relative to it."""
    return {
        os.path.join(top, name).removeprefix(f"{folder}/")
        for top, _, files in tf.io.gfile.walk(folder)
        for name in files
    }


# ====== Checkpoints ======


@row
def v1_saver(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    prefix = os.path.join(folder, "model.ckpt")
    weights = v1.get_variable("weights", [300, 400])
    step = v1.get_variable("step", [], tf.int64, v1.zeros_initializer())
    increment = v1.assign_add(step, 1)
    saver = v1.train.Saver(max_to_keep=2)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        for _ in range(4):
            session.run(increment)
            assert saver.save(session, prefix, step) == f"{prefix}-{session.run(step)}"
        expected = session.run(weights)
    assert names(tf, folder) == {
        "checkpoint",
        *(f"model.ckpt-{step}.{end}" for step in (3, 4) for end in
          ("meta", "index", "data-00000-of-00001")),
    }  # fmt: skip
    latest = v1.train.latest_checkpoint(folder)
    assert latest == f"{prefix}-4"
    assert v1.train.checkpoint_exists(latest)
    assert not v1.train.checkpoint_exists(f"{prefix}-2")
    with v1.Session() as session:
        saver.restore(session, latest)
        np.testing.assert_array_equal(session.run(weights), expected)
        assert session.run(step) == 4
    assert [name for name, _ in v1.train.list_variables(latest)] == ["step", "weights"]


@row
def v1_sharded_saver_and_import_meta_graph(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    value = v1.get_variable("value", initializer=[1.0, 2.0], use_resource=False)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        saved = v1.train.Saver(sharded=True).save(session, f"{folder}/sharded")
    assert v1.train.load_checkpoint(saved).get_tensor("value").tolist() == [1.0, 2.0]
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(f"{saved}.meta").restore(session, saved)
        assert session.run(f"{value.op.name}:0").tolist() == [1.0, 2.0]


@row
def v1_monitored_session(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    step = v1.train.get_or_create_global_step()
    increment = v1.assign_add(step, 1)
    v1.summary.scalar("step", step)
    for expected in (3, 6):
        with v1.train.MonitoredTrainingSession(
            checkpoint_dir=folder, save_checkpoint_steps=2, save_summaries_steps=1
        ) as session:
            for _ in range(3):
                reached = session.run(increment)
        assert reached == expected
    v1.summary.FileWriterCache.clear()  # closes them
    assert "graph.pbtxt" in names(tf, folder)


@row
def checkpoint_manager(tf: Any, folder: str, tmp_path: Path) -> None:
    value = tf.Variable(np.random.rand(1000).astype("f"))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(value=value), folder, max_to_keep=2)
    assert manager.latest_checkpoint is None
    for _ in range(3):
        manager.save()
    assert names(tf, folder) == {
        "checkpoint",
        *(f"ckpt-{n}.{end}" for n in (2, 3) for end in ("index", "data-00000-of-00001")),
    }
    restored = tf.Variable(np.zeros(1000, "f"))
    latest = tf.train.CheckpointManager(tf.train.Checkpoint(value=restored), folder, 2)
    assert latest.restore_or_initialize() == f"{folder}/ckpt-3"
    np.testing.assert_array_equal(restored.numpy(), value.numpy())


@row
def checkpoint_restore(tf: Any, folder: str, tmp_path: Path) -> None:
    large = tf.Variable(np.random.rand(3, 1000, 1000).astype("f"))  # more than a block
    small = tf.Variable(7)
    path = tf.train.Checkpoint(large=large, small=small).save(f"{folder}/ck")
    other = tf.train.Checkpoint(large=tf.Variable(np.zeros((3, 1000, 1000), "f")))
    other.restore(path).expect_partial()
    np.testing.assert_array_equal(other.large.numpy(), large.numpy())
    reader = tf.train.load_checkpoint(folder)
    assert reader.get_tensor("small/.ATTRIBUTES/VARIABLE_VALUE") == 7


# ====== Saved models ======


@row
def v1_saved_model(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    export = f"{folder}/export/3"
    x = v1.placeholder(tf.float32, [None], name="x")
    y = x * v1.get_variable("w", initializer=3.0)
    builder = v1.saved_model.Builder(export)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        assert builder.save() == f"{export}/saved_model.pb".encode()
    with pytest.raises(AssertionError, match="already exists"):
        v1.saved_model.Builder(export)
    with tf.Graph().as_default(), v1.Session() as session:
        graph = v1.saved_model.load(session, ["serve"], export)
        output = graph.signature_def["serving_default"].outputs["y"].name
        assert session.run(output, {"x:0": [2.0]}).tolist() == [6.0]


@row
def saved_model_with_assets(tf: Any, folder: str, tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n", encoding="utf-8")

    class Lookup(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            rows = tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(rows, -1)
            self.offset = tf.Variable(np.int64(10))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, words: Any) -> Any:
            return self.table.lookup(words) + self.offset

    tf.saved_model.save(Lookup(), f"{folder}/model")
    assert "model/assets/words.txt" in names(tf, folder)
    vocabulary.unlink()
    loaded = tf.saved_model.load(f"{folder}/model")
    assert loaded(tf.constant(["two", "none"])).numpy().tolist() == [12, 9]
    assert tf.saved_model.contains_saved_model(f"{folder}/model")


# ====== Records and texts ======


@row
def records(tf: Any, folder: str, tmp_path: Path) -> None:
    content = [os.urandom(size) for size in (0, 1, 1000, 300_000, 5, 1_000_000)]
    for name, compression in (("plain", ""), ("zipped", "GZIP")):
        path = os.path.join(folder, f"{name}.tfrecord")
        with tf.io.TFRecordWriter(path, compression) as writer:
            for one in content:
                writer.write(one)
        dataset = tf.data.TFRecordDataset(path, compression)
        assert [one.numpy() for one in dataset] == content
        small = tf.data.TFRecordDataset([path, path], compression, buffer_size=1000)
        assert [one.numpy() for one in small] == content * 2


@row
def many_record_files_at_once(tf: Any, folder: str, tmp_path: Path) -> None:
    for shard in range(8):
        with tf.io.TFRecordWriter(f"{folder}/part-{shard:05d}") as writer:
            for number in range(50):
                writer.write(f"{shard}/{number}".encode())
    files = tf.data.Dataset.list_files(f"{folder}/part-*", shuffle=True)
    dataset = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=4)
    found = sorted(one.numpy().decode() for one in dataset.prefetch(4))
    assert found == sorted(f"{shard}/{number}" for shard in range(8) for number in range(50))


@row
def v1_queue_runners(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    for shard in range(3):
        with tf.io.TFRecordWriter(f"{folder}/train-{shard}.tfrecord") as writer:
            for number in range(20):
                feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
                features = tf.train.Features(feature={"number": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
    files = v1.gfile.Glob(f"{folder}/train-*.tfrecord")
    queue = v1.train.string_input_producer(files, num_epochs=1)
    _, record = v1.TFRecordReader().read(queue)
    parsed = v1.parse_single_example(record, {"number": v1.FixedLenFeature([], tf.int64)})
    batch = v1.train.batch([parsed["number"]], 7, num_threads=2, allow_smaller_final_batch=True)
    found: list[int] = []
    with v1.Session() as session:
        session.run(v1.local_variables_initializer())
        coordinator = v1.train.Coordinator()
        threads = v1.train.start_queue_runners(session, coordinator)
        with suppress(tf.errors.OutOfRangeError):
            while True:
                found += session.run(batch).tolist()
        coordinator.request_stop()
        coordinator.join(threads)
    assert sorted(found) == sorted(list(range(20)) * 3)


@row
def v1_text_line_reader(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with v1.gfile.Open(f"{folder}/lines.csv", "w") as stream:
        stream.write("1,one\n2,two\n")
    queue = v1.train.string_input_producer([f"{folder}/lines.csv"], num_epochs=1)
    _, line = v1.TextLineReader().read(queue)
    number, word = v1.decode_csv(line, [[0], [""]])
    with v1.Session() as session:
        session.run(v1.local_variables_initializer())
        threads = v1.train.start_queue_runners(session, coordinator := v1.train.Coordinator())
        assert session.run([number, word]) == [1, b"one"]
        assert session.run([number, word]) == [2, b"two"]
        coordinator.request_stop()
        coordinator.join(threads)


@row
def text_lines(tf: Any, folder: str, tmp_path: Path) -> None:
    text = "first\nzweite\n第三\n" * 30_000
    with tf.io.gfile.GFile(f"{folder}/text", "w") as stream:
        stream.write(text)
    lines = tf.data.TextLineDataset(f"{folder}/text").skip(89_997)
    assert [line.numpy().decode() for line in lines] == ["first", "zweite", "第三"]
    with tf.io.gfile.GFile(f"{folder}/text") as stream:
        assert sum(1 for _ in stream) == 90_000


@row
def fixed_length_records(tf: Any, folder: str, tmp_path: Path) -> None:
    tf.io.write_file(f"{folder}/fixed", b"HEAD" + bytes(range(100)))
    dataset = tf.data.FixedLengthRecordDataset(f"{folder}/fixed", 20, header_bytes=4)
    assert [one.numpy() for one in dataset] == [bytes(range(n, n + 20)) for n in range(0, 100, 20)]


@row
def cached_and_saved_datasets(tf: Any, folder: str, tmp_path: Path) -> None:
    tf.io.gfile.makedirs(f"{folder}/cache")
    cached = tf.data.Dataset.range(100).cache(f"{folder}/cache/file")
    assert [int(one) for one in cached] == list(range(100))
    assert [int(one) for one in cached] == list(range(100))
    tf.data.Dataset.range(10).save(f"{folder}/saved")
    assert sorted(int(one) for one in tf.data.Dataset.load(f"{folder}/saved")) == list(range(10))


@row
def files_and_folders(tf: Any, folder: str, tmp_path: Path) -> None:
    gfile = tf.io.gfile
    gfile.makedirs(f"{folder}/a/b")
    tf.io.write_file(f"{folder}/a/b/file", "content")
    assert tf.io.read_file(f"{folder}/a/b/file").numpy() == b"content"
    assert gfile.glob(f"{folder}/*/b/f*") == [f"{folder}/a/b/file"]
    assert [one.numpy() for one in tf.data.Dataset.list_files(f"{folder}/a/b/*")] == [
        f"{folder}/a/b/file".encode()
    ]
    assert gfile.listdir(f"{folder}/a") == ["b"]
    gfile.copy(f"{folder}/a/b/file", f"{folder}/copy")
    gfile.rename(f"{folder}/copy", f"{folder}/renamed")
    gfile.rmtree(f"{folder}/a")
    assert names(tf, folder) == {"renamed"}


@row
def copies_between_file_systems(tf: Any, folder: str, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    local = tmp_path / "local"
    local.write_bytes(content)
    protocol, _, rest = folder.partition("://")
    other = f"ram://{rest}" if protocol == "memory" else f"memory://{rest}"
    tf.io.gfile.copy(str(local), f"{folder}/copied")
    tf.io.gfile.copy(f"{folder}/copied", f"{other}-x", overwrite=True)
    tf.io.gfile.copy(f"{other}-x", f"{folder}/again")
    tf.io.gfile.copy(f"{folder}/again", f"{tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == content


# ====== Summaries ======


def events(tf: Any, folder: str) -> list[Any]:
    """Return all events of the event files in `folder`."""
    paths = sorted(tf.io.gfile.glob(f"{folder}/events.out.tfevents.*"))
    return [event for path in paths for event in tf.compat.v1.train.summary_iterator(path)]


@row
def v1_file_writer(tf: Any, folder: str, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    value = v1.placeholder(tf.float32, [])
    summary = v1.summary.scalar("loss", value)
    with v1.Session() as session, v1.summary.FileWriter(f"{folder}/logs", session.graph) as writer:
        for step in range(3):
            writer.add_summary(session.run(summary, {value: step * 0.5}), step)
            writer.flush()
        seen = [event.step for event in events(tf, f"{folder}/logs") if event.HasField("summary")]
        assert seen == [0, 1, 2], "flushed events can be read before the writer is closed"
    values = [
        one.simple_value for event in events(tf, f"{folder}/logs") for one in event.summary.value
    ]
    assert values == [0.0, 0.5, 1.0]


@row
def summary_writer(tf: Any, folder: str, tmp_path: Path) -> None:
    writer = tf.summary.create_file_writer(f"{folder}/logs")
    with writer.as_default():
        for step in range(5):
            tf.summary.write("loss", 1.0 / (step + 1), step=step)
            tf.summary.flush()
    writer.close()
    steps = [event.step for event in events(tf, f"{folder}/logs") for _ in event.summary.value]
    assert steps == [0, 1, 2, 3, 4]


# ====== Keras ======


def is_keras_2() -> bool:
    import keras

    return bool(keras.__version__.startswith("2."))


def model(keras: Any) -> Any:
    made = keras.Sequential([keras.layers.Dense(3, activation="relu"), keras.layers.Dense(1)])
    made.compile(optimizer="adam", loss="mse")
    made.fit(np.ones((8, 4), "f"), np.ones((8, 1), "f"), verbose=0)
    return made


def assert_same_model(first: Any, second: Any) -> None:
    x = np.random.rand(5, 4).astype("f")
    np.testing.assert_allclose(first.predict(x, verbose=0), second.predict(x, verbose=0), 1e-5)


@row
def keras_model(tf: Any, folder: str, tmp_path: Path) -> None:
    tf.io.gfile.makedirs(folder)
    made = model(tf.keras)
    made.save(f"{folder}/whole.keras")
    assert_same_model(made, tf.keras.models.load_model(f"{folder}/whole.keras"))


@row
def keras_weights(tf: Any, folder: str, tmp_path: Path) -> None:
    tf.io.gfile.makedirs(folder)
    made, other = model(tf.keras), model(tf.keras)
    if is_keras_2():  # Keras 2 opens .h5 files with h5py: local ones
        made.save_weights(f"{folder}/weights")
        other.load_weights(f"{folder}/weights")
    else:
        made.save_weights(f"{folder}/only.weights.h5")
        other.load_weights(f"{folder}/only.weights.h5")
    assert_same_model(made, other)


@row
def keras_saved_model(tf: Any, folder: str, tmp_path: Path) -> None:
    made = model(tf.keras)
    if is_keras_2():
        made.save(f"{folder}/model")
        assert_same_model(made, tf.keras.models.load_model(f"{folder}/model"))
    else:
        made.export(f"{folder}/model", verbose=False)
        served = tf.saved_model.load(f"{folder}/model")
        x = np.random.rand(5, 4).astype("f")
        np.testing.assert_allclose(served.serve(x), made.predict(x, verbose=0), 1e-4)


@row
def legacy_keras_saved_model(tf: Any, folder: str, tmp_path: Path) -> None:
    import tf_keras

    made = model(tf_keras)
    made.save(f"{folder}/model", save_format="tf")
    assert_same_model(made, tf_keras.models.load_model(f"{folder}/model"))
    made.save_weights(f"{folder}/weights")
    other = model(tf_keras)
    other.load_weights(f"{folder}/weights")
    assert_same_model(made, other)
    made.save(f"{folder}/whole.keras")
    assert_same_model(made, tf_keras.models.load_model(f"{folder}/whole.keras"))


@row
def keras_callbacks(tf: Any, folder: str, tmp_path: Path) -> None:
    keras = tf.keras
    x, y = np.ones((8, 4), "f"), np.ones((8, 1), "f")
    made = model(keras)

    class Stop(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyError("preempted")

    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(f"{folder}/backup")

    with pytest.raises(KeyError):
        made.fit(x, y, epochs=4, verbose=0, callbacks=[backup(), Stop()])
    saving = keras.callbacks.ModelCheckpoint(f"{folder}/best-{{epoch}}.keras")
    history = model(keras).fit(x, y, epochs=4, verbose=0, callbacks=[backup(), saving])
    assert len(history.epoch) < 4, "training began anew"
    assert f"best-{history.epoch[-1] + 1}.keras" in names(tf, folder)


@row
def tensorboard_callback(tf: Any, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = tf.keras.callbacks.TensorBoard(f"{folder}/logs")
    model(tf.keras).fit(
        np.ones((8, 4), "f"), np.ones((8, 1), "f"), epochs=2, verbose=0, callbacks=[board]
    )
    assert {event.step for event in events(tf, f"{folder}/logs/train")} >= {0, 1}
