"""`pai models show`, as a process: on the local disk and in buckets."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from models_to_inspect import classifier, save_module, save_session
from support import Pai, Places, wait_until

from pai_runner.models.manifest import About
from pai_runner.models.place import BucketPlace, LocalPlace, Place
from pai_runner.models.publishing import publish, staging_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_module(tmp_path_factory.mktemp("made") / "words")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_session(tmp_path_factory.mktemp("made") / "classes", classifier)


def publish_copy(place: Place, model: str) -> int:
    """Publish a model as the next version of `place`, and return its number."""
    with staging_folder(place) as folder:
        shutil.copytree(model, folder)
        return publish(place, folder, about=About(step=7)).version


def test_people_get_tables_of_the_latest_version(pai: Pai, words: str, classes: str) -> None:
    place = LocalPlace(str(pai.folder / "models"))
    assert [publish_copy(place, words), publish_copy(place, classes)] == [1, 2]
    ran = pai("models", "show", "models")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert lines[:2] == [f"location {place.prefix}2/", "version 2"]
    assert any(line.startswith("size ") and "in 4 files: saved_model " in line for line in lines)
    assert "step 7" in lines
    assert "sum tensorflow/serving/regress input inputs DT_STRING [-1] rows:0" in lines
    assert "output scores DT_FLOAT [-1, 2] scores:0" in lines
    assert "weights DT_FLOAT [4, 2] 32 B" in lines


@pytest.mark.tensorflow
def test_a_version_is_shown_to_machines(pai: Pai, places: Places, words: str, classes: str) -> None:
    place = BucketPlace.opened(places.s3, places.server.options)
    assert [publish_copy(place, words), publish_copy(place, classes)] == [1, 2]
    ran = pai("models", "show", f"{places.s3}1", "--json")
    found = json.loads(ran.stdout)
    assert (found["version"], found["location"]) == (1, f"{places.s3}1/")
    assert found["manifest"]["step"] == 7
    assert list(found["meta_graphs"][0]["signatures"]) == ["serving_default"]
    assert "testing-secret-value" not in ran.stdout + ran.stderr


def test_eas_structure_is_that_of_one_signature(pai: Pai, places: Places, classes: str) -> None:
    place = BucketPlace.opened(places.oss, places.oss_server.options)
    publish_copy(place, classes)
    ran = pai("models", "show", places.folder("oss"), "--eas", "--signature", "sum")
    assert json.loads(ran.stdout) == {
        "signature_name": "sum",
        "inputs": [{"name": "inputs", "shape": [-1], "type": "DT_STRING"}],
        "outputs": [{"name": "outputs", "shape": [-1], "type": "DT_FLOAT"}],
    }
    lost = error_of(pai("models", "show", places.folder("oss"), "--signature", "total"), 125)
    assert "there is no signature `total`" in lost
    assert "signatures: serving_default, sum" in lost


def error_of(ran: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the two lines of an error: what is wrong, and what to do."""
    assert (ran.returncode, ran.stdout) == (code, "")
    first, second = ran.stderr.splitlines()
    assert first.startswith("pai: error: ")
    return f"{first}\n{second}"


def test_what_is_not_there_is_told(pai: Pai, places: Places, words: str, tmp_path: Path) -> None:
    place = BucketPlace.opened(places.s3, places.server.options)
    publish_copy(place, words)
    place.write("4/variables/variables.index", b"")
    said = error_of(pai("models", "show", f"{places.s3}3"), 125)
    assert "has no version 3" in said
    assert "versions there: 1, 4" in said
    said = error_of(pai("models", "show", f"{places.s3}4"), 125)
    assert f"{places.s3}4/ is no SavedModel: it has no saved_model.pb" in said
    assert "there is no bucket `missing`" in error_of(pai("models", "show", "s3://missing/m"), 125)
    said = error_of(pai("models", "show", f"{places.oss}?host={places.oss_server.url}"), 125)
    assert f"{places.oss} has no complete version" in said
    assert "does not exist" in error_of(pai("models", "show", str(tmp_path / "no")), 125)
    (tmp_path / "file").write_bytes(b"")
    assert "is not a folder" in error_of(pai("models", "show", str(tmp_path / "file")), 125)
    assert "names no bucket" in error_of(pai("models", "show", "s3://"), 2)
    assert "--role x" in error_of(pai("models", "show", places.s3, "--role", "x"), 2)


def test_a_server_that_denies_is_one_line(pai: Pai, denying_endpoint: str) -> None:
    said = error_of(pai("models", "show", f"s3://b/m/?endpoint_url={denying_endpoint}"), 125)
    assert "access denied" in said


@pytest.fixture
def waiting(pai: Pai, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`pai models show` that waits for a server which takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        started = pai.start("models", "show", f"s3://b/m/?endpoint_url=http://127.0.0.1:{port}")
        connection, _ = listener.accept()
        with connection:
            yield started


def test_ctrl_c_ends_it_and_its_process(waiting: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
    (child,) = children.read_text(encoding="ascii").split()
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=60)
    assert (waiting.returncode, said) == (130, "")
    wait_until(lambda: not Path(f"/proc/{child}").exists())
