"""The pieces of staging: names and their order, folders, the manifest, and who holds a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pai_runner.errors import SetupError
from pai_runner.storage.names import (
    Rank,
    is_events,
    is_in_hands,
    is_renamed_into_place,
    is_temporary,
    needs,
    rank_of,
    relative_pointer,
)
from pai_runner.storage.stage_files import FileState, open_for_writing, walk
from pai_runner.storage.stage_folder import StageFolder, digest_of
from pai_runner.storage.stage_in import check_space
from pai_runner.storage.stage_manifest import Manifest
from pai_runner.storage.stage_progress import in_words


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


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
        ("a/3/assets.extra/pai_manifest.json", Rank.CONTENT),
        ("latest.json", Rank.LATEST),
        ("a/latest.json", Rank.LATEST),
        ("a/.latest/000000000012", Rank.LATEST),
        ("a/.latest/12", Rank.CONTENT),
        ("a/not-latest.json", Rank.CONTENT),
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
        ("a/checkpoint", 'model_checkpoint_path: "m\\"\\3442"', ('a/m"\ufffd2.',)),
        ("a/checkpoint", 'model_checkpoint_path: "../b/m-2"', ("b/m-2.",)),
        # A name that is not understood stands for all of the directory.
        ("a/checkpoint", 'model_checkpoint_path: "/elsewhere/m-2"', ("a/",)),
        ("a/checkpoint", 'model_checkpoint_path: "../../m-2"', ("a/",)),
        ("a/checkpoint", "model_checkpoint_path: 'm-2'", ("a/",)),
        ("latest.json", '{"version": 12}', ("12/",)),
        ("a/latest.json", '{"version": 12}', ("a/12/",)),
        ("a/.latest/000000000002", '{"version": 12}', ("a/12/",)),
        # One of the script's own.
        ("latest.json", "[]", ()),
        ("latest.json", "{", ()),
        ("latest.json", '{"version": Infinity}', ()),
    ],
)
def test_what_must_be_there_before(path: str, content: str, names: tuple[str, ...]) -> None:
    assert needs(path, content.encode()) == names


@pytest.mark.parametrize(
    ("path", "named", "expected"),
    [
        ("checkpoint", "{root}/m-1", "m-1"),
        ("checkpoint", "{root}//a/./m-1", "a/m-1"),
        ("a/checkpoint", "{root}/a/m-1", "m-1"),
        ("a/checkpoint", "{root}/b/m-1", "../b/m-1"),
        ("a/checkpoint", "{real}/a/m-1", "m-1"),
        ("checkpoint", r"{root}/\344\270\255\x41\n\'\\\"", r"中A\012'\134\042"),
        ("checkpoint", "m-1", "m-1"),
        ("checkpoint", "{root}-other/m-1", "{root}-other/m-1"),
        ("checkpoint", "{root}/../m-1", "{root}/../m-1"),
        ("checkpoint", "s3://b{root}/m-1", "s3://b{root}/m-1"),
    ],
)
def test_a_pointer_becomes_relative(tmp_path: Path, path: str, named: str, expected: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    root, real = tmp_path / "root", tmp_path / "real"

    def pointer(text: str) -> bytes:
        for word, place in (("{root}", root), ("{real}", real)):
            text = text.replace(word, str(place))
        return (
            f'model_checkpoint_path: "{text}"\nall_model_checkpoint_paths: "{text}"\n'
            "all_model_checkpoint_timestamps: 1.5\n"
        ).encode()

    assert relative_pointer(pointer(named), path, str(root)) == pointer(expected)


def test_names_of_tensorflow() -> None:
    assert is_temporary("a/m.index.tempstate1234567890")
    assert is_temporary("a/m_temp/part-00000-of-00001.index")
    assert not is_temporary("a/m.index")
    assert is_renamed_into_place("a/latest.json")
    assert is_events("a/events.out.tfevents.1.host")
    assert not is_events("a.tfevents/x")
    assert is_renamed_into_place("a/checkpoint")
    assert not is_renamed_into_place("a/saved_model.pb")


def test_what_publishing_has_in_its_hands() -> None:
    uuid = "0123456789abcdef" * 2
    assert is_in_hands(f".staging-{uuid}/model/saved_model.pb")
    assert is_in_hands(f"export/.removed-{uuid}/variables/v.index")
    assert is_in_hands("export/.versions/.tmp-x1y2z3")
    assert not is_in_hands(".staging-mine/saved_model.pb")
    assert not is_in_hands("export/.versions/3")


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


def test_a_link_that_leads_in_a_circle_hides_no_others(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"")
    tree = walk(str(tmp_path))
    assert tree.files.keys() == {str(number) for number in range(20)}
    assert tree.ignored == {"loop": os.strerror(errno.ELOOP)}
    assert tree.unreadable == {}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1_200_000_000, "1.2 GB"), (1000, "1 kB")],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert in_words(size) == text


# ====== The manifest ======


def test_a_manifest_survives_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(str(path))
    manifest.copied("a", (1, 2, 3), "v1")
    manifest.begin("b", (4, 5, 6), 4, 2**64 - 1)
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


@pytest.mark.parametrize(
    "line",
    [
        bytes(40),
        b'{"name": "b", "content": [1], "version": "v"}',
        b"[]",
        b"\xff",
        b"",
    ],
)
def test_a_manifest_ends_at_its_first_bad_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(str(path))
    manifest.copied("a", (1, 2, 3), "v1")
    good = path.read_bytes()
    manifest.copied("c", (1, 2, 3), "v3")
    manifest.close()
    path.write_bytes(good + line + b"\n" + path.read_bytes()[len(good) :])
    again = Manifest(str(path))
    assert again.entries.keys() == {"a"}
    again.close()
    assert path.read_bytes() == good


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


def test_jobs_that_begin_at_once_complete_a_removal_together(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    old = tmp_path / ".removed-old"
    old.mkdir()
    for number in range(3000):
        (old / str(number)).touch()
    for taken in [pool.submit(folder(tmp_path, str(number)).take) for number in range(4)]:
        taken.result()
    assert not old.exists()


def test_what_is_no_staged_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "strange" / "about.json").mkdir(parents=True)
    for number, text in enumerate(("", "[]", "{}", '{"digest": "x"}', "\0\0")):
        (tmp_path / f"broken-{number}").mkdir()
        (tmp_path / f"broken-{number}" / "about.json").write_text(text)
    before = set(tmp_path.iterdir())
    folder(tmp_path, "1").take()
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_another_users_is_left_alone(tmp_path: Path) -> None:
    theirs = folder(tmp_path, "theirs")
    theirs.take()
    (tmp_path / ".removed-old").mkdir()
    about = tmp_path / "theirs" / "about.json"
    about.write_text(about.read_text().replace(f'"pid": {os.getppid()}', '"pid": 999999999'))
    fcntl.flock(theirs._lock, fcntl.LOCK_UN)
    for path in tmp_path.iterdir():
        os.chown(path, 65534, 65534)
    folder(tmp_path, "1").take()
    assert {path.name for path in tmp_path.iterdir()} == {".removed-old", "theirs", "1"}


def test_files_that_are_not_of_the_location_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "1" / "files").mkdir(parents=True)
    (tmp_path / "1" / "files" / "precious").write_bytes(b"1")
    with pytest.raises(SetupError, match="it holds other files"):
        folder(tmp_path, "1").take()
    assert (tmp_path / "1" / "files" / "precious").exists()


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    check_space(str(tmp_path), 1)
    with pytest.raises(SetupError, match=r"TB are to be copied there, and .* are free"):
        check_space(str(tmp_path), 10**16)
