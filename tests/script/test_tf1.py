"""TensorFlow 1 scripts on the installed TensorFlow 2."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from role_process import Result, RoleProcess

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

TENSORFLOW = tuple(int(part) for part in version("tensorflow").split(".")[:2])


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")


def run(folder: Path, script: str, files: dict[str, str] | None = None, **fields: Any) -> Result:
    """Run `script` with TensorFlow 1's API, `files` beside it."""
    code = folder / "code"
    write(code, {"script.py": script, **(files or {})})
    job = RoleProcess(folder / "job", code / "script.py", **{"tf_api": "v1", **fields})
    return job.run(240)


def printed(result: Result) -> Any:
    """Return the JSON that the script printed last."""
    assert result.code == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def test_imports_of_the_scripts_own_modules(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        import json, sys
        import tensorflow
        import tensorflow as tf
        import helper
        from pkg import deep

        real = sys.modules["tensorflow"]
        import importlib
        checks = {
            "one face": tensorflow is tf and helper.tf is tf and deep.tf is tf,
            "not the real one": real is not tf and importlib.import_module("tensorflow") is real,
            "names": tf.Session is real.compat.v1.Session and helper.Session is tf.Session,
            "version": tf.__version__ == real.__version__ and tf.__name__ == "tensorflow",
            "file": tf.__file__ == real.__file__ and "tensorflow" in repr(tf),
            "compat": tf.compat is real.compat and helper.tf1 is real.compat.v1,
            "keras": helper.Dense is tf.keras.layers.Dense and helper.keras is tf.keras,
            "keras by path": helper.layers.Dense is helper.Dense,
            "python": helper.gfile is sys.modules["tensorflow.python.platform.gfile"],
            "python by path": helper.array_ops.__name__ == "tensorflow.python.ops.array_ops",
            "submodules": tf.python.ops is sys.modules["tensorflow.python.ops"],
            "core": helper.core is sys.modules["tensorflow.core"],
            "module of names": helper.train.Saver is tf.train.Saver,
            "star": helper.star["placeholder"] is tf.placeholder,
            "exec": helper.executed is tf,
            "in a function": helper.inside() is tf,
            "dir": {"Session", "compat", "placeholder"} <= set(dir(tf)),
            "eager": not tf.executing_eagerly(),
            "resource variables": not tf.resource_variables_enabled(),
            "control flow": not tf.control_flow_v2_enabled(),
        }
        tf.added = 1
        checks["added names stay here"] = not hasattr(real.compat.v1, "added") and helper.tf.added
        print(json.dumps([name for name, holds in checks.items() if not holds]))
        """,
        {
            "helper.py": """
                import tensorflow as tf
                import tensorflow.compat.v1 as tf1
                import tensorflow.keras.layers as layers
                import tensorflow.python.ops.array_ops as array_ops
                from tensorflow import Session, core, keras, train
                from tensorflow.keras.layers import Dense
                from tensorflow.python.platform import gfile
                star = {}
                exec("from tensorflow import *", globals(), star)
                exec("import tensorflow as executed")
                def inside():
                    import tensorflow as tf
                    return tf
                """,
            "pkg/__init__.py": "",
            "pkg/deep.py": "import tensorflow as tf\n",
        },
    )
    assert printed(result) == []
    # Neither the switches nor the names are announced.
    assert "deprecated" not in result.err


def test_installed_packages_keep_the_real_module(tmp_path: Path) -> None:
    package = "import tensorflow as tf\nfrom tensorflow import keras\n"
    inside = tmp_path / "code" / "venv" / "lib" / "site-packages"
    outside = tmp_path / "elsewhere"
    write(inside, {"packed.py": package})
    write(outside, {"apart.py": package})
    result = run(
        tmp_path,
        f"""
        import json, sys
        sys.path += [{str(inside)!r}, {str(outside)!r}]
        import tensorflow as tf
        import apart, packed
        real = sys.modules["tensorflow"]
        print(json.dumps([module.tf is real for module in (apart, packed)] + [tf is not real]))
        """,
    )
    assert printed(result) == [True, True, True]


def test_modules_of_the_source_roots_are_the_scripts_own(tmp_path: Path) -> None:
    write(tmp_path / "root", {"common.py": "import tensorflow as tf\n"})
    result = run(
        tmp_path,
        "import json, common\nprint(json.dumps(hasattr(common.tf, 'Session')))\n",
        source_roots=[str(tmp_path / "root")],
    )
    assert printed(result) is True


def test_a_version_2_script_gets_tensorflow_as_it_is(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        import builtins, json, sys
        import tensorflow as tf
        print(json.dumps([
            tf is sys.modules["tensorflow"],
            tf.executing_eagerly(),
            type(builtins.__import__).__name__,
            any("pai_runner" in type(finder).__module__ for finder in sys.meta_path),
        ]))
        """,
        tf_api="v2",
    )
    assert printed(result) == [True, True, "builtin_function_or_method", False]


