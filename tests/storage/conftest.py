"""What the tests of oss:// share: filesystems on the double, and buckets of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
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
