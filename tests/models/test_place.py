"""A directory of models, on the local disk and in buckets, with the names that people give."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fault_server import fault_server
from model_folders import UGLY_NAMES, Shelf
from oss_server import KEY_ID, SECRET, OSSServer
from support import ROLE

from pai_runner.errors import SetupError
from pai_runner.models.failures import as_setup_error
from pai_runner.models.place import BucketPlace, LocalPlace, open_place
from pai_runner.storage.mounts import serve_mounts
from pai_runner.storage.objects import PART


def test_files_of_any_name_are_written_found_read_copied_and_removed(
    shelf: Shelf, tmp_path: Path
) -> None:
    place = shelf.place
    source, target = tmp_path / "source", tmp_path / "target"
    for name in UGLY_NAMES:
        data = name.encode()
        source.write_bytes(data)
        place.put(str(source), f"1/{name}")
        place.copy(f"1/{name}", f"2/{name}")
        place.write(f"3/{name}", data)
        place.create(f"4/{name}", data)
        for number in "1234":
            assert shelf.raw.read(f"{number}/{name}") == data
        place.get(f"2/{name}", str(target))
        assert target.read_bytes() == data
        assert place.read(f"2/{name}") == data
        info = place.info(f"2/{name}")
        assert info is not None
        assert info.size == len(data)
    for number in "1234":
        assert set(place.find(number)) == set(UGLY_NAMES)
        assert set(place.at(number).find()) == set(UGLY_NAMES)
    assert place.children() == {"1", "2", "3", "4"}
    assert place.at("1").children() == {"assets"}
    place.each(place.remove, [f"{number}/{name}" for number in "1234" for name in UGLY_NAMES])
    assert shelf.raw.names() == set()


@pytest.mark.slow
def test_a_large_file_arrives_whole_in_both_directions(bucket_shelf: Shelf, tmp_path: Path) -> None:
    content = os.urandom(2 * PART + 1)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    place = open_place(bucket_shelf.location)
    name = f"1/{UGLY_NAMES[0]}"
    place.put(str(source), name)
    assert bucket_shelf.raw.read(name) == content
    place.get(name, str(target))
    assert target.read_bytes() == content


def test_parts_of_a_file_are_read(shelf: Shelf) -> None:
    place = shelf.place
    place.write("file", b"0123456789")
    assert place.read("file", 2, 5) == b"234"
    assert place.read("file", 7) == b"789"
    assert place.read("file", 0, 4) == b"0123"
    place.write("file", b"other")
    assert place.read("file") == b"other"


def test_a_file_tells_its_size_and_when_it_was_written(shelf: Shelf, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    reference.touch()
    shelf.place.write("file", b"12345")
    (entry,) = shelf.place.find().values()
    assert entry.size == 5
    assert abs(entry.modified_ns - reference.stat().st_mtime_ns) < 60e9
    assert shelf.place.info("file") == entry


def test_what_is_not_there(shelf: Shelf, tmp_path: Path) -> None:
    place = shelf.place
    assert place.children() == set()
    assert place.find() == place.find("below") == {}
    assert place.info("file") is None
    place.remove("file")
    with pytest.raises(FileNotFoundError):
        place.read("file")
    with pytest.raises(FileNotFoundError):
        place.get("file", str(tmp_path / "target"))
    place.write("folder/file", b"")
    assert place.info("folder") is None
    assert place.find("fold") == {}


def test_a_file_is_created_once(shelf: Shelf) -> None:
    place = shelf.place
    place.create("file", b"first")
    with pytest.raises(FileExistsError, match=r"(?i)file.* exists|exists.*file"):
        place.create("file", b"second")
    assert shelf.raw.read("file") == b"first"
    assert shelf.raw.names() == {"file"}


def test_of_many_who_create_a_file_one_does(shelf: Shelf) -> None:
    place, count = shelf.place, 8
    start = threading.Barrier(count)

    def create(number: int) -> int | None:
        start.wait()
        try:
            place.create("file", str(number).encode())
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(count) as pool:
        winners = [one for one in pool.map(create, range(count)) if one is not None]
    assert [shelf.raw.read("file")] == [str(winner).encode() for winner in winners]


def test_several_are_done_at_once(shelf: Shelf) -> None:
    meeting = threading.Barrier(3)
    places = shelf.place.each(lambda _: meeting.wait(timeout=30), range(3))
    assert sorted(places) == [0, 1, 2]


def test_the_first_failure_is_raised_when_those_under_way_have_ended(shelf: Shelf) -> None:
    assert shelf.place.each(lambda number: number * 2, [3, 2, 5]) == [6, 4, 10]
    assert shelf.place.each(str, []) == []
    begun, ended = [], []

    def act(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise OSError("the first")
        ended.append(number)

    with pytest.raises(OSError, match="the first"):
        shelf.place.each(act, range(1000))
    assert sorted(begun) == sorted([1, *ended])
    assert len(begun) < 1000


# ====== On the local disk ======


def test_a_local_file_has_the_mode_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    place = LocalPlace(str(tmp_path))
    place.create("created", b"")
    place.write("written", b"")
    modes = {name: (tmp_path / name).stat().st_mode for name in ("other", "created", "written")}
    assert len(set(modes.values())) == 1, modes


def test_half_a_file_is_none_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[object] = []

    def refuse(*names: object) -> None:
        refused.append(names)
        raise OSError(errno.EPERM, "no links here")

    def fill(_: int) -> None:
        if refused:
            raise OSError(errno.ENOSPC, "the disk is full")

    place = open_place(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match="the disk is full"):
            place.create("one", b"first")
    assert place.children() == set()
    place.create("one", b"first")
    assert place.read("one") == b"first"


def test_a_local_folder_is_named_from_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_place("models").prefix == f"{tmp_path}/models/"
    assert open_place(Path("models")).prefix == f"{tmp_path}/models/"
    assert open_place("~/models/").prefix == f"{tmp_path}/home/models/"
    assert open_place(f"file://{tmp_path}/models").is_local


# ====== In a bucket ======


def test_a_location_is_opened_as_it_says_and_shown_without_its_secrets(
    bucket_shelf: Shelf,
) -> None:
    place = open_place(bucket_shelf.location)
    place.write("file", b"data")
    assert bucket_shelf.raw.names() == {"file"}
    shown = [place.prefix, place.shown("1/x"), place.at("1").prefix, repr(place)]
    assert not any("?" in one or "secret" in one for one in shown)
    assert place.at("1").prefix == f"{place.prefix}1/"


@dataclass(frozen=True)
class JobMount:
    """A mount of a job, as a script's process is told of it."""

    prefix: str
    protocol: str
    options: dict[str, str] = field(default_factory=dict)


