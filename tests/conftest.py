"""What tests of several rooms share: a real S3 server, and places in it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import moto_server
import oss_server as oss_double
import pytest
from checkpoint_scripts import Scripts, scripts_process
from fault_server import fault_server
from moto_server import S3Server
from oss_server import OSSServer
from support import ROOT, Pai, Places

_numbers = itertools.count(1)

# Servers that tests may name in a location.
LOOPBACK = "http://127.0.0.1,http://localhost"
os.environ["PAI_ALLOWED_HOSTS"] = LOOPBACK


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server on the loopback interface, in a process of its own."""
    with moto_server.s3_server(tmp_path_factory.mktemp("s3") / "requests") as server:
        yield server


@pytest.fixture(scope="session")
def oss_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OSSServer]:
    """A double of OSS on the loopback interface, in a process of its own."""
    with oss_double.oss_server(tmp_path_factory.mktemp("oss") / "requests") as server:
        yield server


@pytest.fixture
def s3_location(s3_server: S3Server) -> str:
    """A directory in a new bucket, `s3://bucket/dir/`; nothing is in it."""
    return f"s3://{s3_server.make_bucket(f'bucket-{next(_numbers)}')}/dir/"


@pytest.fixture(scope="session")
def tf_python() -> str:
    """An interpreter that has TensorFlow: the one of the tests."""
    return sys.executable


@pytest.fixture
def oss_location(oss_server: OSSServer) -> Iterator[str]:
    """A directory in a new bucket, `oss://bucket/dir/`; nothing is in it."""
    yield f"oss://{oss_server.make_bucket(f'bucket-{next(_numbers)}')}/dir/"
    oss_server.reset()


@pytest.fixture
def places(
    s3_server: S3Server,
    s3_location: str,
    oss_server: OSSServer,
    oss_location: str,
    tmp_path: Path,
) -> Places:
    """An empty folder on the local disk, and one in a bucket of each kind."""
    local = tmp_path / "bucket"
    local.mkdir()
    return Places(str(local), s3_location, s3_server, oss_location, oss_server)


@pytest.fixture
def pai(tmp_path: Path, s3_server: S3Server, oss_server: OSSServer) -> Iterator[Pai]:
    """`pai` with empty records, which finds keys and servers by the usual settings."""
    folder = tmp_path / "called-from"
    folder.mkdir()
    settings = {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_DEFAULT_REGION": s3_server.options["region"],
        "AWS_ACCESS_KEY_ID": s3_server.options["key"],
        "AWS_SECRET_ACCESS_KEY": s3_server.options["secret"],
        "OSS_ACCESS_KEY_ID": oss_server.options["access_key_id"],
        "OSS_ACCESS_KEY_SECRET": oss_server.options["access_key_secret"],
        "PAI_STS_ENDPOINT": oss_server.sts_url,
        "PAI_ALLOWED_HOSTS": LOOPBACK,
    }
    made = Pai(tmp_path / "home", folder, settings)
    yield made
    made.end_all()


@pytest.fixture
def denying_endpoint() -> Iterator[str]:
    """The URL of an S3 server that denies every request."""
    with fault_server() as faults:
        faults.refused = {"GET", "HEAD", "PUT", "POST", "DELETE"}
        yield faults.options["endpoint_url"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs inside the script's process: it meets TensorFlow, so each version of it."""
    for item in items:
        if "script" in item.path.relative_to(ROOT / "tests").parts[:-1]:
            item.add_marker(pytest.mark.tensorflow)


# ====== Scripts that share one import of TensorFlow ======


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported TensorFlow, and forks for each script."""
    with scripts_process() as process:
        yield process


@pytest.fixture
def scripts(forker: subprocess.Popen[str], tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts(forker, tmp_path)
    yield made
    made.give_up()
