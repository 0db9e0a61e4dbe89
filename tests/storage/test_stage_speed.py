"""Staging costs no request too many, and takes what changes meanwhile as one version of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto_server import S3Server
from mover_process import OSSPlace, S3Place

from pai_runner.storage.objects import PART
from pai_runner.storage.stage_back import CopyBack, Moment, Outcome
from pai_runner.storage.stage_folder import StageFolder
from pai_runner.storage.stage_in import CopyIn
from pai_runner.storage.stage_progress import Progress
from pai_runner.storage.transfer import Bucket, ChangedError

FILES = 20


@pytest.fixture(params=["s3", "oss"])
def place(request: pytest.FixtureRequest) -> S3Place | OSSPlace:
    kind = request.param
    made = S3Place if kind == "s3" else OSSPlace
    server = request.getfixturevalue(f"{kind}_server")
    return made(request.getfixturevalue(f"{kind}_location"), server)


@pytest.fixture
def bucket(place: S3Place | OSSPlace) -> Bucket:
    return Bucket(place.prefix, place.protocol, place.options, threading.Event())


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    made = StageFolder(str(tmp_path / "stage" / "1" / "files"), "digest")
    made.take()
    return made


def copy_in(bucket: Bucket, stage: StageFolder, meanwhile: Callable[[], Any] = int) -> CopyIn:
    """Copy in; `meanwhile` is called between the listing and the copy."""
    copy = CopyIn(bucket, stage)
    total = copy.prepare()
    meanwhile()
    with Progress("staging", total, quiet=True) as progress:
        copy.run(progress)
    return copy


def test_a_small_file_is_one_request(
    s3_location: str, s3_server: S3Server, stage: StageFolder
) -> None:
    place = S3Place(s3_location, s3_server)
    bucket = Bucket(place.prefix, place.protocol, place.options, threading.Event())
    for number in range(FILES):
        place.put(f"a/{number}", b"x" * number)
    with s3_server.counted() as counts:
        assert copy_in(bucket, stage).files == FILES
    # An empty one needs no request; the directory is listed before and after.
    assert counts == {"GET": FILES - 1 + 2}
    for number in range(FILES):
        Path(stage.files, "a", str(number)).write_bytes(b"changed")
    with s3_server.counted() as counts:
        assert CopyBack(bucket, stage.files, stage.manifest).run(Moment.CLEAN) == Outcome()
    assert counts == {"HEAD": FILES, "PUT": FILES}


def test_a_small_file_that_was_replaced_is_taken_as_it_is_now(
    place: S3Place | OSSPlace, bucket: Bucket, stage: StageFolder
) -> None:
    place.put("grown", b"1")
    place.put("shorter", b"12345")
    new = {"grown": b"1234", "shorter": b"1"}
    copy = copy_in(bucket, stage, lambda: [place.put(name, new[name]) for name in new])
    assert {name: Path(stage.files, name).read_bytes() for name in new} == new
    assert copy.files == 2  # what was noted is the version that was read
    back = CopyBack(bucket, stage.files, stage.manifest)
    Path(stage.files, "grown").write_bytes(b"mine")
    assert back.run(Moment.CLEAN) == Outcome()
    assert place.read("grown") == b"mine"


@pytest.mark.slow
def test_a_large_file_is_of_one_version(
    place: S3Place | OSSPlace, bucket: Bucket, stage: StageFolder
) -> None:
    first, second = os.urandom(PART + 1), os.urandom(PART + 1)
    place.put("large", first)
    listed = bucket.list().files["large"]
    copy = copy_in(bucket, stage, lambda: place.put("large", second))
    assert Path(stage.files, "large").read_bytes() == second
    assert copy.files == 1
    with pytest.raises(ChangedError, match="large"):
        bucket.read("large", listed, 0, memoryview(bytearray(10)))


@pytest.mark.slow
def test_large_files_go_on_where_a_mover_was_killed(
    place: S3Place | OSSPlace, bucket: Bucket, stage: StageFolder
) -> None:
    contents = {name: os.urandom(PART + 1) for name in ("half", "none", "whole")}
    for name, content in contents.items():
        place.put(name, content)
    copy = CopyIn(bucket, stage)
    total = copy.prepare()
    for name, size in (("half", PART // 2), ("whole", PART + 1)):
        remote = bucket.list().files[name]
        Path(copy._part(name, remote)).write_bytes(contents[name][:size])
    assert copy.prepare() == total - PART // 2 - (PART + 1)
    with Progress("staging", total, quiet=True) as progress:
        copy.run(progress)
    assert copy.bytes == total - PART // 2 - (PART + 1)
    for name, content in contents.items():
        assert Path(stage.files, name).read_bytes() == content
    assert os.listdir(stage.parts) == []
