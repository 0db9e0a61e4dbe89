"""What every object store must do, on a real bucket where one is given.

PAI_TEST_LOCATION is the location of a folder, with all that reaches it, for example
`oss://bucket/dir/?host=oss-cn-hangzhou.aliyuncs.com`; the tests make a folder in it and remove
it. Without the variable they run on the doubles of OSS and of S3.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from moto_server import S3Server
from oss_content import content
from oss_server import OSSServer

from pai_runner.location import Location
from pai_runner.secret import Secret
from pai_runner.storage.filesystems import check_directory, filesystem

GIVEN = os.environ.get("PAI_TEST_LOCATION", "")
# Of more than one part on any store: S3's are at least 5 MiB long.
LONG = 6 * 1024 * 1024
PART = 5 * 1024 * 1024


@dataclass(frozen=True)
class Folder:
    """A folder of a bucket that nothing else uses; `path` is without protocol and final /."""

    fs: Any
    protocol: str
    path: str

    def file(self, name: str) -> str:
        return f"{self.path}/{name}"


@pytest.fixture(params=["given"] if GIVEN else ["oss", "s3"])
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    if request.param == "given":
        location = Location.parse(GIVEN).directory()
        protocol, path = location.protocol, location.path
        options = {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in location.options
        }
    else:
        protocol = request.param
        server: OSSServer | S3Server = request.getfixturevalue(f"{protocol}_server")
        monkeypatch.setenv("PAI_ALLOWED_HOSTS", "http://127.0.0.1")
        path = server.make_bucket(f"real-{uuid.uuid4().hex[:8]}") + "/"
        options = server.options
    made = Folder(filesystem(protocol, options), protocol, f"{path}pai-test-{uuid.uuid4().hex}")
    yield made
    if made.fs.find(made.path):
        made.fs.rm(made.path, recursive=True)


def test_a_folder_that_is_not_there_yet(folder: Folder) -> None:
    check_directory(folder.fs, f"{folder.protocol}://{folder.path}/")
    assert not folder.fs.exists(folder.path)
    assert not folder.fs.exists(folder.file("x"))


def test_write_and_read(folder: Folder) -> None:
    fs, path = folder.fs, folder.file("d/x y+z%中文.bin")
    for data in (b"", b"1", content(1000)):
        fs.pipe_file(path, data)
        assert fs.cat_file(path) == data
        assert fs.info(path)["size"] == len(data)
    with fs.open(path, "wb") as stream:
        stream.write(b"written")
    with fs.open(path, "rb") as stream:
        assert stream.read() == b"written"
    with pytest.raises(FileNotFoundError):
        fs.cat_file(folder.file("missing"))


def test_ranges(folder: Folder) -> None:
    fs, data = folder.fs, content(1000)
    fs.pipe_file(folder.file("x"), data)
    for start, end in ((0, 1), (0, 10), (990, 1000), (990, 2000), (5, None), (-10, None)):
        assert fs.cat_file(folder.file("x"), start=start, end=end) == data[start:end]
    with fs.open(folder.file("x"), "rb") as stream:
        stream.seek(500)
        assert stream.read(100) == data[500:600]


def test_lists(folder: Folder) -> None:
    fs = folder.fs
    for name in ("a", "d/b", "d/e/c"):
        fs.pipe_file(folder.file(name), b"1")
    assert fs.find(folder.path) == [folder.file(name) for name in ("a", "d/b", "d/e/c")]
    found = {entry["name"]: entry["type"] for entry in fs.ls(folder.path, detail=True)}
    assert found == {folder.file("a"): "file", folder.file("d"): "directory"}
    assert fs.isdir(folder.file("d/e"))
    assert not fs.isdir(folder.file("a"))


def test_copy_rename_delete(folder: Folder) -> None:
    fs = folder.fs
    fs.pipe_file(folder.file("d/x"), content(1000))
    fs.cp_file(folder.file("d/x"), folder.file("y"))
    assert fs.cat_file(folder.file("y")) == content(1000)
    fs.mv(folder.file("y"), folder.file("z"))
    assert fs.find(folder.path) == [folder.file("d/x"), folder.file("z")]
    fs.rm_file(folder.file("z"))
    assert not fs.exists(folder.file("z"))
    fs.rm(folder.file("d"), recursive=True)
    assert fs.find(folder.path) == []


def test_parts(folder: Folder) -> None:
    fs, data = folder.fs, content(LONG)
    with fs.open(folder.file("x"), "wb", block_size=PART) as stream:
        for start in range(0, LONG, 1024 * 1024):
            stream.write(data[start : start + 1024 * 1024])
        assert not fs.exists(folder.file("x"))
    assert fs.cat_file(folder.file("x")) == data


def test_files_of_this_machine(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content(LONG))
    folder.fs.put_file(str(tmp_path / "x"), folder.file("x"))
    folder.fs.get_file(folder.file("x"), str(tmp_path / "y"))
    assert (tmp_path / "y").read_bytes() == content(LONG)
