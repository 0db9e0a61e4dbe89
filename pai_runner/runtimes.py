"""Python interpreters that can run a script: this one, or the one that -Dpython names.

What an interpreter has installed is read from the packages' metadata, never by importing
TensorFlow, which takes seconds and may take a GPU's memory. Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pai_runner.errors import SetupError
from pai_runner.secret import redact

OLDEST_PYTHON = (3, 10)
OLDEST_TENSORFLOW = (2, 15)
# From here on TensorFlow brings Keras 3, and tf_keras holds the layers that TF1 scripts use.
FIRST_KERAS_3 = (2, 16)

_PROBE_SECONDS = 60
# Packages that provide the module `tensorflow`, under their names on package indexes.
_TENSORFLOWS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-rocm",
    "tensorflow-macos",
    "tensorflow-cpu-aws",
    "intel-tensorflow",
    "tf-nightly",
    "tf-nightly-cpu",
)
_PACKAGES = (*_TENSORFLOWS, "tf-keras", "fsspec", "s3fs", "ossfs")

# Runs in the other interpreter, which may be any Python: it is kept to what Python 2 also reads.
# The current folder is taken off the path, since a job's packages never come from there.
_PROBE = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import json
found = {}
try:
    from importlib import metadata
except ImportError:
    metadata = None
if metadata is not None:
    for name in sys.argv[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "packages": found}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter. `version` is for example `3.11.7`.

    `found` holds the packages' versions where they are known already; this process's own are
    looked up when they are first asked for.
    """

    path: str
    version: str
    found: Mapping[str, str] | None = None

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """The installed versions of TensorFlow's and the file systems' packages."""
        return _installed_here() if self.found is None else self.found

    @property
    def tensorflow(self) -> str | None:
        """The version of TensorFlow, or None when there is none."""
        return next((self.packages[n] for n in _TENSORFLOWS if n in self.packages), None)

    @property
    def problem(self) -> str | None:
        """What keeps this interpreter from running a job, or None."""
        if _numbers(self.version) < OLDEST_PYTHON:
            return f"it is Python {self.version}; {_dotted(OLDEST_PYTHON)} or newer is needed"
        tensorflow = self.tensorflow
        if tensorflow is None:
            return "it has no TensorFlow"
        if _numbers(tensorflow) < OLDEST_TENSORFLOW:
            return (
                f"its TensorFlow is {tensorflow}; {_dotted(OLDEST_TENSORFLOW)} or newer is needed"
            )
        missing = [name for name in self._needed(tensorflow) if name not in self.packages]
        return f"it has no {' and no '.join(missing)}" if missing else None

    def _needed(self, tensorflow: str) -> tuple[str, ...]:
        return ("fsspec",) if _numbers(tensorflow) < FIRST_KERAS_3 else ("fsspec", "tf-keras")


def default() -> Interpreter:
    """Return the interpreter of this process. Costs nothing: nothing is looked up."""
    return Interpreter(sys.executable, platform.python_version())


def resolve(python: str | None, cwd: Path | None = None) -> Interpreter:
    """Return the interpreter that -Dpython names, having asked it what it has.

    `python` is a path (`~` and relative to `cwd`) or a command on PATH; None is `default()`.
    Raises SetupError when there is none or it cannot run a job.
    """
    if not python:
        return default()
    path = _find(python, cwd or Path.cwd())
    interpreter = default() if path == sys.executable else _ask(python, path)
    if interpreter.problem is not None:
        raise SetupError(
            f"-Dpython={python} cannot run the job: {interpreter.problem} ({interpreter.path})",
            f"install what is missing: {interpreter.path} -m pip install tensorflow tf_keras fsspec"
            " s3fs, or leave -Dpython out",
        )
    return interpreter


def _find(python: str, cwd: Path) -> str:
    """Return the absolute path of the interpreter, its links kept: a venv's is one."""
    if "/" not in python:
        found = shutil.which(python)
        if found is None:
            raise SetupError(f"-Dpython={python}: there is no such command on PATH", _hint())
        return os.path.abspath(found)
    path = os.path.normpath(cwd / Path(python).expanduser())
    if not os.path.exists(path):
        raise SetupError(f"-Dpython={python}: there is no {path}", _hint())
    if os.path.isdir(path):
        inside = os.path.join(path, "bin", "python")
        hint = f"write -Dpython={inside}" if os.path.exists(inside) else _hint()
        raise SetupError(f"-Dpython={python} is a folder, not an interpreter", hint)
    if not os.access(path, os.X_OK):
        raise SetupError(f"-Dpython={python}: {path} is not executable", f"chmod +x {path}")
    return path


def _hint() -> str:
    return (
        "give the path of an interpreter that has TensorFlow, or leave -Dpython out: the job then "
        f"runs with {sys.executable} (Python {platform.python_version()})"
    )


def _ask(python: str, path: str) -> Interpreter:
    try:
        asked = subprocess.run(
            [path, "-c", _PROBE, *_PACKAGES],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _no_answer(python, path, f"it did not answer within {_PROBE_SECONDS} s") from error
    except OSError as error:
        raise _no_answer(python, path, error.strerror or str(error)) from error
    if asked.returncode != 0:
        lines = redact(asked.stderr).strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        raise _no_answer(python, path, f"it ended with code {asked.returncode}{said}")
    try:
        # A sitecustomize may print lines of its own before.
        answer = json.loads(asked.stdout.strip().splitlines()[-1])
        return Interpreter(path, answer["version"], answer["packages"])
    except (ValueError, LookupError, TypeError) as error:
        raise _no_answer(python, path, "its answer is not Python's") from error


def _no_answer(python: str, path: str, problem: str) -> SetupError:
    return SetupError(f"-Dpython={python}: {path} is not a working Python: {problem}", _hint())


def _installed_here() -> Mapping[str, str]:
    from importlib import metadata

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading two numbers of a version, for comparison."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
