"""`PaiOperator` in real Airflows, each in an environment of its own, without TensorFlow.

The tests proper are in airflow_operator.py and airflow_dags.py: pytest runs them in there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support import ROOT

AIRFLOWS = {"2": "apache-airflow==2.11.2", "3": "apache-airflow==3.3.2"}
# Airflow 2 ends with Python 3.12.
PYTHONS = (sys.executable, "python3.12", "python3.11", "python3.10")
TESTS = ("airflow_operator.py", "airflow_dags.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """pytest in each of the Airflows, at the same time."""
    made = [make_environment(version, package) for version, package in AIRFLOWS.items()]
    for process in made:
        out, _ = process.communicate()
        assert process.returncode == 0, out
    started = {
        version: start_tests(version, tmp_path_factory.mktemp(f"airflow{version}"))
        for version in AIRFLOWS
    }
    yield started
    for process in started.values():
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("version", AIRFLOWS)
def test_the_operator(version: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    out, _ = runs[version].communicate()
    assert runs[version].returncode == 0, out
    assert " passed" in out


def make_environment(version: str, package: str) -> subprocess.Popen[str]:
    """Start to make the environment of one Airflow; it ends at once where that has been done.

    uv is many times quicker than pip: Airflow depends on more than a hundred packages. It does
    not know pip's settings, so where these are needed pip does it.
    """
    steps = """
        set -e
        [ ! -e "$folder/made-of-$package" ] || exit 0
        "$tests_python" -m uv venv --quiet --clear --python "$airflow_python" "$folder"
        "$tests_python" -m uv pip install --quiet --python "$folder" "$package" pytest ||
            "$tests_python" -m pip --python "$folder/bin/python" install --quiet "$package" pytest
        touch "$folder/made-of-$package"
    """
    variables = {
        "folder": str(environment(version)),
        "package": package,
        "tests_python": sys.executable,
        "airflow_python": a_python(),
    }
    return start(["bash", "-c", steps], {**os.environ, **variables})


def start_tests(version: str, home: Path) -> subprocess.Popen[str]:
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "CUDA_VISIBLE_DEVICES": "",
        "REAL_PAI": json.dumps([sys.executable, "-m", "pai_runner"]),
    }
    python = str(environment(version) / "bin" / "python")
    pytest_options = ["-q", "--disable-warnings", "--noconftest", "-c", os.devnull]
    words = [
        python,
        "-m",
        "pytest",
        *pytest_options,
        "-p",
        "airflow_support",
        "-p",
        "no:cacheprovider",
    ]
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    return start([*without_network(), *words, *tests], {**os.environ, **settings})


def start(words: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment(version: str) -> Path:
    return ROOT / f".venv-airflow{version}"


def a_python() -> str:
    """Return an interpreter that both Airflows run on."""
    test = "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))"
    for python in filter(None, map(shutil.which, PYTHONS)):
        if subprocess.run([python, "-c", test], capture_output=True).returncode == 0:
            return python
    pytest.skip("Airflow 2 needs Python 3.10, 3.11 or 3.12, and none is here")


def without_network() -> list[str]:
    """Return what starts a program without a network, where that may be done."""
    for words in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"]).returncode == 0:
            return words
    return []
