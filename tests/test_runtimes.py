"""Interpreters: this one at no cost, and another one asked without importing TensorFlow."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pai_runner.errors import ExitCode, SetupError
from pai_runner.runtimes import Interpreter, default, resolve

PROJECT = Path(__file__).parents[1]
GOOD = {"tensorflow": "2.21.0", "tf-keras": "2.21.0", "fsspec": "2026.9.0"}


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def refusal(python: str, cwd: Path | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        resolve(python, cwd)
    assert caught.value.exit_code == ExitCode.SETUP
    assert "\n" not in caught.value.message
    return f"{caught.value.message} / {caught.value.hint}"


def test_the_default_looks_nothing_up() -> None:
    code = (
        "import sys; from pai_runner.runtimes import resolve; found = resolve(None)\n"
        "assert found.path == sys.executable\n"
        "assert 'importlib.metadata' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "found.tensorflow\n"
        "assert 'importlib.metadata' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_default_knows_its_packages_when_asked() -> None:
    assert default().tensorflow == importlib.metadata.version("tensorflow")
    assert default().version == platform.python_version()
    assert default().problem is None


def test_an_interpreter_is_asked_by_path(tmp_path: Path) -> None:
    """Another path to this same environment, so that its packages are known."""
    wrapper = program(tmp_path / "py", f'#!/bin/sh\necho a line\nexec "{sys.executable}" "$@"\n')
    found = resolve(str(wrapper))
    assert found.path == str(wrapper)
    assert found.version == platform.python_version()
    assert found.packages == default().packages
    assert resolve("./py", tmp_path) == found


def test_an_interpreter_is_found_on_path_and_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "my-python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("my-python").path == resolve("~/my-python").path == str(tmp_path / "my-python")


def test_the_link_of_a_virtual_environment_is_kept() -> None:
    assert resolve(sys.executable).path == sys.executable


def test_a_module_in_the_current_folder_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    wrapper = program(tmp_path / "py", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert resolve(str(wrapper)).problem is None


@pytest.mark.parametrize(
    ("packages", "version", "problem"),
    [
        (GOOD, "3.10.0", None),
        (GOOD, "3.9.18", "it is Python 3.9.18; 3.10 or newer is needed"),
        ({}, "2.7.18", "it is Python 2.7.18; 3.10 or newer is needed"),
        ({}, "3.11.7", "it has no TensorFlow"),
        ({**GOOD, "tensorflow": "2.9.1"}, "3.11.7", "its TensorFlow is 2.9.1; 2.15 or newer"),
        ({"tensorflow": "2.15.1", "fsspec": "1"}, "3.11.7", None),
        ({"tensorflow-cpu": "2.16.1", "fsspec": "1"}, "3.11.7", "it has no tf-keras"),
        ({"tf-nightly": "2.22.0.dev1"}, "3.11.7", "it has no fsspec and no tf-keras"),
    ],
)
def test_what_keeps_an_interpreter_from_running_a_job(
    packages: dict[str, str], version: str, problem: str | None
) -> None:
    found = Interpreter("/usr/bin/python", version, packages).problem
    assert found == problem if problem is None else problem in (found or "")


def test_a_bare_python_is_refused_with_what_it_misses(tmp_path: Path) -> None:
    wrapper = program(tmp_path / "bare", f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    text = refusal(str(wrapper))
    assert f"-Dpython={wrapper} cannot run the job: it has no TensorFlow" in text
    assert f"{wrapper} -m pip install" in text


def test_what_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    text = refusal("no-such-python")
    assert "no such command on PATH" in text
    assert f"runs with {sys.executable} (Python {platform.python_version()})" in text
    assert f"there is no {tmp_path}/nothing" in refusal("./nothing", tmp_path)
    (tmp_path / "plain").write_text("")
    assert "is not executable" in refusal("./plain", tmp_path)


def test_a_folder_is_refused_and_its_interpreter_named(tmp_path: Path) -> None:
    assert "is a folder" in refusal(str(tmp_path))
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "python", "")
    assert f"write -Dpython={tmp_path}/bin/python" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("#!/bin/sh\necho hello\n", "its answer is not Python's"),
        ("#!/bin/sh\n", "its answer is not Python's"),
        ("#!/bin/sh\necho '[1]'\n", "its answer is not Python's"),
        ("#!/bin/sh\necho 'password=hunter22' >&2; exit 3\n", "it ended with code 3: password=***"),
        ("#!/no/such/interpreter\n", "No such file or directory"),
        ("not a program", "Exec format error"),
    ],
)
def test_a_program_that_is_no_python_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = program(tmp_path / "odd", text)
    said = refusal(str(path))
    assert f"{path} is not a working Python" in said
    assert problem in said
