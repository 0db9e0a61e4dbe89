"""The examples that train, are killed, go on and export: one command, run twice."""

from __future__ import annotations

import json
import os
import signal

import pytest
from support import EXAMPLES, Pai, Places, wait_until

from pai_runner.models.place import BucketPlace
from pai_runner.models.publishing import publish, staging_folder

pytestmark = pytest.mark.slow

STEPS = 1000
STYLES = {"softmax": "tensorflow1120", "keras": "tensorflow"}


@pytest.mark.tensorflow
@pytest.mark.parametrize(("style", "where"), [("softmax", "oss"), ("keras", "s3")])
def test_a_killed_run_goes_on_and_exports_the_next_version(
    style: str, where: str, pai: Pai, places: Places
) -> None:
    folder = places.folder(where)
    last_night = publish_something(places, where)
    command = (
        f"PAI -name {STYLES[style]} -Dscript='file://{EXAMPLES}/{style}/train.py'"
        f" -DcheckpointDir='{folder}'"
        f" -DuserDefinedParameters='--steps={STEPS} --save_steps=50';"
    )
    running = pai.start("-e", command)
    wait_until(lambda: saved_steps(places, where) & set(range(100, STEPS)), seconds=120)
    os.kill(script_pid(pai), signal.SIGKILL)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 128 + signal.SIGKILL, (out, err)
    assert out == f"from step 0 to {STEPS}\n"

    again = pai("-e", command)
    assert again.returncode == 0, again.stderr
    start = int(again.stdout.split("from step ")[1].split()[0])
    assert start >= 100
    assert start % 50 == 0
    assert f"to {STEPS}\n" in again.stdout
    assert f"exported version {last_night + 1} to" in again.stdout
    location, _, query = folder.partition("?")
    listed = pai("models", "ls", f"{location}export/{'?' if query else ''}{query}", "--json")
    newest = json.loads(listed.stdout)[0]
    assert (newest["version"], newest["complete"]) == (last_night + 1, True), listed.stdout
    assert newest["latest"]


def publish_something(places: Places, where: str) -> int:
    """Publish the version of last night, and return its number."""
    prefix, options = (
        (places.s3, places.server.options)
        if where == "s3"
        else (places.oss, places.oss_server.options)
    )
    place = BucketPlace.opened(f"{prefix}export/", options)
    with staging_folder(place) as model:
        os.mkdir(model)
        with open(os.path.join(model, "saved_model.pb"), "wb"):
            pass
        return publish(place, model).version


def saved_steps(places: Places, where: str) -> set[int]:
    indexes = [name for name in places.names(where) if name.endswith(".index")]
    steps = [name.removesuffix(".index").rpartition("-")[2] for name in indexes]
    return {int(step) for step in steps if step.isdigit()}


def script_pid(pai: Pai) -> int:
    (running,) = json.loads(pai("jobs", "--json", "--state", "RUNNING").stdout)
    return int(running["roles"][0]["process"]["pid"])
