"""Copies in and back, mostly on a filesystem in memory: what is sent, and what is removed."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pai_runner.storage.objects import PART
from pai_runner.storage.stage_back import CopyBack, Moment, Outcome
from pai_runner.storage.stage_files import ChangingError, FileState
from pai_runner.storage.stage_folder import StageFolder
from pai_runner.storage.stage_in import CopyIn
from pai_runner.storage.stage_manifest import Manifest
from pai_runner.storage.stage_progress import Progress
from pai_runner.storage.transfer import Bucket, Stopped, upload


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(f"memory://{tmp_path.name}/d/", "memory", {}, threading.Event())


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    made = StageFolder(str(tmp_path / "stage" / "1" / "files"), "digest")
    made.take()
    return made


def content(bucket: Bucket, name: str) -> bytes:
    remote = bucket.find(name)
    assert remote is not None
    data = bytearray(remote.size)
    bucket.read(name, remote, 0, memoryview(data))
    return bytes(data)


def copy_in(bucket: Bucket, stage: StageFolder) -> CopyIn:
    copy = CopyIn(bucket, stage)
    with Progress("staging", copy.prepare(), quiet=True) as progress:
        copy.run(progress)
    return copy


def test_in_and_back(bucket: Bucket, stage: StageFolder) -> None:
    large = random.Random(1).randbytes(PART + 1)
    bucket.write("a/b", b"1")
    bucket.write("large", large)
    assert copy_in(bucket, stage).files == 2
    files = Path(stage.files)
    assert (files / "large").read_bytes() == large
    (files / "new").write_bytes(large[::-1])
    (files / "a" / "b").unlink()
    back = CopyBack(bucket, stage.files, stage.manifest)
    outcome = back.run(Moment.CLEAN)
    assert outcome == Outcome()
    assert (back.files, back.bytes, back.deleted) == (1, len(large), 1)
    assert bucket.list().files.keys() == {"large", "new"}
    assert content(bucket, "new") == large[::-1]


def test_a_file_that_changes_when_it_was_read_is_published_as_it_was(
    bucket: Bucket, stage: StageFolder
) -> None:
    copy_in(bucket, stage)
    path = Path(stage.files, "x")
    path.write_bytes(b"1")
    os.utime(path, (1, 1))
    back = CopyBack(bucket, stage.files, stage.manifest)
    stage.manifest.begin = lambda *_: path.write_bytes(b"22")  # type: ignore
    back.run(Moment.RUNNING)  # the change comes after the last look: what was read is whole
    assert content(bucket, "x") == b"1"
    assert not stage.manifest.is_same("x", FileState.of(path.stat()))


def test_a_pointer_is_copied_back_relative(bucket: Bucket, stage: StageFolder) -> None:
    copy_in(bucket, stage)
    pointer = Path(stage.files, "a", "checkpoint")
    pointer.parent.mkdir()
    pointer.write_text(f'model_checkpoint_path: "{stage.files}/a/m-1"\n')
    Path(stage.files, "a", "m-1.index").write_bytes(b"")
    back = CopyBack(bucket, stage.files, stage.manifest)
    assert back.run(Moment.CLEAN) == Outcome()
    assert content(bucket, "a/checkpoint") == b'model_checkpoint_path: "m-1"\n'
    assert back.run(Moment.CLEAN) == Outcome()
    assert back.files == 2  # the local file is what was copied: it is not copied again


def test_a_pointer_whose_copy_nobody_noted_is_no_conflict(
    bucket: Bucket, stage: StageFolder
) -> None:
    copy_in(bucket, stage)
    pointer = Path(stage.files, "checkpoint")
    pointer.write_text(f'model_checkpoint_path: "{stage.files}/m-1"\n')
    back = CopyBack(bucket, stage.files, stage.manifest)
    back.run(Moment.CLEAN)
    lines = Path(stage.root, "manifest.jsonl").read_bytes().splitlines(keepends=True)
    Path(stage.root, "manifest.jsonl").write_bytes(b"".join(lines[:-1]))
    manifest = Manifest(str(Path(stage.root, "manifest.jsonl")))
    pointer.write_text(f'model_checkpoint_path: "{stage.files}/m-22"\n')
    assert CopyBack(bucket, stage.files, manifest).run(Moment.CLEAN) == Outcome()
    assert content(bucket, "checkpoint") == b'model_checkpoint_path: "m-22"\n'


def test_a_checkpoint_is_not_removed_before_its_pointer_is_replaced(
    bucket: Bucket, stage: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(step: int) -> None:
        for name, data in (
            (f"m-{step}.data-00000-of-00001", "d"),
            (f"m-{step}.index", "i"),
            ("checkpoint", f'model_checkpoint_path: "m-{step}"\n'),
        ):
            temporary = Path(stage.files, f"{name}.tmp{os.urandom(16).hex()}")
            temporary.write_text(data)
            os.utime(temporary, (step, step))
            temporary.rename(Path(stage.files, name))
        for old in Path(stage.files).glob(f"m-{step - 1}.*"):
            old.unlink()

    copy_in(bucket, stage)
    save(1)
    back = CopyBack(bucket, stage.files, stage.manifest)
    back.run(Moment.RUNNING)
    assert len(bucket.list().files) == 3
    scandir = os.scandir

    @contextmanager
    def pointer_first(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """List a directory with `checkpoint` first, and save as soon as that was seen."""

        def entries() -> Iterator[os.DirEntry[str]]:
            for entry in sorted(listing, key=lambda one: one.name != "checkpoint"):
                yield entry
                if entry.name == "checkpoint" and not Path(stage.files, "m-2.index").exists():
                    save(2)

        with scandir(path) as listing:
            yield entries()

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", pointer_first)
        back.run(Moment.RUNNING)
    assert content(bucket, "checkpoint") == b'model_checkpoint_path: "m-1"\n'
    assert {"m-1.index", "m-1.data-00000-of-00001"} <= bucket.list().files.keys()
    back.run(Moment.RUNNING)
    assert content(bucket, "checkpoint") == b'model_checkpoint_path: "m-2"\n'
    assert bucket.list().files.keys() == {"checkpoint", "m-2.index", "m-2.data-00000-of-00001"}


def test_what_was_just_written_may_be_cut_off(bucket: Bucket, stage: StageFolder) -> None:
    copy_in(bucket, stage)
    for name in ("new", "old"):
        Path(stage.files, name).write_bytes(b"1")
    os.utime(Path(stage.files, "old"), (1, 1))
    back = CopyBack(bucket, stage.files, stage.manifest)
    assert back.run(Moment.RUNNING).later == {"new": "it is being written"}
    reason = "it may be incomplete: nobody saw it closed before the script was killed"
    assert back.run(Moment.KILLED).later == {"new": reason}
    assert bucket.list().files.keys() == {"old"}


def test_only_the_content_that_was_seen_is_sent(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    state = FileState.of(path.stat())
    with path.open("ab") as stream:
        stream.write(b"2")
    with pytest.raises(ChangingError):
        upload(bucket, "x", str(path), state, lambda crc64: None)
    assert bucket.find("x") is None
    upload(bucket, "x", str(path), state, lambda crc64: None, may_grow=True)
    assert content(bucket, "x") == b"1"


class WriterBetweenBlocks(threading.Event):
    """Is asked before each block whether to stop, and writes to the file that is sent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def is_set(self) -> bool:
        os.utime(self.path)
        return False


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_a_large_file_that_changes_while_it_is_sent_leaves_nothing(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    location = request.getfixturevalue(f"{kind}_location")
    server = request.getfixturevalue(f"{kind}_server")
    path = tmp_path / "x"
    path.write_bytes(bytes(2 * PART + 1))
    os.utime(path, (1, 1))
    bucket = Bucket(location, kind, server.options, WriterBetweenBlocks(path))
    state = FileState.of(path.stat())
    with pytest.raises(ChangingError):
        upload(bucket, "x", str(path), state, lambda crc64: None)
    assert bucket.find("x") is None
    name = location.split("/")[2]
    if kind == "oss":
        assert server.uploads(name) == []
    else:
        assert "Uploads" not in server.client().list_multipart_uploads(Bucket=name)


def test_renamed_files_of_one_size_and_time_are_told_apart(
    bucket: Bucket, stage: StageFolder
) -> None:
    bucket.write("a", b"1")
    bucket.write("b", b"2")
    copy_in(bucket, stage)
    for name in ("a", "b"):
        os.utime(Path(stage.files, name), (1, 1))
    back = CopyBack(bucket, stage.files, stage.manifest)
    back.run(Moment.CLEAN)
    Path(stage.files, "b").replace(Path(stage.files, "a"))
    back.run(Moment.CLEAN)
    assert bucket.list().files.keys() == {"a"}
    assert content(bucket, "a") == b"2"


def test_what_is_told_to_stop_stops(bucket: Bucket, stage: StageFolder) -> None:
    copy_in(bucket, stage)
    Path(stage.files, "x").write_bytes(b"1")
    bucket.stopping.set()
    with pytest.raises(Stopped):
        CopyBack(bucket, stage.files, stage.manifest).run(Moment.CLEAN)


def test_half_removed_models_stay_until_the_end(bucket: Bucket, stage: StageFolder) -> None:
    for name in ("m/saved_model.pb", "m/variables/v.index", "c-1.index", "c-1.data-00000-of-00001"):
        bucket.write(name, b"1")
    copy_in(bucket, stage)
    back = CopyBack(bucket, stage.files, stage.manifest)
    Path(stage.files, "m", "variables", "v.index").unlink()
    Path(stage.files, "c-1.data-00000-of-00001").unlink()
    back.run(Moment.RUNNING)
    assert len(bucket.list().files) == 4
    Path(stage.files, "c-1.index").unlink()
    for _ in range(2):  # gone only when two looks do not find it
        back.run(Moment.RUNNING)
    assert bucket.list().files.keys() == {"m/saved_model.pb", "m/variables/v.index"}
    back.run(Moment.CLEAN)
    assert bucket.list().files.keys() == {"m/saved_model.pb"}


class NotedBucket(Bucket):
    """Notes in which order objects are written and removed."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, "memory", {}, threading.Event())
        self.noted: list[str] = []

    def write(self, name: str, data: bytes) -> str:
        self.noted.append(name)
        return super().write(name, data)

    def remove(self, name: str) -> None:
        self.noted.append(name)
        super().remove(name)


def test_the_name_of_the_latest_version_comes_last_and_goes_first(
    stage: StageFolder, tmp_path: Path
) -> None:
    bucket = NotedBucket(f"memory://{tmp_path.name}/noted/")
    elsewhere = f".staging-{'0' * 32}/model/saved_model.pb"
    bucket.write(elsewhere, b"an exporter of another machine is at it")
    copy_in(bucket, stage)
    assert not Path(stage.files, elsewhere).exists()
    version = ["1/assets.extra/pai_manifest.json", "1/variables/x.index", "1/saved_model.pb"]
    latest = [".latest/000000000001", "latest.json"]
    for name in (*latest, *version, f".staging-{'1' * 32}/model/saved_model.pb", ".tmp-12345678"):
        Path(stage.files, name).parent.mkdir(parents=True, exist_ok=True)
        Path(stage.files, name).write_bytes(b'{"version": 1}')
    bucket.noted.clear()
    back = CopyBack(bucket, stage.files, stage.manifest)
    back.run(Moment.CLEAN)
    assert bucket.noted[:3] == version
    assert sorted(bucket.noted[3:]) == latest
    bucket.noted.clear()
    for name in (*latest, *version):
        Path(stage.files, name).unlink()
    back.run(Moment.CLEAN)
    assert sorted(bucket.noted[:2]) == latest
    assert bucket.noted[2:] == ["1/saved_model.pb", "1/variables/x.index", version[0]]
    assert bucket.list().files.keys() == {elsewhere}


def test_the_latest_version_is_not_named_before_it_is_there(
    bucket: Bucket, stage: StageFolder
) -> None:
    copy_in(bucket, stage)
    Path(stage.files, "2").mkdir()
    for name in ("2/saved_model.pb", "latest.json"):
        Path(stage.files, name).write_bytes(b'{"version": 2}')
        os.utime(Path(stage.files, name), (1e9, 1e9))
    back = CopyBack(bucket, stage.files, stage.manifest)
    with Path(stage.files, "2", "weights").open("wb") as stream:
        outcome = back.run(Moment.RUNNING)
        assert set(outcome.later) == {"2/weights", "latest.json"}
        stream.write(b"1")
    back.run(Moment.CLEAN)
    assert bucket.list().files.keys() == {"2/saved_model.pb", "2/weights", "latest.json"}