GONE = """
    import tensorflow as tf
    def attempt(text):
        try:
            exec(text)
        except (ImportError, AttributeError) as error:
            print(type(error).__name__, error)
    for text in {texts!r}:
        attempt(text)
"""


def test_what_is_gone_says_so(tmp_path: Path) -> None:
    texts = [
        "tf.contrib.layers",
        "import tensorflow.contrib.slim as slim",
        "from tensorflow.contrib import slim",
        "from tensorflow import contrib",
        "from tensorflow import flags, contrib",
        "from tensorflow.examples.tutorials.mnist import input_data",
        "tf.no_such_name",
        "from tensorflow import no_such_name",
        "import tensorflow.no_such_module",
    ]
    lines = run(tmp_path, GONE.format(texts=texts)).out.splitlines()
    contrib = "TensorFlow 2 has no tf.contrib"
    assert lines[0].startswith(
        f"AttributeError module 'tensorflow' has no attribute 'contrib': {contrib}"
    )
    for line in lines[1:5]:
        assert line.startswith(
            f"ModuleNotFoundError No module named 'tensorflow.contrib': {contrib}"
        )
    assert "No module named 'tensorflow.examples'" in lines[5]
    assert lines[6].startswith("AttributeError module 'tensorflow' has no attribute 'no_such_name'")
    assert lines[7].startswith("ImportError cannot import name 'no_such_name' from 'tensorflow'")
    assert lines[8] == "ModuleNotFoundError No module named 'tensorflow.no_such_module'"
    assert len(lines) == len(texts)


