"""Jobs whose script knows nothing of us: what plain TensorFlow exported is published after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import Pai, Places

pytestmark = pytest.mark.slow

MANIFEST = "assets.extra/pai_manifest.json"
DATA = "variables/variables.data-00000-of-00001"

# Exports to each directory that is named, below checkpointDir.
EXPORTS = """
    import os, sys
    import tensorflow.compat.v2 as tf

    class Scale(tf.Module):
        def __init__(self, weight):
            self.weight = tf.Variable(float(weight))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def scaled(self, x):
            return {"y": x * self.weight}

    for number, name in enumerate(sys.argv[1:]):
        model, directory = Scale(number), os.environ["PAI_CHECKPOINT_DIR"] + name
        tf.saved_model.save(model, directory, signatures={"scale": model.scaled})
"""
# Copies a model there, as a script does that trains elsewhere: no TensorFlow, so it is quick.
COPIES = """
    import os, sys
    import fsspec
    source, *names = sys.argv[1:]
    for name in names:
        for folder, _, files in os.walk(source):
            for file in files:
                path = os.path.join(folder, file)
                target = os.environ["PAI_CHECKPOINT_DIR"] + name + path[len(source):]
                data = open(path, "rb").read()
                if "damaged" in os.environ and file.startswith("variables.data"):
                    data = data[:-20]
                if "://" not in target:
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                with fsspec.open(target, "wb") as stream:
                    stream.write(data)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model."""
    import tensorflow.compat.v2 as tf

    made = tf.Module()
    made.weight = tf.Variable(1.0)
    scaled = tf.function(lambda x: {"y": x * made.weight})
    signature = scaled.get_concrete_function(tf.TensorSpec([None], tf.float32, name="x"))
    folder = tmp_path_factory.mktemp("model") / "made"
    tf.saved_model.save(made, str(folder), signatures={"scale": signature})
    return folder


def words(folder: Path, text: str, location: str, keep: str, *arguments: object) -> list[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return [
        "-name", "tensorflow", f"-Dscript={path}", f"-DcheckpointDir={location}",
        f"-DexportVersions={keep}", f"-DuserDefinedParameters={' '.join(map(str, arguments))}",
    ]  # fmt: skip


def record(pai: Pai) -> dict[str, Any]:
    folder = max((pai.home / "jobs").iterdir())
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return found


def versions(names: set[str], below: str) -> set[str]:
    """Return the versions among files that have a manifest and a model."""
    return {
        name.removeprefix(below).split("/")[0]
        for name in names
        if name.startswith(below) and name.endswith(f"/{MANIFEST}")
        and name.replace(MANIFEST, "saved_model.pb") in names
    }  # fmt: skip


@pytest.mark.tensorflow
def test_night_after_night(pai: Pai, places: Places, model: Path, tmp_path: Path) -> None:
    location = places.folder("s3")
    first = pai(*words(tmp_path, EXPORTS, location, "keep:2", "export/1", "export/2", "best"))
    assert first.returncode == 0, first.stderr
    assert f"pai: published {places.s3}export/2/ (" in first.stderr
    assert "signatures: scale)" in first.stderr
    assert "published" not in first.stdout
    second = pai(*words(tmp_path, COPIES, location, "keep:2", model, "export/3"))
    assert second.returncode == 0, second.stderr
    names = places.names("s3")
    assert versions(names, "export/") == {"2", "3"}
    # Nobody exported to it again, so it is the same.
    assert versions(names, "best-versions/") == {"1"}
    assert not any(name.startswith("export/1/") or ".staging-" in name for name in names)
    bucket, _, prefix = places.s3.removeprefix("s3://").partition("/")
    manifest = json.loads(places.server.read(bucket, f"{prefix}export/3/{MANIFEST}"))
    made = record(pai)
    assert (manifest["job_id"], manifest["version"]) == (made["id"], 3)
    assert manifest["signatures"]["scale"]["inputs"][0]["type"] == "DT_FLOAT"
    assert json.loads(places.server.read(bucket, f"{prefix}export/latest.json"))["version"] == 3
    assert made["message"] == f"published {places.s3}export/3/"
    assert f"published {places.s3}export/3/" in pai("logs", made["id"]).stdout
    explained = pai("explain", *words(tmp_path, EXPORTS, location, "keep:2")).stdout
    assert f"exported below {places.s3}; kept versions: the newest 2" in explained


@pytest.mark.parametrize("where", ["oss", "oss staged"])
def test_a_bucket_of_oss(where: str, pai: Pai, places: Places, model: Path, tmp_path: Path) -> None:
    names = ["export/1", "export/2", "best"]
    ran = pai(*words(tmp_path, COPIES, places.folder(where), "keep:1", model, *names))
    assert ran.returncode == 0, ran.stderr
    there = places.names("oss")
    assert versions(there, "export/") == {"2"}
    assert versions(there, "best-versions/") == {"1"}
    assert {"export/latest.json", "best-versions/latest.json"} <= there
    assert not list((pai.home / "stage").glob("*"))
    for log in (pai.home / "jobs").rglob("publisher/*"):
        assert places.oss_server.options["access_key_secret"] not in log.read_text()


def test_a_damaged_export_fails_the_job_and_is_not_published(
    pai: Pai, places: Places, model: Path, tmp_path: Path
) -> None:
    command = words(tmp_path, COPIES, places.local, "keep:all", model, "export/1")
    ran = pai(*command, damaged="1")
    assert ran.returncode == 1, ran.stderr
    made = record(pai)
    assert (made["state"], made["reason"]) == ("FAILED", "not published")
    assert made["message"].startswith("the script succeeded, but not all of its exports are")
    assert f"{places.local}/export/1/: " in made["message"]
    assert "latest.json" not in " ".join(places.names("local"))


def test_a_script_that_exports_nothing_is_no_failure(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    ran = pai(*words(tmp_path, "print('x')", places.local, "keep:1"))
    assert ran.returncode == 0
    text = f"nothing was published: no SavedModel was found below {places.local}/"
    assert f"pai: {text}\n" in ran.stderr
    assert record(pai)["message"] == text


def test_a_killed_publisher_is_told_of_and_the_next_goes_on(
    pai: Pai, places: Places, model: Path, tmp_path: Path
) -> None:
    names = [f"export/{number}" for number in range(1, 11)]
    command = words(tmp_path, COPIES, places.folder("s3"), "keep:3", model, *names)
    running = pai.start(*command)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("pai: published"):
            break
    (publisher,) = publishers(pai)
    os.kill(publisher, signal.SIGKILL)
    assert running.wait() == 1
    made = record(pai)
    assert (made["state"], made["reason"]) == ("FAILED", "not published")
    assert "was killed by SIGKILL (signal 9)" in made["message"]
    half = versions(places.names("s3"), "export/")
    assert {"1"} <= half < {str(number) for number in range(1, 11)}
    # By hand this time.
    again = subprocess.run(
        [pai.command()[0], "-m", "pai_runner.models.publish", places.s3, "--keep", "3"],
        env=pai.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert again.returncode == 0, again.stderr
    assert versions(places.names("s3"), "export/") == {"8", "9", "10"}


def test_ctrl_c_ends_publishing(pai: Pai, places: Places, model: Path, tmp_path: Path) -> None:
    names = [f"best{number}" for number in range(20)]
    running = pai.start(*words(tmp_path, COPIES, places.local, "keep:3", model, *names))
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("pai: published"):
            break
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert record(pai)["state"] == "CANCELLED"
    assert not any(".staging-" in name for name in places.names("local"))
    assert publishers(pai) == []


def publishers(pai: Pai) -> list[int]:
    """Return the publishers that run for jobs of `pai`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if "models/publish.py" in text and str(pai.home) in text:
            found.append(int(folder.name))
    return found
