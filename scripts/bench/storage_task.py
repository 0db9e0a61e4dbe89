"""What the measurements of scripts/bench/storage.py share: a task, a watch, a digest."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What the parent asks for. `path` is what is worked on; `options` are its filesystem's."""

    path: str
    options: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, int] = (0, 0)
    folder: str = ""
    bytes: int = 0
    files: int = 0
    threads: int = 0

    @property
    def protocol(self) -> str:
        return self.path.partition("://")[0] if "://" in self.path else "file"

    @property
    def bucket(self) -> str:
        return self.path.partition("://")[2].partition("/")[0]

    @property
    def key(self) -> str:
        return self.path.partition("://")[2].partition("/")[2]


class Watch:
    """The time and the memory of a block."""

    def __enter__(self) -> Watch:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        self.peak_mib = int(peak.split()[1]) / 1024

    def result(self, size: int, **more: Any) -> Result:
        return {"seconds": self.seconds, "bytes": size, "peak_mib": self.peak_mib, **more}


def ready_disk(size: int) -> None:
    """Let a file of `size` bytes in TMPDIR cost the same whenever it is written.

    What was written before is on the disk then. And a virtual machine gets much of its memory from
    its host when it is first touched, which takes several times as long as to write a file to it:
    the next file finds the memory of one that was just removed.
    """
    os.sync()
    block = bytes(8 << 20)
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(-(-size // len(block))):
            file.write(block)


def folder_digest(folder: str) -> Result:
    """Return how many files lie in a folder, and the digest of their names and contents."""
    digest = sha256()
    names = sorted(os.listdir(folder))
    for name in names:
        digest.update(name.encode())
        digest.update(Path(folder, name).read_bytes())
    return {"files": len(names), "digest": digest.hexdigest()}
