"""Small things that many tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moto_server import S3Server

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def wait_until(condition: Callable[[], object], seconds: float = 10.0, step: float = 0.02) -> None:
    """Return as soon as `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s: {condition}")
        time.sleep(step)


@dataclass(frozen=True)
class Places:
    """The same kind of folder on the local disk and in a bucket."""

    local: str
    s3: str
    server: S3Server

    def folder(self, where: str) -> str:
        """Return the folder that is `local` or `s3`."""
        return {"local": self.local, "s3": self.s3}[where]

    def names(self, where: str) -> set[str]:
        """Return the files below a folder, by their path in it."""
        if where == "local":
            root = Path(self.local)
            return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        bucket, _, prefix = self.s3.removeprefix("s3://").partition("/")
        return {key.removeprefix(prefix) for key in self.server.keys(bucket, prefix)}


@dataclass(frozen=True)
class Pai:
    """`pai`, run as a process with records and settings of its own."""

    home: Path
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "PAI_"))
        }
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PAI_HOME": str(self.home),
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **self.settings,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pai_runner", *arguments]

    def __call__(
        self, *arguments: str, stdin: str = "", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **settings},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
