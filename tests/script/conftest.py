"""TensorFlow with this project's file systems registered, once for the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import Faults, fault_server
from file_systems import FileSystems
from moto_server import S3Server
from oss_server import OSSServer

from pai_runner.script.filesystem import drain

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def file_systems(s3_server: S3Server, oss_server: OSSServer) -> Iterator[FileSystems]:
    """memory://, s3:// and oss:// as TensorFlow sees them."""
    os.environ["PAI_STS_ENDPOINT"] = oss_server.sts_url
    with fault_server() as faults:
        made = FileSystems(s3_server, oss_server, faults)
        made.register()
        yield made
        faults.mend()
        drain()


@pytest.fixture
def tf(file_systems: FileSystems) -> Iterator[Any]:
    """TensorFlow, with the file systems."""
    # As PAI's own role has it: it may use the bucket's objects, and not ask about the bucket.
    file_systems.oss_server.set(deny_bucket_info=True, deny_list_parts=True)
    import tensorflow

    yield tensorflow
    file_systems.oss_server.reset()


@pytest.fixture
def faults(file_systems: FileSystems) -> Iterator[Faults]:
    """The server of the faulty bucket; it is whole again after the test."""
    yield file_systems.faults
    file_systems.faults.mend()