# Written as PAI's own documents write it: flags are read as the module is executed.
TRAINING = """
    import os
    import numpy as np
    import tensorflow as tf

    flags = tf.app.flags
    flags.DEFINE_string("buckets", "", "the data")
    flags.DEFINE_string("checkpointDir", "", "the checkpoints")
    flags.DEFINE_integer("steps", 1, "steps")
    flags.DEFINE_boolean("fast", False, "a switch")
    FLAGS = tf.app.flags.FLAGS
    RECORDS = os.path.join(FLAGS.buckets, "train.tfrecords")
    tf.logging.set_verbosity(tf.logging.ERROR)

    def write_records():
        with tf.python_io.TFRecordWriter(RECORDS) as writer:
            for i in range(20):
                feature = {
                    "x": tf.train.Feature(float_list=tf.train.FloatList(value=[i, 1.0])),
                    "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 2])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())

    def batch():
        queue = tf.train.string_input_producer([RECORDS])
        _, serialized = tf.TFRecordReader().read(queue)
        example = tf.parse_single_example(serialized, {
            "x": tf.FixedLenFeature([2], tf.float32), "y": tf.FixedLenFeature([], tf.int64)})
        return tf.train.shuffle_batch(
            [example["x"], example["y"]], batch_size=4, capacity=30, min_after_dequeue=8)

    def model(x):
        with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
            hidden = tf.layers.dense(x, 8, activation=tf.nn.relu)
            hidden = tf.layers.batch_normalization(hidden, training=True)
            return tf.layers.dense(tf.layers.dropout(hidden, 0.1, training=True), 2)

    def main(_):
        write_records()
        x, y = batch()
        loss = tf.losses.sparse_softmax_cross_entropy(y, model(x))
        step = tf.train.get_or_create_global_step()
        train = tf.train.AdamOptimizer(0.01).minimize(loss, global_step=step)
        tf.summary.scalar("loss", loss)
        merged = tf.summary.merge_all()
        saver = tf.train.Saver(max_to_keep=2)
        with tf.Session(config=tf.ConfigProto(allow_soft_placement=True)) as sess:
            sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            coord = tf.train.Coordinator()
            threads = tf.train.start_queue_runners(sess=sess, coord=coord)
            writer = tf.summary.FileWriter(os.path.join(FLAGS.checkpointDir, "summary"), sess.graph)
            for i in range(FLAGS.steps):
                _, summary = sess.run([train, merged])
                writer.add_summary(summary, i)
            saver.save(sess, os.path.join(FLAGS.checkpointDir, "model.ckpt"), global_step=step)
            writer.close()
            coord.request_stop()
            coord.join(threads)
            export = tf.saved_model.builder.SavedModelBuilder(
                os.path.join(FLAGS.checkpointDir, "export", "1"))
            signature = tf.saved_model.signature_def_utils.predict_signature_def(
                inputs={"x": x}, outputs={"loss": loss})
            export.add_meta_graph_and_variables(
                sess, [tf.saved_model.tag_constants.SERVING], {"serving_default": signature})
            export.save()
        tf.reset_default_graph()
        resume()
        print("steps", FLAGS.steps, "fast", FLAGS.fast, tf.gfile.Exists(RECORDS))

    def resume():
        step = tf.train.get_or_create_global_step()
        more = tf.assign_add(step, 1)
        folder = os.path.join(FLAGS.checkpointDir, "monitored")
        hooks = [tf.train.StopAtStepHook(last_step=3)]
        with tf.train.MonitoredTrainingSession(checkpoint_dir=folder, hooks=hooks) as sess:
            while not sess.should_stop():
                sess.run(more)
        print("monitored", tf.train.latest_checkpoint(folder)[-1])

    if __name__ == "__main__":
        tf.app.run()
"""


