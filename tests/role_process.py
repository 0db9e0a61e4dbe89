"""Starts bootstrap.py as the guard does, over a job directory made by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOOTSTRAP = Path(__file__).parents[1] / "pai_runner" / "script" / "bootstrap.py"

# TensorFlow's C++ notices about the machine would drown what a failing test shows.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Result:
    """How a role's process ended; `error` is its error.json, None where there is none."""

    code: int
    out: str
    err: str
    error: dict[str, Any] | None


@dataclass(frozen=True)
class RoleProcess:
    """A job of one role, `worker-0`, in `home`. Fields mean what they mean in the plan."""

    home: Path
    script: Path
    arguments: Sequence[str] = ()
    tf_api: str = "v2"
    source_roots: Sequence[str] = ()
    folders: Sequence[str] = ()
    mounts: Sequence[Mapping[str, Any]] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable
    cwd: Path | None = None
    bootstrap: Path = BOOTSTRAP

    @property
    def role_directory(self) -> Path:
        return self.home / "attempts" / "1" / "worker-0"

    def run(self, seconds: float = 120) -> Result:
        """Run the script to its end."""
        with self.start() as process:
            out, err = process.communicate(timeout=seconds)
        record = self.role_directory / "error.json"
        error = json.loads(record.read_text()) if record.exists() else None
        return Result(process.returncode, out, err, error)

    @contextmanager
    def start(self) -> Iterator[subprocess.Popen[str]]:
        """Start the script's process; it is killed at the end of the block if it still runs."""
        self._write_plan()
        reader, writer = os.pipe()
        os.write(writer, json.dumps(self.secrets).encode())
        os.close(writer)
        try:
            process = subprocess.Popen(
                [self.python, "-u", str(self.bootstrap)],
                env={**os.environ, **_QUIET, **self.environment, **self._handover(reader)},
                cwd=self.cwd or self.home,
                pass_fds=[reader],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            os.close(reader)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def _handover(self, descriptor: int) -> dict[str, str]:
        return {
            "PAI_JOB_DIR": str(self.home),
            "PAI_ROLE_DIR": str(self.role_directory),
            "PAI_SECRETS_FD": str(descriptor),
        }

    def _write_plan(self) -> None:
        self.role_directory.mkdir(parents=True, exist_ok=True)
        role = {
            "name": "worker",
            "index": 0,
            "script": str(self.script),
            "arguments": list(self.arguments),
        }
        plan = {
            "roles": [role],
            "mounts": list(self.mounts),
            "tf_api": self.tf_api,
            "source_roots": list(self.source_roots),
            "folders": list(self.folders),
        }
        (self.home / "spec.json").write_text(json.dumps(plan))
