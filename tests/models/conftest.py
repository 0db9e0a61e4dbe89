"""Places to publish in, of each kind."""

from __future__ import annotations

import pytest
from model_folders import KINDS, Shelf, make_shelf


@pytest.fixture(params=KINDS)
def shelf(request: pytest.FixtureRequest) -> Shelf:
    """An empty directory for versions, on the local disk and in a bucket of each kind."""
    return make_shelf(request.param, request)


@pytest.fixture(params=["s3", "oss"])
def bucket_shelf(request: pytest.FixtureRequest) -> Shelf:
    """An empty directory for versions in a bucket of each kind."""
    return make_shelf(request.param, request)


@pytest.fixture
def local_shelf(request: pytest.FixtureRequest) -> Shelf:
    return make_shelf("local", request)


@pytest.fixture
def s3_shelf(request: pytest.FixtureRequest) -> Shelf:
    return make_shelf("s3", request)


@pytest.fixture
def oss_shelf(request: pytest.FixtureRequest) -> Shelf:
    return make_shelf("oss", request)
