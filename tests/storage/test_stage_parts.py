"""The pieces of staging: names and their order, folders, the manifest, and who holds a folder."""

from __future__ import annotations

import os
import random
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pai_runner.errors import SetupError
from pai_runner.storage.names import (
    Rank,
    is_events,
    is_renamed_into_place,
    is_temporary,
    needs,
    rank_of,
)
from pai_runner.storage.stage_back import CopyBack, Moment, Outcome
from pai_runner.storage.stage_files import ChangingError, FileState, open_for_writing, walk
from pai_runner.storage.stage_folder import StageFolder, digest_of
from pai_runner.storage.stage_in import CopyIn, check_space
from pai_runner.storage.stage_manifest import Manifest
from pai_runner.storage.stage_progress import Progress, in_words
from pai_runner.storage.transfer import BLOCK, Bucket, Stopped, upload

# ====== Names ======


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("model.ckpt-1.data-00000-of-00001", Rank.CONTENT),
        ("model.ckpt-1.meta", Rank.CONTENT),
        ("a/variables.index", Rank.INDEX),
        ("checkpoint", Rank.ENTRY),
        ("a/b/checkpoint", Rank.ENTRY),
        ("a/saved_model.pb", Rank.ENTRY),
        ("a/saved_model.pbtxt", Rank.ENTRY),
        ("my_checkpoint", Rank.CONTENT),
        ("checkpoint/file", Rank.CONTENT),
    ],
)
def test_ranks(name: str, rank: Rank) -> None:
    assert rank_of(name) is rank


@pytest.mark.parametrize(
    ("path", "content", "names"),
    [
        ("a/m-1.index", "", ("a/m-1.data-",)),
        ("a/m-1.data-00000-of-00001", "", ()),
        ("a/saved_model.pb", "", ("a/",)),
        ("saved_model.pb", "", ("",)),
        (
            "a/checkpoint",
            'model_checkpoint_path: "m-2"\nall_model_checkpoint_paths: "m-1"\n'
            'all_model_checkpoint_paths: "m-2"\nall_model_checkpoint_timestamps: 1.5\n',
            ("a/m-2.", "a/m-1.", "a/m-2."),
        ),
        ("checkpoint", 'model_checkpoint_path: "m-2"', ("m-2.",)),
        # A name that is not understood stands for all of the directory.
        ("a/checkpoint", 'model_checkpoint_path: "/elsewhere/m-2"', ("a/",)),
        ("a/checkpoint", 'model_checkpoint_path: "m\\"2"', ("a/",)),
    ],
)
def test_what_must_be_there_before(path: str, content: str, names: tuple[str, ...]) -> None:
    assert needs(path, content.encode()) == names


def test_names_of_tensorflow() -> None:
    assert is_temporary("a/m.index.tempstate1234567890")
    assert is_temporary("a/m_temp/part-00000-of-00001.index")
    assert not is_temporary("a/m.index")
    assert is_events("a/events.out.tfevents.1.host")
    assert not is_events("a.tfevents/x")
    assert is_renamed_into_place("a/checkpoint")
    assert not is_renamed_into_place("a/saved_model.pb")


# ====== Files ======


def test_files_that_are_open_for_writing(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("closed", "read", "written", "both")]
    for path in paths:
        path.write_bytes(b"")
    files = {path.name: FileState.of(path.stat()).file for path in paths}
    with paths[1].open("rb"), paths[2].open("ab"), paths[3].open("r+b"):
        found = open_for_writing(files.values())
    assert found == {files["written"], files["both"]}
    assert open_for_writing(files.values()) == set()


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    assert walk(str(tmp_path)).exists
    assert not walk(str(tmp_path / "gone")).exists
    tree = walk(str(tmp_path / "file"))
    assert tree.unreadable == {"": "Not a directory"}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_200_000_000, "1.2 GB"), (1000, "1 kB")],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert in_words(size) == text


# ====== The manifest ======


def test_a_manifest_survives_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(str(path))
    manifest.copied("a", (1, 2, 3), "v1")
    manifest.begin("b", (4, 5, 6), "md5")
    manifest.copied("b", (4, 5, 6), "v2")
    manifest.gone("a")
    manifest.close()
    whole = path.read_bytes()
    lines = whole.count(b"\n")
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        torn = Manifest(str(path))
        done = whole[:end].count(b"\n")
        assert (torn.version("a") == "v1") == (1 <= done < lines)
        assert (torn.version("b") == "v2") == (done >= 3)
        assert (torn.intent("b") is not None) == (done == 2)
        torn.copied("c", (7, 8, 9), "v3")
        torn.close()
        again = Manifest(str(path))
        assert again.version("c") == "v3"
        again.close()