def test_a_script_of_pai_trains_saves_and_exports(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    arguments = [f"--buckets={data}/", f"--checkpointDir={out}/", "--steps=3", "--fast=true"]
    result = run(tmp_path, TRAINING, arguments=arguments)
    assert result.code == 0, result.err
    assert result.out == "monitored 3\nsteps 3 fast True True\n"
    names = {str(path.relative_to(out)) for path in out.rglob("*")}
    assert {"checkpoint", "model.ckpt-3.index", "model.ckpt-3.meta"} <= names
    assert {"export/1/saved_model.pb", "export/1/variables/variables.index"} <= names
    assert any(name.startswith("summary/events.out.tfevents") for name in names)


def test_a_flag_that_nobody_declares_is_refused_by_the_scripts_parser(tmp_path: Path) -> None:
    text = """
        import tensorflow as tf
        tf.app.flags.DEFINE_string("buckets", "", "")
        print(tf.app.flags.FLAGS.buckets)
    """
    result = run(tmp_path, text, arguments=["--buckets=b", "--other=1"])
    assert result.code == 1
    assert "Unknown command line flag 'other'" in result.err


def test_what_app_run_returns_is_the_exit_code(tmp_path: Path) -> None:
    text = """
        import tensorflow as tf
        tf.app.flags.DEFINE_integer("code", 0, "")
        def main(argv):
            return tf.app.flags.FLAGS.code
        if __name__ == "__main__":
            tf.app.run()
    """
    assert run(tmp_path, text, arguments=["--code=7", "--unknown=1"]).code == 7


def test_an_error_shows_the_scripts_frames_and_tensorflows_alone(tmp_path: Path) -> None:
    text = "import tensorflow as tf\nimport helper\n"
    helper = "import tensorflow as tf\ntf.Session().run(tf.no_such_name)\n"
    result = run(tmp_path, text, {"helper.py": helper})
    code = tmp_path / "code"
    reason = f"TensorFlow {version('tensorflow')} keeps no such name of TensorFlow 1"
    frames = [line for line in result.err.splitlines() if line.startswith("  File ")]
    assert frames == [
        f'  File "{code}/script.py", line 2, in <module>',
        f'  File "{code}/helper.py", line 2, in <module>',
    ]
    assert f"module 'tensorflow' has no attribute 'no_such_name': {reason}" in result.err
    assert result.error is not None
    assert "pai_runner" not in result.error["traceback"]


def test_eager_execution_of_tensorflow_1_can_be_chosen(tmp_path: Path) -> None:
    text = """
        import json
        import tensorflow as tf
        tf.enable_eager_execution()
        with tf.GradientTape() as tape:
            x = tf.Variable(3.0)
            y = x * x
        print(json.dumps(float(tape.gradient(y, x).numpy())))
    """
    assert printed(run(tmp_path, text)) == 6.0


def test_keras_of_tensorflow_1_fits_in_a_graph(tmp_path: Path) -> None:
    text = """
        import json
        import numpy as np
        import tensorflow as tf
        from tensorflow.keras import backend as K
        model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(2,))])
        model.compile(optimizer=tf.train.AdamOptimizer(0.1), loss="mse")
        history = model.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=3, verbose=0)
        print(json.dumps([len(history.history["loss"]), isinstance(K.get_session(), tf.Session)]))
    """
    assert printed(run(tmp_path, text)) == [3, True]


ESTIMATOR = """
    import tensorflow as tf
    def model_fn(features, labels, mode):
        prediction = tf.layers.dense(features["x"], 1)
        loss = tf.losses.mean_squared_error(labels, prediction)
        step = tf.train.get_global_step()
        train = tf.train.GradientDescentOptimizer(0.01).minimize(loss, global_step=step)
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train)
    def input_fn():
        data = tf.data.Dataset.from_tensors(({"x": [[1.0]]}, [[2.0]])).repeat(5)
        return data.make_one_shot_iterator().get_next()
    estimator = tf.estimator.Estimator(model_fn, model_dir="model")
    estimator.train(input_fn)
    print("steps", estimator.get_variable_value("global_step"))
"""


def test_estimators_run_where_tensorflow_has_them(tmp_path: Path) -> None:
    result = run(tmp_path, ESTIMATOR)
    if TENSORFLOW < (2, 16):
        assert result.out == "steps 5\n", result.err
    else:
        assert "tf.estimator left TensorFlow with 2.16" in result.err


def test_spawned_processes_get_the_same_api(tmp_path: Path) -> None:
    text = """
        import json, multiprocessing
        import tensorflow as tf
        tf.app.flags.DEFINE_string("buckets", "", "")
        SCALE = tf.app.flags.FLAGS.buckets

        def work(value):
            with tf.Graph().as_default(), tf.Session() as sess:
                x = tf.placeholder(tf.float32)
                return SCALE + str(sess.run(x * 2, {x: value}))

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(json.dumps(pool.map(work, [1.0])))
    """
    assert printed(run(tmp_path, text, arguments=["--buckets=b"])) == ["b2.0"]


@pytest.mark.skipif(TENSORFLOW >= (2, 16), reason="from 2.16 on the layers are in tf_keras alone")
def test_the_layers_of_2_15_need_no_tf_keras(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    installed = Path(sys.modules["pytest"].__file__ or "").parents[1]
    for path in installed.iterdir():
        if not path.name.startswith("tf_keras"):
            (packages / path.name).symlink_to(path)
    base = Path(os.path.realpath(sys.executable))
    result = run(
        tmp_path,
        "import json\nimport tensorflow as tf\n"
        "y = tf.layers.dense(tf.placeholder(tf.float32, [None, 2]), 3)\n"
        "print(json.dumps(y.shape.as_list()))\n",
        python=str(base),
        environment={"PYTHONPATH": str(packages), "TF_USE_LEGACY_KERAS": "1"},
    )
    assert printed(result) == [None, 3]
