"""Small things that many tests need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from moto_server import S3Server
from oss_server import OSSServer

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def wait_until(condition: Callable[[], object], seconds: float = 10.0, step: float = 0.02) -> None:
    """Return as soon as `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s: {condition}")
        time.sleep(step)


def fork() -> int:
    """Return what os.fork does, in a process whose garbage is gone.

    Objects of TensorFlow that other tests have left wait, when they go, for threads that a forked
    child does not have.
    """
    gc.collect()
    process = os.fork()
    if process == 0:
        gc.disable()
    return process


# Any role but the two that the STS double refuses.
ROLE = "acs:ram::1234567890123456:role/odps"


@dataclass(frozen=True)
class Places:
    """The same kind of folder on the local disk and in buckets.

    `s3` and `oss` are prefixes, `s3://bucket/dir/`. What a command names of OSS is assumed with
    a role; `oss staged` is the same folder, staged.
    """

    local: str
    s3: str
    server: S3Server
    oss: str
    oss_server: OSSServer

    def folder(self, where: str) -> str:
        """Return the folder that is `local`, `s3`, `oss` or `oss staged`, as a command names it."""
        opened = f"{self.oss}?host={self.oss_server.url}&role_arn={ROLE}"
        return {
            "local": self.local,
            "s3": self.s3,
            "oss": opened,
            "oss staged": f"{opened}&mount=stage",
        }[where]

    def names(self, where: str) -> set[str]:
        """Return the files below a folder, by their path in it."""
        if where == "local":
            root = Path(self.local)
            return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        server, folder = (self.server, self.s3) if where == "s3" else (self.oss_server, self.oss)
        bucket, _, prefix = folder.partition("://")[2].partition("/")
        return {key.removeprefix(prefix) for key in server.keys(bucket, prefix)}


@dataclass(frozen=True)
class Pai:
    """`pai`, run as a process with records and settings of its own."""

    home: Path
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALIBABA_CLOUD_", "AWS_", "OSS_", "PAI_"))
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

    def with_settings(self, **settings: str) -> Pai:
        """Return the same `pai` with further settings."""
        return replace(self, settings={**self.settings, **settings})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `pai`; what the test leaves running is ended after it."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def end_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=90)
