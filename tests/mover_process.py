"""Starts mover.py as the supervisor does, over a job directory made by hand."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from moto_server import S3Server
from oss_server import OSSServer

MOVER = Path(__file__).parents[1] / "pai_runner" / "storage" / "mover.py"


class Place(Protocol):
    """A directory of a bucket, and a way to it that shares nothing with the mover."""

    @property
    def prefix(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def options(self) -> Mapping[str, str]: ...

    def names(self) -> set[str]: ...
    def read(self, name: str) -> bytes: ...
    def put(self, name: str, data: bytes) -> None: ...
    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class _ServedPlace:
    """What places of both servers share."""

    prefix: str
    server: Any

    @property
    def options(self) -> Mapping[str, str]:
        return self.server.options

    def names(self) -> set[str]:
        bucket, directory = self._split()
        return {key.removeprefix(directory) for key in self.server.keys(bucket, directory)}

    def _split(self) -> tuple[str, str]:
        bucket, _, directory = self.prefix.partition("://")[2].partition("/")
        return bucket, directory


@dataclass(frozen=True)
class S3Place(_ServedPlace):
    """A place on the S3 server, through boto3."""

    server: S3Server
    protocol: str = "s3"

    def read(self, name: str) -> bytes:
        bucket, directory = self._split()
        answer = self._client.get_object(Bucket=bucket, Key=directory + name)
        data: bytes = answer["Body"].read()
        return data

    def put(self, name: str, data: bytes) -> None:
        bucket, directory = self._split()
        self._client.put_object(Bucket=bucket, Key=directory + name, Body=data)

    def delete(self, name: str) -> None:
        bucket, directory = self._split()
        self._client.delete_object(Bucket=bucket, Key=directory + name)

    @cached_property
    def _client(self) -> Any:
        return self.server.client()


@dataclass(frozen=True)
class OSSPlace(_ServedPlace):
    """A place on the double of OSS, through oss2."""

    server: OSSServer
    protocol: str = "oss"

    def read(self, name: str) -> bytes:
        bucket, directory = self._split()
        return self.server.read(bucket, directory + name)

    def put(self, name: str, data: bytes) -> None:
        self._bucket().put_object(self._split()[1] + name, data)

    def delete(self, name: str) -> None:
        self._bucket().delete_object(self._split()[1] + name)

    def _bucket(self) -> Any:
        import oss2

        options = self.server.options
        keys = oss2.Auth(options["access_key_id"], options["access_key_secret"])
        return oss2.Bucket(keys, options["host"], self._split()[0])


class Mover:
    """A running mover."""

    def __init__(self, process: subprocess.Popen[bytes], control: int, report: int) -> None:
        self.process = process
        self._control = control
        self._report = report
        self._read = b""

    def order(self, line: str) -> None:
        os.write(self._control, line.encode() + b"\n")

    def hang_up(self) -> None:
        """End the control pipe, as a supervisor does that is killed."""
        os.close(self._control)
        self._control = -1

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def report(self, seconds: float = 60) -> dict[str, Any]:
        """Return the next report."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            assert left > 0, "the mover reports nothing"
            if select.select([self._report], [], [], left)[0]:
                data = os.read(self._report, 65536)
                assert data, "the mover ended without a report"
                self._read += data
        line, _, self._read = self._read.partition(b"\n")
        report: dict[str, Any] = json.loads(line)
        return report

    def staged(self) -> dict[str, Any]:
        report = self.report()
        assert "staged" in report, report
        staged: dict[str, Any] = report["staged"]
        return staged

    def finish(self, how: str = "clean") -> dict[str, Any]:
        """Order the last copy, and return what the mover reports of it."""
        self.order(f"finish {how}")
        report = self.report()
        assert "finished" in report, report
        assert self.process.wait(30) == 0
        finished: dict[str, Any] = report["finished"]
        return finished

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self._control, self._report):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass
class Job:
    """A job `name` whose staged locations are `places`, with its folders below `root`.

    `mounts` are further ones as the plan has them, `words` come before the command.
    """

    root: Path
    name: str
    places: Sequence[Place]
    environment: Mapping[str, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    mounts: Sequence[Mapping[str, Any]] = ()

    def folder(self, number: int = 0) -> Path:
        """Return the folder that the script gets for a place."""
        return self.root / "stage" / f"{self.name}-{number}" / "files"

    @property
    def log(self) -> str:
        return (self.home / "mover.log").read_text(encoding="utf-8")

    @property
    def home(self) -> Path:
        return self.root / "jobs" / self.name

    def abandon(self, number: int = 0) -> None:
        """Let a folder belong to a process that has ended; else it is that of the tests."""
        ended = subprocess.Popen(["true"])
        ended.wait()
        path = self.folder(number).parent / "about.json"
        about = json.loads(path.read_text(encoding="utf-8"))
        about["owner"] = {"pid": ended.pid, "start": ""}
        path.write_text(json.dumps(about), encoding="utf-8")

    @contextmanager
    def mover(self, phase: str = "stage") -> Iterator[Mover]:
        """Run a mover; it is killed at the end of the block if it still runs."""
        self.home.mkdir(parents=True, exist_ok=True)
        secrets = self._write_plan()
        control, to_mover = os.pipe()
        from_mover, report = os.pipe()
        secret_reader, secret_writer = os.pipe()
        os.write(secret_writer, json.dumps(secrets).encode())
        os.close(secret_writer)
        handed = (control, report, secret_reader)
        with (self.home / "mover.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *self.words,
                    sys.executable,
                    "-u",
                    str(MOVER),
                    str(self.home),
                    str(control),
                    str(report),
                    phase,
                ],
                env={
                    **os.environ,
                    "PAI_STAGE_SECONDS": "0.2",
                    **self.environment,
                    "PAI_SECRETS_FD": str(secret_reader),
                },
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for descriptor in handed:
            os.close(descriptor)
        mover = Mover(process, to_mover, from_mover)
        try:
            yield mover
        finally:
            mover.close()

    def _write_plan(self) -> dict[str, str]:
        secrets: dict[str, str] = {}
        mounts = list(self.mounts)
        for number, place in enumerate(self.places):
            options = dict(place.options)
            for name in {"secret", "access_key_secret"} & options.keys():
                secrets[f"{name}.{number}"] = options[name]
                options[name] = f"${{secret:{name}.{number}}}"
            mounts.append(
                {
                    "prefix": place.prefix,
                    "protocol": place.protocol,
                    "purpose": "checkpointDir",
                    "options": options,
                    "mode": "stage",
                    "folder": str(self.folder(number)),
                }
            )
        (self.home / "spec.json").write_text(json.dumps({"mounts": mounts}), encoding="utf-8")
        return secrets


@contextmanager
def staged(job: Job, phase: str = "stage") -> Iterator[tuple[Mover, Path]]:
    """Yield a mover whose copies in are complete, and the script's folder."""
    with job.mover(phase) as mover:
        mover.staged()
        yield mover, job.folder()


def write(folder: Path, name: str, data: bytes) -> None:
    """Write a file as TensorFlow does: elsewhere, then renamed."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp{os.urandom(16).hex()}")
    temporary.write_bytes(data)
    temporary.rename(path)
