"""What tests of this room share: filesystems on OSS's double, places to stage, credentials."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from credential_doubles import STS, sts_double, user_without_settings
from moto_server import S3Server
from mover_process import Job, OSSPlace, Place, S3Place
from oss_server import OSSServer

from pai_runner.storage.oss import OSSFileSystem, open_oss

_numbers = itertools.count(1)


@pytest.fixture
def server(oss_server: OSSServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OSSServer]:
    """The double of OSS, trusted with credentials; its settings are undone afterwards."""
    monkeypatch.setenv("PAI_ALLOWED_HOSTS", "http://127.0.0.1")
    yield oss_server
    oss_server.reset()


@pytest.fixture
def fs(server: OSSServer) -> OSSFileSystem:
    return open_oss(server.options)


@pytest.fixture
def bucket(server: OSSServer) -> str:
    """A new bucket; nothing is in it."""
    return server.make_bucket(f"storage-{next(_numbers)}")


# ====== Staging ======


@pytest.fixture(params=["s3", "oss"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty directory in a bucket of each kind."""
    location = request.getfixturevalue(f"{request.param}_location")
    server = request.getfixturevalue(f"{request.param}_server")
    return S3Place(location, server) if request.param == "s3" else OSSPlace(location, server)


@pytest.fixture
def s3_place(s3_location: str, s3_server: S3Server) -> S3Place:
    return S3Place(s3_location, s3_server)


@pytest.fixture
def job(place: Place, tmp_path: Path) -> Job:
    return Job(tmp_path, "job", [place])


# ====== Credentials ======


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return user_without_settings(tmp_path)


@pytest.fixture
def sts() -> Iterator[STS]:
    with sts_double() as made:
        yield made
