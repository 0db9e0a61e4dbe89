"""An exporter in a process of its own, and how tests order, follow and kill it.

As a program it takes orders from its standard input and answers each, in lines of JSON:

    {"publish": FOLDER, "at": LOCATION, "serial": 7}    {"version": 3}
    {"collect": 2, "at": LOCATION, "grace": 0}          {"removed": ["1"]}

A publishing with `keep` removes all but so many versions at its end. With a barrier, an end of a
pipe, it says {"ready": true} when its model is staged, and goes on when it can read a byte.

What it publishes is a copy of a model that is there: it starts without TensorFlow, quickly.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from moto_server import S3Server
from oss_server import OSSServer
from support import ROOT


class Exporter:
    """A running exporter. `environment` is what it needs to open buckets, beside ours."""

    def __init__(self, environment: Mapping[str, str], barrier: int | None = None) -> None:
        passed = () if barrier is None else (barrier,)
        self.process = subprocess.Popen(
            [sys.executable, __file__, *map(str, passed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_PATHS), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=passed,
        )
        self._read = b""

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, seconds: float = 120) -> dict[str, Any]:
        """Return the answer to the oldest order that has had none."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], "the exporter hangs"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the exporter ended without an answer"
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def publish(self, location: str, model: Path, serial: int) -> int:
        """Publish a model, and return the version that it became."""
        self.order(publish=str(model), at=location, serial=serial)
        return int(self.answer()["version"])

    def collect(self, location: str, last: int, grace: float | None = None) -> list[str]:
        """Remove all but the `last` versions, and leftovers that are older than `grace` seconds."""
        self.order(collect=last, at=location, grace=grace)
        return list(self.answer()["removed"])

    @property
    def has_answered(self) -> bool:
        """Whether there is an answer to read."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def close(self) -> None:
        """Kill it: all its threads end at once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):  # of an order that it never read
            self.process.stdin.close()
        self.process.stdout.close()


_PATHS = (str(ROOT), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "servers"))


def environment_of(s3: S3Server, oss: OSSServer) -> dict[str, str]:
    """Return the settings with which exporters find keys and servers."""
    return {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_DEFAULT_REGION": s3.options["region"],
        "AWS_ACCESS_KEY_ID": s3.options["key"],
        "AWS_SECRET_ACCESS_KEY": s3.options["secret"],
        "OSS_ENDPOINT": oss.url,
        "OSS_ACCESS_KEY_ID": oss.options["access_key_id"],
        "OSS_ACCESS_KEY_SECRET": oss.options["access_key_secret"],
    }


class Steps:
    """The steps of an exporter that change or read back something below a place.

    They are taken from a file of lines, `OPERATION path`: a server's notes of its requests, or
    for a local folder what the exporter itself notes of its calls.
    """

    def __init__(self, notes: Path, place: str) -> None:
        self._file = notes.open("rb")
        self._place = place
        self._rest = b""
        self.seen: list[str] = []

    def forget(self) -> None:
        """Pass over the steps that there were so far."""
        self.read()
        self.seen = []

    def read(self) -> list[str]:
        """Return the kinds of all steps since they were forgotten, such as `PUT .staging`."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        kinds = (self._kind(line.decode()) for line in lines)
        self.seen += [kind for kind in kinds if kind]
        return self.seen

    def close(self) -> None:
        self._file.close()

    def _kind(self, line: str) -> str:
        if line.startswith("{"):
            noted = json.loads(line)
            line = f"{noted['operation']} {noted['path']}"
        operation, _, path = line.partition(" ")
        _, found, name = path.partition(self._place)
        if not found or not name:
            return ""
        if name[0].isdigit():
            # Readers are there all the while; of exporters, only writes lie below a number.
            _, _, file = name.partition("/")
            family = f"N/{Path(file).name}" if re.search(_LAST, file) else "N"
            return "" if operation in ("GET", "HEAD") else f"{operation} {family}"
        return f"{operation} {name.partition('/')[0].partition('-')[0]}"


_LAST = r"pai_manifest\.json|saved_model\.pb$"


# ====== The program ======


def _serve(barrier: int | None) -> None:
    from pai_runner.models.place import LocalPlace, open_place

    for line in sys.stdin:
        order = json.loads(line)
        place = open_place(order["at"])
        if "notes" in order and isinstance(place, LocalPlace):
            _note_calls(order["notes"], place.prefix)
        if "publish" in order:
            answer: dict[str, Any] = {"version": _publish(place, order, barrier)}
        else:
            answer = {"removed": _collect(place, order["collect"], order["grace"])}
        print(json.dumps(answer), flush=True)


def _publish(place: Any, order: Mapping[str, Any], barrier: int | None) -> int:
    from pai_runner.models.manifest import About
    from pai_runner.models.publishing import publish, staging_folder

    serial = order["serial"]
    with staging_folder(place) as folder:
        shutil.copytree(order["publish"], folder)
        if barrier is not None:
            print(json.dumps({"ready": True}), flush=True)
            os.read(barrier, 1)
        about = About(job_id=f"job-{serial}", step=serial)
        version = publish(place, folder, about=about).version
    if "keep" in order:
        _collect(place, order["keep"], None)
    return version


def _collect(place: Any, last: int, grace: float | None) -> list[str]:
    from pai_runner.models.keeping import GRACE_SECONDS, KeepRule, collect

    seconds = GRACE_SECONDS if grace is None else grace
    return [one.name for one in collect(place, KeepRule(last), grace=seconds)]


def _note_calls(notes: str, prefix: str) -> None:
    """Note the calls of this process that open, make, rename or remove something below a folder."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], str) and arguments[0].startswith(prefix):
            # A rename is one into the place: where it leads is what is new.
            path = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
            os.write(descriptor, f"{event} {path}\n".encode())

    sys.addaudithook(note)


if __name__ == "__main__":
    _serve(int(sys.argv[1]) if len(sys.argv) > 1 else None)
