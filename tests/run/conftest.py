"""What the tests of the run need of the machine: a driver library that shows made-up GPUs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FakeNvml = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    """Return a function: rows of tests/servers/fake_nvml.c -> a process's environment."""
    source = Path(__file__).parents[1] / "servers" / "fake_nvml.c"
    folder = tmp_path_factory.mktemp("fake_nvml")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True
    )

    def environment(*rows: str, init: int = 0) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        path = os.pathsep.join(filter(None, (str(folder), kept.get("LD_LIBRARY_PATH"))))
        table = {"FAKE_NVML": ";".join(rows), "FAKE_NVML_INIT": str(init)}
        return {**kept, **table, "LD_LIBRARY_PATH": path}

    return environment
