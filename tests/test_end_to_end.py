"""PAI's own kind of scripts, from the command to the bucket and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import EXAMPLES, Pai, Places

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_second_script_restores_what_the_first_saved(
    where: str, pai: Pai, places: Places
) -> None:
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


@pytest.mark.parametrize("where", ["local", "s3"])
def test_records_are_trained_on_and_a_model_is_exported(
    where: str, pai: Pai, places: Places, tmp_path: Path
) -> None:
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
