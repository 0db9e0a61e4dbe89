"""A world in which 100.100.100.200 exists: a network namespace of its own, for one program.

Run as `metadata_world.py PROGRAM`: it gives the loopback interface that address, and the name
`store.test` leads there. What cannot make namespaces (some CI machines) skips such tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ADDRESS = "100.100.100.200"
NAME = "store.test"
_UNSHARE = ["unshare", "--map-root-user", "--net", "--mount"]


def available() -> bool:
    """Tell whether this machine lets a program have a network of its own."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode == 0


def run_there(program: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code there; its own exit code and output come back."""
    return subprocess.run(
        [*_UNSHARE, sys.executable, __file__, program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _enter(program: str) -> None:
    with tempfile.NamedTemporaryFile("w", delete=False) as hosts:
        hosts.write(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
        ["mount", "--bind", hosts.name, "/etc/hosts"],
    ):
        subprocess.run(command, check=True)
    Path(hosts.name).unlink()
    os.execv(sys.executable, [sys.executable, "-c", program])


if __name__ == "__main__":
    _enter(sys.argv[1])