def test_in_a_job_its_mounts_open_a_location(bucket_shelf: Shelf) -> None:
    options = bucket_shelf.server.options
    serve_mounts([JobMount(bucket_shelf.prefix, bucket_shelf.kind, options)])
    open_place(f"{bucket_shelf.prefix}export").write("file", b"data")
    assert bucket_shelf.raw.names() == {"export/file"}


def test_a_role_is_assumed_for_the_bucket_alone(
    oss_shelf: Shelf, oss_server: OSSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)
    monkeypatch.setenv("PAI_STS_ENDPOINT", oss_server.sts_url)
    prefix = oss_shelf.prefix
    place = open_place(f"{prefix}?host={oss_server.url}&role_arn={ROLE}")
    place.write("file", b"data")
    assert oss_shelf.raw.names() == {"file"}
    assert f":{prefix.split('/')[2]}/*" in oss_server.calls_of_sts()[-1]["policy"]


@pytest.fixture
def denied() -> Iterator[BucketPlace]:
    """A place on a server that denies every request, and repeats the caller's key in doing so."""
    with fault_server() as faults:
        faults.refused = {"GET", "HEAD", "PUT", "POST", "DELETE"}
        yield BucketPlace.opened("s3://bucket/dir/", faults.options)


def test_a_denial_is_told_without_secrets(denied: BucketPlace) -> None:
    with pytest.raises(PermissionError) as caught:
        denied.create("file", b"")
    told = as_setup_error(denied.prefix, caught.value)
    assert "s3://bucket/dir/: access denied" in told.message
    assert "faulty" not in told.message


def test_a_server_that_is_not_there_is_a_setup_error() -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "nobody", "secret": "no-secret"}
    place = BucketPlace.opened("s3://bucket/dir/", options)
    with pytest.raises(SetupError, match="s3://bucket/dir/: the server does not answer"):
        place.read("file")


def test_names_are_on_the_disk_of_a_new_folder(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path / "new" / "models"))
    place.create(".versions/1", b"")
    assert os.listdir(place.path(".versions")) == ["1"]
