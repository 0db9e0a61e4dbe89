"""PAI's own kind of scripts, from the command to the bucket and back."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from support import EXAMPLES, Pai, Places

pytestmark = pytest.mark.slow

WHERE = [
    "local",
    pytest.param("s3", marks=pytest.mark.tensorflow),
    "oss",
    pytest.param("oss staged", marks=pytest.mark.tensorflow),
]


@pytest.mark.parametrize("where", WHERE)
def test_a_second_script_restores_what_the_first_saved(
    where: str, pai: Pai, places: Places
) -> None:
    # As PAI's own role has it: it may use the bucket's objects, and not ask about the bucket.
    places.oss_server.set(deny_bucket_info=True)
    folder = places.folder(where)
    saved = pai(
        "-e",
        f'PAI -name tensorflow -Dscript="file://{EXAMPLES}/counter/save_model.py"'
        f' -DcheckpointDir="{folder}";',
    )
    assert saved.returncode == 0, saved.stderr
    assert "counted to 10" in saved.stdout
    restored = pai(
        "-e",
        f'PAI -name tensorflow -Dscript="file://{EXAMPLES}/counter/restore_model.py"'
        f' -Dbuckets="{folder}";',
    )
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout == "the counter is 10\n"


RESUMES = """
import os
import tensorflow as tf
tf.app.flags.DEFINE_string("checkpointDir", "", "")
FLAGS = tf.app.flags.FLAGS
step = tf.train.get_or_create_global_step()
saver = tf.train.Saver()
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    latest = tf.train.latest_checkpoint(FLAGS.checkpointDir)
    if latest:
        saver.restore(session, latest)
    print("from", session.run(step))
    for _ in range(3):
        now = session.run(tf.assign_add(step, 1))
        saver.save(session, os.path.join(FLAGS.checkpointDir, "model.ckpt"), now)
"""


@pytest.mark.parametrize("where", [pytest.param("oss", marks=pytest.mark.tensorflow), "oss staged"])
def test_a_job_goes_on_from_the_latest_checkpoint_of_the_last(
    where: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
    script = tmp_path / "resumes.py"
    script.write_text(RESUMES, encoding="utf-8")
    words = ["-name", "tensorflow1120", f"-Dscript={script}"]
    for seen in ("from 0\n", "from 3\n"):
        ran = pai(*words, f"-DcheckpointDir={places.folder(where)}")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == seen
    assert {"checkpoint", "model.ckpt-6.index"} <= places.names(where)


@pytest.mark.parametrize("where", WHERE)
def test_records_are_trained_on_and_a_model_is_exported(
    where: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
    places.oss_server.set(deny_bucket_info=True)
    folder = places.folder(where)
    hyper_parameters = tmp_path / "hyper.txt"
    hyper_parameters.write_text("steps=60\nlearning_rate=0.1\n", encoding="utf-8")
    command = (
        f"PAI -name tensorflow1120 -Dscript='file://{EXAMPLES}/mnist/make_data.py'"
        f" -Dbuckets='{folder}';\n"
        f"PAI -name tensorflow1120 -Dscript='file://{EXAMPLES}/mnist/train.py'"
        f" -Dbuckets='{folder}' -DcheckpointDir='{folder}'"
        f" -DhyperParameters='file://{hyper_parameters}'"
        " -DuserDefinedParameters='--model_version=3 --learning_rate=0.5';"
    )
    trained = pai("-e", command)
    assert trained.returncode == 0, trained.stderr
    accuracy = float(trained.stdout.split("accuracy after 60 steps: ")[1].split()[0])
    assert accuracy > 0.8
    names = places.names(where)
    assert {"train-00.tfrecords", "train-01.tfrecords", "checkpoint"} <= names
    assert {"model.ckpt-60.index", "model.ckpt-60.meta"} <= names
    assert {"export/3/saved_model.pb", "export/3/variables/variables.index"} <= names
    assert any(name.startswith("summary/events.out.tfevents") for name in names)
    assert not [name for name in names if "temp" in name]


def test_the_record_tells_what_ran(pai: Pai, tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text("print('hello')\n", encoding="utf-8")
    assert pai("-name", "tensorflow", f"-Dscript={script}").returncode == 0
    (job,) = json.loads(pai("jobs", "--json").stdout)
    assert job["state"] == "SUCCEEDED"
    assert job["exit_code"] == 0
    status = json.loads(pai("status", job["id"], "--json").stdout)
    assert status["id"] == job["id"]
    assert pai("logs", job["id"]).stdout == "hello\n"
    again = pai("rerun", job["id"])
    assert again.stdout == "hello\n"
    assert len(json.loads(pai("jobs", "--json").stdout)) == 2


@pytest.mark.tensorflow
def test_an_archive_and_its_parameters_may_lie_in_the_bucket(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    main = (
        "import os, tensorflow as tf\n"
        "import helper\n"
        "tf.app.flags.DEFINE_integer('steps', 0, '')\n"
        "FLAGS = tf.app.flags.FLAGS\n"
        "print(FLAGS.steps, helper.folder(), os.path.basename(os.getcwd()))\n"
        "print(tf.gfile.Exists(os.path.join(helper.folder(), 'code.tar.gz')))\n"
    )
    helper = (
        "import tensorflow as tf\n"
        "tf.app.flags.DEFINE_string('buckets', '', '')\n"
        "def folder():\n"
        "    return tf.app.flags.FLAGS.buckets\n"
    )
    archive = tmp_path / "code.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("job/main.py", main), ("job/helper.py", helper)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    client = places.server.client()
    client.upload_file(str(archive), bucket, f"{prefix}code.tar.gz")
    client.put_object(Bucket=bucket, Key=f"{prefix}hyper 参数.txt", Body=b"steps=7\n")
    ran = pai(
        "-name",
        "tensorflow1120_ext",
        f"-Dscript={places.s3}code.tar.gz",
        "-DentryFile=job/main.py",
        f"-DhyperParameters={places.s3}hyper 参数.txt",
        f"-Dbuckets={places.s3}",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"7 {places.s3} code\nTrue\n"
