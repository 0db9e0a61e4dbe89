"""The publisher's program, by hand and as a job's supervisor starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import MODEL
from support import ROOT

PROGRAM = str(ROOT / "pai_runner" / "models" / "publish.py")


def run(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("words", [[PROGRAM], ["-m", "pai_runner.models.publish"]])
def test_it_runs_by_path_and_as_a_module(words: list[str], tmp_path: Path) -> None:
    path = {"PYTHONPATH": str(ROOT)} if words[0] == "-m" else {}
    shown = run(*words, "--help", cwd=tmp_path, **path)
    assert shown.returncode == 0, shown.stderr
    assert "LOCATION" in shown.stdout.upper()
    nothing = run(*words, str(tmp_path), "--keep", "3", cwd=tmp_path, **path)
    assert (nothing.returncode, nothing.stderr) == (0, "")
    expected = f"pai: nothing was published: no SavedModel was found below {tmp_path}/\n"
    assert nothing.stdout == expected


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "required"),
        (["x", "--keep", "0"], 2, "`0` is not a number of 1 or more"),
        (["x", "--keep", "all"], 2, "`all` is not a number of 1 or more"),
        (["s3://"], 2, "s3://"),
    ],
)
def test_words_that_are_wrong(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    ran = run(PROGRAM, *words, cwd=tmp_path)
    assert ran.returncode == code
    assert text in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_what_is_no_model_is_reported_to_the_supervisor(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    for name, data in MODEL.items():  # files that TensorFlow cannot read
        path = exports / "1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    job = tmp_path / "job"
    job.mkdir()
    plan = {"publish": {"location": f"{exports}/", "keep": None}, "mounts": []}
    (job / "spec.json").write_text(json.dumps(plan))
    reader, writer = os.pipe()
    os.write(writer, b"{}")
    os.close(writer)
    reports, report = os.pipe()
    process = subprocess.run(
        [sys.executable, PROGRAM, "--job", str(job), "--report", str(report)],
        env={**os.environ, "PAI_SECRETS_FD": str(reader), "CUDA_VISIBLE_DEVICES": "-1"},
        pass_fds=[reader, report],
        capture_output=True,
        text=True,
        timeout=120,
    )
    os.close(report)
    assert process.returncode == 1
    with os.fdopen(reports) as stream:
        answer = json.loads(stream.read())
    assert answer["message"] == ""
    assert f"not all of its exports are published: {exports}/1/: " in answer["problem"]
    assert process.stdout.startswith(f"pai: not published: {exports}/1/: ")