@pytest.mark.parametrize("space", [0, 10])
def test_a_manifest_on_a_full_disk_goes_on(tmp_path: Path, space: int) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(str(path))
    manifest.copied("a", (1, 2, 3), "v1")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + space, limits[1]))
    try:
        manifest.copied("b", (4, 5, 6), "v2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert manifest.version("b") == "v2"
    assert manifest.problem
    assert path.read_bytes() == before
    manifest.close()


# ====== Folders ======


def folder(root: Path, name: str, prefix: str = "s3://b/d/") -> StageFolder:
    return StageFolder(str(root / name / "files"), digest_of(prefix, {"key": "x"}))


def test_equal_locations_have_one_digest() -> None:
    host = {"host": "oss-cn-x.aliyuncs.com"}
    assert digest_of("oss://b/", {**host, "role_arn": "1"}) == digest_of("oss://b/", host)
    assert digest_of("oss://b/", {}) != digest_of("oss://b/", host)


def test_a_folder_is_taken_once(tmp_path: Path) -> None:
    folder(tmp_path, "1").take()
    with pytest.raises(SetupError, match="another mover works in it") as caught:
        folder(tmp_path, "1").take()
    assert "PAI_STAGE_DIR" in str(caught.value.hint)
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_gone_cannot_be_taken_over(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file or directory"):
        folder(tmp_path, "1").attach()


def test_a_removal_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    (tmp_path / ".removed-old" / "files").mkdir(parents=True)
    folder(tmp_path, "1").take()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    check_space(str(tmp_path), 1)
    with pytest.raises(SetupError, match=r"TB are to be copied there, and .* are free"):
        check_space(str(tmp_path), 10**16)


# ====== In and back, on a filesystem in memory ======


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(f"memory://{tmp_path.name}/d/", "memory", {}, threading.Event())


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    made = folder(tmp_path / "stage", "1")
    made.take()
    return made


def copy_in(bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor) -> CopyIn:
    copy = CopyIn(bucket, stage, pool)
    with Progress("staging", copy.prepare(), quiet=True) as progress:
        copy.run(progress)
    return copy


def test_in_and_back(bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor) -> None:
    large = random.Random(1).randbytes(BLOCK + 1)
    bucket.write("a/b", b"1")
    bucket.write("large", large)
    assert copy_in(bucket, stage, pool).files == 2
    files = Path(stage.files)
    assert (files / "large").read_bytes() == large
    (files / "new").write_bytes(large[::-1])
    (files / "a" / "b").unlink()
    back = CopyBack(bucket, stage.files, stage.manifest, pool)
    outcome = back.run(Moment.CLEAN)
    assert outcome == Outcome()
    assert (back.files, back.bytes, back.deleted) == (1, len(large), 1)
    assert bucket.list().files.keys() == {"large", "new"}
    assert bucket.read("new", 0, len(large)) == large[::-1]


def test_a_file_that_changes_while_it_is_sent_is_not_published(
    bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor
) -> None:
    copy_in(bucket, stage, pool)
    path = Path(stage.files, "x")
    path.write_bytes(b"1")
    os.utime(path, (1, 1))
    back = CopyBack(bucket, stage.files, stage.manifest, pool)
    stage.manifest.begin = lambda *_: path.write_bytes(b"22")  # type: ignore[method-assign]
    back.run(Moment.RUNNING)  # the change comes after the last look: what was read is whole
    assert bucket.read("x", 0, 10) == b"1"
    assert not stage.manifest.is_same("x", FileState.of(path.stat()))


def test_only_the_content_that_was_seen_is_sent(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    state = FileState.of(path.stat())
    with path.open("ab") as stream:
        stream.write(b"2")
    with pytest.raises(ChangingError):
        upload(bucket, "x", str(path), state, lambda md5: None)
    assert bucket.find("x") is None
    upload(bucket, "x", str(path), state, lambda md5: None, may_grow=True)
    assert bucket.read("x", 0, 10) == b"1"


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
    path.write_bytes(bytes(2 * BLOCK + 1))
    os.utime(path, (1, 1))
    bucket = Bucket(location, kind, server.options, WriterBetweenBlocks(path))
    state = FileState.of(path.stat())
    with pytest.raises(ChangingError):
        upload(bucket, "x", str(path), state, lambda md5: None)
    assert bucket.find("x") is None
    if kind == "oss":
        assert not any(one.endswith("/x") for one in server.uploads())
    else:
        name = location.split("/")[2]
        assert "Uploads" not in server.client().list_multipart_uploads(Bucket=name)


def test_renamed_files_of_one_size_and_time_are_told_apart(
    bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor
) -> None:
    bucket.write("a", b"1")
    bucket.write("b", b"2")
    copy_in(bucket, stage, pool)
    for name in ("a", "b"):
        os.utime(Path(stage.files, name), (1, 1))
    back = CopyBack(bucket, stage.files, stage.manifest, pool)
    back.run(Moment.CLEAN)
    Path(stage.files, "b").replace(Path(stage.files, "a"))
    back.run(Moment.CLEAN)
    assert bucket.list().files.keys() == {"a"}
    assert bucket.read("a", 0, 10) == b"2"


def test_what_is_told_to_stop_stops(
    bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor
) -> None:
    copy_in(bucket, stage, pool)
    Path(stage.files, "x").write_bytes(b"1")
    bucket.stopping.set()
    with pytest.raises(Stopped):
        CopyBack(bucket, stage.files, stage.manifest, pool).run(Moment.CLEAN)


def test_half_removed_models_stay_until_the_end(
    bucket: Bucket, stage: StageFolder, pool: ThreadPoolExecutor
) -> None:
    for name in ("m/saved_model.pb", "m/variables/v.index", "c-1.index", "c-1.data-00000-of-00001"):
        bucket.write(name, b"1")
    copy_in(bucket, stage, pool)
    back = CopyBack(bucket, stage.files, stage.manifest, pool)
    Path(stage.files, "m", "variables", "v.index").unlink()
    Path(stage.files, "c-1.data-00000-of-00001").unlink()
    back.run(Moment.RUNNING)
    assert len(bucket.list().files) == 4
    Path(stage.files, "c-1.index").unlink()
    back.run(Moment.RUNNING)
    assert bucket.list().files.keys() == {"m/saved_model.pb", "m/variables/v.index"}
    back.run(Moment.CLEAN)
    assert bucket.list().files.keys() == {"m/saved_model.pb"}
