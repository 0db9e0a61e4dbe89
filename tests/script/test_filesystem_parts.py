"""The parts of the file layer by themselves, without TensorFlow."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from file_systems import Place

from pai_runner.errors import SetupError
from pai_runner.script import filesystem
from pai_runner.script.background import Background
from pai_runner.script.matching import matching
from pai_runner.script.staging import Staging
from pai_runner.script.statuses import Code, code_of, message_of
from pai_runner.script.stores import Store, Stores, is_bucket, parent
from pai_runner.script.writers import Writers, is_alone
from pai_runner.secret import remember
from pai_runner.storage.mounts import clean
from pai_runner.storage.names import final_name, is_temporary, is_temporary_directory

# ====== Names ======


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://b/x", "s3://b/x"),
        ("s3://b//x/./y/", "s3://b/x/y"),
        ("s3://b/x/../y", "s3://b/y"),
        ("s3://b/../../y", "s3://b/y"),
        ("s3://b/", "s3://b"),
        ("s3://", "s3://"),
        ("memory:///x/y", "memory://x/y"),
        ("s3://b/a?b=c#d e", "s3://b/a?b=c#d e"),
        ("s3://b/...", "s3://b/..."),
    ],
)
def test_clean(path: str, expected: str) -> None:
    assert clean(path) == expected
    assert clean(expected) == expected


def test_above() -> None:
    assert parent("s3://b/x/y") == "s3://b/x"
    assert parent("s3://b/x") == "s3://b"
    assert parent("s3://b") == "s3://"
    assert [is_bucket(path) for path in ("s3://", "s3://b", "s3://b/x")] == [True, True, False]


@pytest.mark.parametrize(
    "name",
    [
        "model.ckpt-1.data-00000-of-00001.tempstate1234567890",
        "model.ckpt-1.index.tempstate17",
        "ckpt-3_temp/part-00000-of-00001.index",
        "ckpt-3_temp/part-00000-of-00001.data-00000-of-00001",
        "ckpt-3_temp/part-00000-of-00001.index.tempstate17",
        "ckpt-3.part-00000-of-00001.data-00000-of-00001",
        "checkpoint.tmp0123456789abcdef0123456789abcdef",
    ],
)
def test_names_that_tensorflow_renames(name: str) -> None:
    assert is_temporary(f"s3://b/{name}")


@pytest.mark.parametrize(
    "name",
    [
        "model.ckpt-1.index", "part-00000-of-00001", "out_temp/part-00000", "x.tmp", "x.tmp12",
        "out_temp/part-00000-of-00001", "events.out.tfevents.1", "x.part-00000-of-00001",
    ],
)  # fmt: skip
def test_names_of_the_script(name: str) -> None:
    assert not is_temporary(f"s3://b/{name}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.ckpt-1.index.tempstate17", "model.ckpt-1.index"),
        ("checkpoint.tmp0123456789abcdef0123456789abcdef", "checkpoint"),
        ("ck_temp/part-00002-of-00003.data-00000-of-00001", "ck.data-00002-of-00003"),
        ("ck.part-00000-of-00001.data-00000-of-00001.tempstate5", "ck.data-00000-of-00001"),
        ("ck.part-00000-of-00002.data-00001-of-00002", None),
        ("ck_temp/part-00000-of-00001.index.tempstate17", None),
        ("records-00001-of-00002", "records-00001-of-00002"),
    ],
)
def test_the_name_that_tensorflow_will_give(name: str, expected: str | None) -> None:
    assert final_name(f"s3://b/{name}") == (expected and f"s3://b/{expected}")


def test_parts_that_other_processes_wait_for() -> None:
    part = "s3://b/ck_temp/part-00000-of-00002.data-00000-of-00001"
    assert not is_temporary(part, is_alone=False)
    assert is_temporary(f"{part}.tempstate17", is_alone=False)
    assert final_name(f"{part}.tempstate17", is_alone=False) == part


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("TF_CONFIG", "", True),
        ("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}', True),
        ("TF_CONFIG", '{"cluster": {"chief": ["a:1"], "evaluator": ["a:2", "a:3"]}}', True),
        ("TF_CONFIG", '{"cluster": {"worker": ["a:1", "a:2"]}}', False),
        ("TF_CONFIG", '{"cluster": {"worker": ["a:1"], "ps": ["a:2"]}}', False),
        ("TF_CONFIG", '{"cluster": {"chief": {"0": "a:1"}, "ps": {"0": "a:2"}}}', False),
        ("TF_CONFIG", '{"cluster": null}', True),
        ("TF_CONFIG", "no json", True),
        ("PAI_TASKS", "1", True),
        ("PAI_TASKS", "3", False),
    ],
)
def test_whether_this_process_saves_alone(
    variable: str, text: str, expected: bool, monkeypatch: pytest.MonkeyPatch, uploads: list[str]
) -> None:
    made, _ = writers(uploads, 1000)
    assert made.is_temporary_directory("s3://b/ck_temp")
    monkeypatch.setenv(variable, text)
    assert made.is_temporary("s3://b/ck.part-00000-of-00002.index") is expected
    assert made.is_temporary_directory("s3://b/ck_temp") is expected


def test_a_number_of_tasks_that_is_none(
    monkeypatch: pytest.MonkeyPatch, uploads: list[str]
) -> None:
    monkeypatch.setenv("PAI_TASKS", "many")
    with pytest.raises(SetupError, match="PAI_TASKS=many"):
        writers(uploads, 1000)[0].is_temporary("s3://b/x")


def test_temporary_directories() -> None:
    assert is_temporary_directory("s3://b/ckpt-1_temp")
    assert not is_temporary_directory("s3://b/ckpt-1_temp/x")


def test_a_pattern_lists_no_more_than_it_must() -> None:
    listed: list[str] = []

    def list_(path: str) -> dict[str, filesystem.Mount]:
        listed.append(path)
        return {}

    assert matching("s3://b/x/y*/z", lambda path: False, list_) == []  # type: ignore[arg-type]
    assert listed == ["s3://b/x"]
    assert matching("s3://b/x", lambda path: True, list_) == ["s3://b/x"]  # type: ignore[arg-type]
    assert listed == ["s3://b/x"]


# ====== Which store ======


def test_the_longest_mount_then_the_bucket_then_the_plain_settings() -> None:
    stores = Stores(
        [
            Place("memory://b/dir/", "memory", {"global_store": "1"}),
            Place("memory://b/dir/deep/", "memory", {"global_store": "2"}),
            Place("memory://c/", "memory", {"global_store": "3"}),
            Place("memory://c/again/", "memory", {"global_store": "3"}),
        ]
    )
    outer, deep = stores.of("memory://b/dir"), stores.of("memory://b/dir/deep/x")
    assert outer is not deep
    assert stores.of("memory://b/dir/deeper") is outer
    assert stores.of("memory://b/other") in (outer, deep)
    assert stores.of("memory://c/x") is stores.of("memory://c/again/x")
    plain = stores.of("memory://elsewhere/x")
    assert plain is stores.of("memory://bb/x")
    assert plain not in (outer, deep, stores.of("memory://c"))


def test_a_store_is_made_once_a_process() -> None:
    store = Store("memory", {})
    assert store.fs is store.fs
    made = store.fs
    store.after_fork()
    assert store.fs is not made


# ====== Writing ======


@pytest.fixture
def uploads() -> list[str]:
    return []


def writers(uploads: list[str], upload_seconds: float) -> tuple[Writers, Staging]:
    def uploaded() -> None:
        uploads.append("x")

    stores, staging = Stores(), Staging()
    background = Background(stores, uploaded, False, is_alone)
    return Writers(stores, staging, uploaded, upload_seconds, background), staging


def content(path: str) -> bytes:
    found = bytearray(100)
    count, _ = Store("memory", {}).read_into(path, 0, memoryview(found))
    return bytes(found[:count])


def append(made: Writers, path: str, *texts: bytes) -> None:
    staged, descriptor = made.open(path, append=True)
    for text in texts:
        os.write(descriptor, text)
        made.sync(staged)
    os.close(descriptor)
    made.close(staged)


def test_a_synced_file_is_uploaded_when_it_is_time(uploads: list[str]) -> None:
    path = "memory://parts/synced"
    append(writers(uploads, 1000)[0], path, b"1", b"2", b"3")
    assert len(uploads) == 1
    append(writers(uploads, 0)[0], path, b"4")
    assert len(uploads) == 2, "the close had nothing more to upload"
    assert content("memory://parts/synced") == b"1234"


def test_a_synced_file_is_uploaded_sooner_when_much_is_new(uploads: list[str]) -> None:
    much = bytes(9 << 20)
    append(writers(uploads, 1000)[0], "memory://parts/much", much, much, much)
    assert len(uploads) == 2, "when 18 MiB were new, and at the end"


def test_uploads_take_a_tenth_of_the_time_at_most(uploads: list[str]) -> None:
    made, _ = writers(uploads, 0)
    staged, descriptor = made.open("memory://parts/slow", append=False)
    os.write(descriptor, b"1")
    staged.begin_upload()
    staged._last_upload -= 2  # it began two seconds ago
    staged.end_upload(1)
    assert not staged.is_due(0)
    staged._last_upload -= 19
    assert not staged.is_due(0)
    staged._last_upload -= 3
    assert staged.is_due(0)
    os.close(descriptor)
    made.close(staged)


def test_a_drain_uploads_what_is_open_and_only_once(uploads: list[str]) -> None:
    made, staging = writers(uploads, 1000)
    kept, one = made.open("memory://parts/drained", append=False)
    temporary, two = made.open(f"memory://parts/x.tmp{'0' * 32}", append=False)
    failed, three = made.open("memory://parts/failed", append=False)
    failed.is_failed = True
    for descriptor in (one, two, three):
        os.write(descriptor, b"content")
        os.close(descriptor)
    assert made.are_open
    assert made.drain() == []
    assert made.drain() == []
    assert len(uploads) == 1
    assert content("memory://parts/drained") == b"content"
    assert Store("memory", {}).find(failed.path) is None
    made.give_up()
    assert staging.files() == []
    assert not any(os.path.exists(staged.local) for staged in (kept, temporary, failed))


def test_staged_files_are_private_and_in_tmpdir(uploads: list[str]) -> None:
    made, _ = writers(uploads, 1000)
    staged, descriptor = made.open("memory://parts/private", append=False)
    os.close(descriptor)
    assert os.stat(staged.local).st_mode & 0o077 == 0
    assert Path(staged.local).name.startswith(f"pai-{os.getpid()}-")
    made.drop(staged, publish=False)
    assert not os.path.exists(staged.local)
    assert uploads == []


def test_a_folder_for_temporary_files_that_is_gone(
    uploads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    made, staging = writers(uploads, 1000)
    with pytest.raises(OSError, match="folder for temporary files is gone") as caught:
        made.open("memory://parts/x", append=False)
    assert code_of(caught.value) == Code.INTERNAL
    assert staging.files() == []


# ====== Errors ======


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("x"), Code.NOT_FOUND),
        (PermissionError("x"), Code.PERMISSION_DENIED),
        (FileExistsError("x"), Code.ALREADY_EXISTS),
        (IsADirectoryError("x"), Code.FAILED_PRECONDITION),
        (NotADirectoryError("x"), Code.FAILED_PRECONDITION),
        (OSError(errno.ENOTEMPTY, "x"), Code.FAILED_PRECONDITION),
        (OSError(errno.ENOSPC, "x"), Code.RESOURCE_EXHAUSTED),
        (OSError(errno.EDQUOT, "x"), Code.RESOURCE_EXHAUSTED),
        (OSError(errno.EBUSY, "x"), Code.UNAVAILABLE),
        (OSError(errno.EIO, "x"), Code.INTERNAL),
        (OSError("x"), Code.INTERNAL),
        (MemoryError(), Code.RESOURCE_EXHAUSTED),
        (TimeoutError(), Code.UNAVAILABLE),
        (ConnectionResetError(), Code.UNAVAILABLE),
        (NotImplementedError(), Code.UNIMPLEMENTED),
        (ValueError("x"), Code.INTERNAL),
        (KeyboardInterrupt(), Code.CANCELLED),
        (SystemExit(1), Code.CANCELLED),
    ],
)
def test_codes(error: BaseException, code: Code) -> None:
    assert code_of(error) == code


def test_codes_of_libraries() -> None:
    from aiohttp import ClientPayloadError
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
    from fsspec.exceptions import FSTimeoutError

    for error in (
        EndpointConnectionError(endpoint_url="x"),
        ReadTimeoutError(endpoint_url="x"),
        ClientPayloadError(),
        FSTimeoutError(),
    ):
        assert code_of(error) == Code.UNAVAILABLE
    assert code_of(NoCredentialsError()) == Code.PERMISSION_DENIED


def test_messages_are_redacted_and_name_the_path() -> None:
    remember("a-very-secret-value")
    error = PermissionError("secret_key=abcdefg a-very-secret-value\nand more")
    text = message_of(error, "s3://b/x")
    assert text.startswith("s3://b/x; ")
    assert "abcdefg" not in text
    assert "a-very-secret-value" not in text
    assert "\n" not in text
    assert message_of(FileNotFoundError(2, "No such file or directory"), "s3://b/x") == (
        "s3://b/x; No such file or directory"
    )


# ====== Registration ======


def test_without_the_compiled_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filesystem, "_LIBRARY", tmp_path / "_filesystem.so")
    monkeypatch.setattr(filesystem, "_bridge", None)
    with pytest.raises(SetupError, match=r"_filesystem\.so") as caught:
        filesystem.register([Place("s3://b/", "s3")])
    assert "gcc" in str(caught.value.hint)


def test_nothing_to_register_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(filesystem, "_LIBRARY", tmp_path / "_filesystem.so")
    monkeypatch.setattr(filesystem, "_bridge", None)
    filesystem.register([])


def test_an_interval_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAI_EVENT_UPLOAD_SECONDS", "often")
    with pytest.raises(SetupError, match="often"):
        filesystem._upload_seconds()
    monkeypatch.setenv("PAI_EVENT_UPLOAD_SECONDS", "2.5")
    assert filesystem._upload_seconds() == 2.5
