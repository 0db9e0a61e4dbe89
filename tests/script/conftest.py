"""TensorFlow with this project's file systems registered, once for the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import Faults, fault_server
from file_systems import FileSystems
from moto_server import S3Server

from pai_runner.script.filesystem import drain

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def file_systems(s3_server: S3Server) -> Iterator[FileSystems]:
    """memory:// and s3:// as TensorFlow sees them."""
    with fault_server() as faults:
        made = FileSystems(s3_server, faults)
        made.register()
        yield made
        faults.mend()
        drain()


@pytest.fixture
def tf(file_systems: FileSystems) -> Any:
    """TensorFlow, with the file systems."""
    import tensorflow

    return tensorflow


@pytest.fixture
def faults(file_systems: FileSystems) -> Iterator[Faults]:
    """The server of the faulty bucket; it is whole again after the test."""
    yield file_systems.faults
    file_systems.faults.mend()
