"""What tests of several rooms share: a real S3 server, and places in it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import moto_server
import pytest
from fault_server import fault_server
from moto_server import S3Server
from support import ROOT, Pai, Places

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server on the loopback interface, in a process of its own."""
    with moto_server.s3_server(tmp_path_factory.mktemp("s3") / "requests") as server:
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
def places(s3_server: S3Server, s3_location: str, tmp_path: Path) -> Places:
    """An empty folder on the local disk, and one in a bucket."""
    local = tmp_path / "bucket"
    local.mkdir()
    return Places(str(local), s3_location, s3_server)


@pytest.fixture
def pai(tmp_path: Path, s3_server: S3Server) -> Pai:
    """`pai` with empty records, which finds the S3 server by the usual AWS settings."""
    folder = tmp_path / "called-from"
    folder.mkdir()
    settings = {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_DEFAULT_REGION": s3_server.options["region"],
        "AWS_ACCESS_KEY_ID": s3_server.options["key"],
        "AWS_SECRET_ACCESS_KEY": s3_server.options["secret"],
    }
    return Pai(tmp_path / "home", folder, settings)


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
