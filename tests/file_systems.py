"""The file systems that the tests of one process have registered with TensorFlow."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from fault_server import Faults
from moto_server import S3Server
from oss_server import OSSServer
from support import ROLE

# A registration is for the whole process: every bucket that a test uses is named here.
BUCKET = "box"
MISSING_BUCKET = "no-such-bucket"
FAULTY_BUCKET = "faulty"
UNREACHABLE_BUCKET = "unreachable"

# Port 9 is "discard": nobody listens.
UNREACHABLE = {"endpoint_url": "http://127.0.0.1:9", "key": "nobody-at-all", "secret": "no-secret"}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """A mount, as `pai_runner.script.filesystem.register` takes it."""

    prefix: str
    protocol: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class FileSystems:
    """`changes` counts the calls of `on_change`."""

    server: S3Server
    oss_server: OSSServer
    faults: Faults
    changes: int = 0

    def register(self) -> None:
        from pai_runner.script.filesystem import register

        self.server.make_bucket(BUCKET)
        places = [
            Place(f"s3://{BUCKET}/", "s3", self.server.options),
            Place(f"s3://{MISSING_BUCKET}/", "s3", self.server.options),
            Place(f"s3://{FAULTY_BUCKET}/", "s3", self.faults.options),
            Place(f"s3://{UNREACHABLE_BUCKET}/", "s3", UNREACHABLE),
            Place(f"memory://{BUCKET}/", "memory"),
            Place(f"oss://{BUCKET}/", "oss", self._oss_options()),
        ]
        register(places, self._on_change)

    def _oss_options(self) -> dict[str, str]:
        """Return those of a location that is opened with a role."""
        self.oss_server.make_bucket(BUCKET)
        return {**self.oss_server.options, "role_arn": ROLE, "role_buckets": BUCKET}

    def keys(self, folder: str) -> dict[str, int]:
        """Return what the bucket itself holds below a folder, by key, and the sizes."""
        protocol, _, rest = folder.partition("://")
        bucket, _, prefix = rest.partition("/")
        server = {"s3": self.server, "oss": self.oss_server}[protocol]
        return server.keys(bucket, f"{prefix}/")

    def new_folder(self, protocol: str, tmp_path: Path) -> str:
        """Return a directory that nobody has used yet; `file` is for a local one."""
        name = f"folder-{next(_numbers)}"
        if protocol == "file":
            folder = tmp_path / name
            folder.mkdir()
            return str(folder)
        return f"{protocol}://{BUCKET}/{name}"

    def _on_change(self) -> None:
        self.changes += 1
