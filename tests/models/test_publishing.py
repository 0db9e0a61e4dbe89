"""Publishing: the order of the requests, what others do meanwhile, and what is left of failures."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_folders import (
    ABOUT,
    MODEL,
    UGLY_MODEL,
    Shelf,
    below,
    flipped,
    numbers_of,
    publish_model,
    write_model,
)

from pai_runner.errors import SetupError, UsageError
from pai_runner.models import publishing
from pai_runner.models.manifest import MANIFEST, About, read_manifest
from pai_runner.models.place import LocalPlace
from pai_runner.models.pointer import POINTER, read_pointer
from pai_runner.models.publishing import STAGING, publish, staging_folder
from pai_runner.models.versions import RESERVATIONS, list_versions


def test_a_version_is_what_was_exported(shelf: Shelf) -> None:
    published = publish_model(shelf.place, UGLY_MODEL)
    assert published.version == 1
    assert published.location == f"{shelf.prefix}1/"
    assert below(shelf.raw.names(), "1") == {*UGLY_MODEL, MANIFEST}
    for name, data in UGLY_MODEL.items():
        assert shelf.raw.read(f"1/{name}") == data
    manifest = read_manifest(shelf.place.at("1"))
    assert manifest == published.manifest
    assert {file.path: (file.size, file.sha256) for file in manifest.files} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in UGLY_MODEL.items()
    }
    assert (manifest.version, manifest.about) == (1, ABOUT)


def test_nothing_but_the_version_is_left(shelf: Shelf) -> None:
    publish_model(shelf.place)
    publish_model(shelf.place, version=7)
    left = {name for name in shelf.raw.names() if not name.startswith(("1/", "7/", ".latest/"))}
    assert left == {f"{RESERVATIONS}/1", f"{RESERVATIONS}/7", POINTER}
    children = {"1", "7", ".latest", RESERVATIONS, POINTER}
    assert shelf.place.children() == children
    pointer = read_pointer(shelf.place)
    assert pointer is not None
    assert pointer.version == 7


def test_of_two_entries_neither_comes_before_the_rest(bucket_shelf: Shelf) -> None:
    publish_model(bucket_shelf.place, {**MODEL, "saved_model.pbtxt": b"text"})
    numbered = [name for name in bucket_shelf.writes() if name.startswith("1/")]
    assert numbered[-3:] == [f"1/{MANIFEST}", "1/saved_model.pbtxt", "1/saved_model.pb"]


@pytest.mark.parametrize("entry", ["saved_model.pb", "saved_model.pbtxt"])
def test_the_entry_is_the_last_key_of_a_version(entry: str, bucket_shelf: Shelf) -> None:
    files = {name: data for name, data in MODEL.items() if name != "saved_model.pb"}
    publish_model(bucket_shelf.place, {**files, entry: b"the graph", "assets.extra/more": b""})
    writes = [name for name in bucket_shelf.writes() if not name.startswith(".latest")]
    reserved = writes.index(f"{RESERVATIONS}/1")
    staged = [name.partition("/")[2] for name in writes if name.startswith(STAGING)]
    numbered = [name.removeprefix("1/") for name in writes if name.startswith("1/")]
    assert sorted(staged) == sorted({*files, entry, "assets.extra/more"})
    assert numbered[-2:] == [MANIFEST, entry]
    assert sorted(numbered[:-2]) == sorted({*files, "assets.extra/more"})
    assert all(writes.index(f"1/{name}") > reserved for name in numbered)
    assert all(number < reserved for number, name in enumerate(writes) if name.startswith(STAGING))
    # Behind the commit there is the pointer alone.
    assert writes[writes.index(f"1/{entry}") + 1 :] == [POINTER]


def test_a_folder_that_is_no_model_is_refused(shelf: Shelf) -> None:
    with pytest.raises(SetupError, match=r"is no SavedModel: it has no saved_model\.pb"):
        publish_model(shelf.place, {"variables/variables.index": b"", "a/saved_model.pb": b""})
    assert shelf.raw.names() == set()
    assert shelf.place.children() == set()


def test_a_version_is_never_overwritten(shelf: Shelf) -> None:
    publish_model(shelf.place, version=3)
    with pytest.raises(SetupError, match=r"version 3 of .* was given before"):
        publish_model(shelf.place, {**MODEL, "saved_model.pb": b"another"}, version=3)
    with pytest.raises(UsageError, match="'newest' is not a version"):
        publish_model(shelf.place, version="newest")
    assert shelf.raw.read("3/saved_model.pb") == MODEL["saved_model.pb"]
    assert not any(name.startswith(STAGING) for name in shelf.place.children())


def test_exporters_at_once_get_different_versions(shelf: Shelf) -> None:
    place, count = shelf.place, 3
    start = threading.Barrier(count)

    def act(number: int) -> int:
        start.wait()
        return publish_model(place, {**MODEL, "assets/serial": str(number).encode()}).version

    with ThreadPoolExecutor(count) as pool:
        versions = list(pool.map(act, range(count)))
    assert sorted(versions) == [1, 2, 3]
    for serial, version in enumerate(versions):
        assert shelf.raw.read(f"{version}/assets/serial") == str(serial).encode()
    assert all(one.is_complete for one in list_versions(place))
    pointer = read_pointer(place)
    assert pointer is not None
    assert pointer.version == 3


# ====== Others in the same directory ======


def test_a_version_that_another_makes_meanwhile_is_left_alone(bucket_shelf: Shelf) -> None:
    """Who does not know of reservations writes below the number that was just reserved."""
    theirs = {1, 5}

    def pipe(call: Any, path: str, *arguments: Any, **options: Any) -> Any:
        number = path.rpartition(f"/{RESERVATIONS}/")[2]
        if number.isdigit() and int(number) in theirs:
            bucket_shelf.raw.put(f"{number}/saved_model.pb", b"theirs")
        return call(path, *arguments, **options)

    place = bucket_shelf.faulty(pipe_file=pipe)
    assert publish_model(place).version == 2
    with pytest.raises(SetupError, match="5 was made by another process meanwhile"):
        publish_model(place, version=5)
    assert below(bucket_shelf.raw.names(), "1") == {"saved_model.pb"}
    assert below(bucket_shelf.raw.names(), "5") == {"saved_model.pb"}
    assert not any(name.startswith(STAGING) for name in bucket_shelf.raw.names())


def test_a_local_folder_that_appears_before_the_rename_is_left_alone(
    local_shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename
    theirs = {"1", "5"}

    def hurried(source: str, target: str) -> None:
        name = os.path.basename(target)
        if name in theirs:
            local_shelf.raw.put(f"{name}/saved_model.pb", b"theirs")
        rename(source, target)

    monkeypatch.setattr(os, "rename", hurried)
    published = publish_model(local_shelf.place)
    assert (published.version, published.manifest.version) == (2, 2)
    assert read_manifest(local_shelf.place.at("2")) == published.manifest
    with pytest.raises(SetupError, match="5 was made by another process meanwhile"):
        publish_model(local_shelf.place, version=5)
    assert local_shelf.raw.read("1/saved_model.pb") == b"theirs"
    assert below(local_shelf.raw.names(), "5") == {"saved_model.pb"}


# ====== Failures ======


def test_a_file_that_is_damaged_on_its_way_is_noticed(bucket_shelf: Shelf) -> None:
    def put(call: Any, local: str, path: str) -> None:
        data = Path(local).read_bytes()
        damaged = Path(local).with_name("damaged")
        damaged.write_bytes(flipped(data))
        call(str(damaged) if path.endswith("variables.index") else local, path)

    with pytest.raises(SetupError, match=r"variables\.index is not what was uploaded"):
        publish_model(bucket_shelf.faulty(put_file=put))
    assert bucket_shelf.raw.names() == set()


def test_an_upload_that_stores_too_much_is_noticed(bucket_shelf: Shelf) -> None:
    def put(call: Any, local: str, path: str) -> None:
        call(local, path)
        if path.endswith("fingerprint.pb"):
            call(write_longer(local), path)

    def write_longer(local: str) -> str:
        longer = Path(local).with_name("longer")
        longer.write_bytes(Path(local).read_bytes() + b"more")
        return str(longer)

    with pytest.raises(SetupError, match=r"fingerprint\.pb has 9 bytes, not 5"):
        publish_model(bucket_shelf.faulty(put_file=put))
    assert bucket_shelf.raw.names() == set()


def broken(method: str, ending: str) -> dict[str, Any]:
    """Return calls of which the one that writes a key with this ending fails."""

    def fail(call: Any, *arguments: Any, **options: Any) -> Any:
        target = arguments[1] if method != "pipe_file" else arguments[0]
        if target.endswith(ending):
            raise OSError(errno.EIO, "the wire is cut")
        return call(*arguments, **options)

    return {method: fail}


@pytest.mark.parametrize(
    ("method", "ending"),
    [
        ("put_file", "/variables/variables.index"),
        ("pipe_file", "/.versions/1"),
        ("cp_file", "/1/variables/variables.index"),
        ("pipe_file", f"/1/{MANIFEST}"),
    ],
)
def test_of_an_export_that_fails_nothing_is_left(
    method: str, ending: str, bucket_shelf: Shelf
) -> None:
    with pytest.raises(OSError, match="the wire is cut"):
        publish_model(bucket_shelf.faulty(**broken(method, ending)))
    assert bucket_shelf.raw.names() <= {f"{RESERVATIONS}/1"}
    assert read_pointer(bucket_shelf.place) is None
    # The number is spent where it was reserved.
    spent = len(bucket_shelf.raw.names())
    assert publish_model(bucket_shelf.place).version == 1 + spent


def test_an_export_whose_commit_fails_is_no_version(bucket_shelf: Shelf) -> None:
    place = bucket_shelf.faulty(**broken("cp_file", "/1/saved_model.pb"))
    with pytest.raises(OSError, match="the wire is cut"):
        publish_model(place)
    (version,) = list_versions(bucket_shelf.place)
    assert version.problem == "it has no saved_model.pb"
    assert not any(name.startswith(STAGING) for name in bucket_shelf.raw.names())
    assert publish_model(bucket_shelf.place).version == 2


def test_a_commit_of_which_nothing_is_known_is_told(bucket_shelf: Shelf) -> None:
    def copy(call: Any, source: str, target: str) -> None:
        call(source, target)
        if target.endswith("/1/saved_model.pb"):
            raise OSError(errno.EIO, "the answer is lost")

    def info(call: Any, path: str) -> Any:
        if path.endswith("/1/saved_model.pb"):
            raise OSError(errno.EBUSY, "come back later")
        return call(path)

    with pytest.raises(SetupError, match=r"is not known: the answer is lost, then come back later"):
        publish_model(bucket_shelf.faulty(cp_file=copy, info=info))
    (version,) = list_versions(bucket_shelf.place)
    assert version.is_complete


def test_what_another_writes_below_the_number_is_its_own(bucket_shelf: Shelf) -> None:
    def copy(call: Any, source: str, target: str) -> None:
        call(source, target)
        if target.endswith("/1/fingerprint.pb"):
            bucket_shelf.raw.put("1/assets/words", b"of another exporter")
            bucket_shelf.raw.delete("1/fingerprint.pb")

    with pytest.raises(SetupError):
        publish_model(bucket_shelf.faulty(cp_file=copy))
    assert bucket_shelf.raw.names() == {f"{RESERVATIONS}/1", "1/assets/words"}


def test_a_copy_that_another_removes_is_noticed(bucket_shelf: Shelf) -> None:
    def copy(call: Any, source: str, target: str) -> None:
        call(source, target)
        if target.endswith("/1/fingerprint.pb"):
            bucket_shelf.raw.delete("1/fingerprint.pb")

    with pytest.raises(SetupError, match=r"fingerprint\.pb has no bytes, not 5"):
        publish_model(bucket_shelf.faulty(cp_file=copy))
    assert bucket_shelf.raw.names() == {f"{RESERVATIONS}/1"}


def test_requests_that_fail_or_lose_their_answer_are_repeated(oss_shelf: Shelf) -> None:
    oss_shelf.server.set(fail=2, lose_puts=2, corrupt_writes=1)
    assert publish_model(oss_shelf.place).version == 1
    assert [one.problem for one in list_versions(oss_shelf.place)] == [""]


# ====== On a local disk ======


def test_a_local_version_is_on_the_disk_before_it_has_its_name(
    local_shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = local_shelf.place
    assert isinstance(place, LocalPlace)
    synced: list[str] = []
    renamed: list[int] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def noted_rename(source: str, target: str) -> None:
        renamed.append(len(synced))
        rename(source, target)

    with staging_folder(place) as folder:
        write_model(folder)
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        publish(place, folder)
    (moment,) = renamed
    before = set(synced[:moment])
    assert {f"{folder}/{name}" for name in MODEL} <= before
    assert {folder, f"{folder}/variables", f"{folder}/assets.extra"} <= before
    assert place.folder in synced[moment:]


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left")


def test_a_local_publication_that_fails_leaves_nothing(
    local_shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        publish_model(local_shelf.place)
    assert local_shelf.raw.names() == {f"{RESERVATIONS}/1"}
    assert local_shelf.place.children() == {RESERVATIONS}


def test_an_export_that_fails_leaves_nothing(shelf: Shelf) -> None:
    def export() -> None:
        with staging_folder(shelf.place) as folder:
            fail(write_model(folder))

    with pytest.raises(OSError, match="no space left"):
        export()
    assert shelf.place.children() == set()


def test_the_directory_of_a_model_is_made(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path / "new" / "models"))
    assert publish_model(place).version == 1
    assert numbers_of(list_versions(place)) == [1]


def test_an_attempt_that_is_repeated_makes_no_second_version(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(key: str, count: int) -> list[tuple[int, bool]]:
        monkeypatch.setenv("PAI_RUN_KEY", key)
        monkeypatch.setattr(publishing, "_counts", Counter())  # each attempt is a process
        made = [publish_model(shelf.place) for _ in range(count)]
        return [(one.version, one.is_new) for one in made]

    assert attempt("nightly/20261120/0", 1) == [(1, True)]
    assert attempt("nightly/20261120/0", 2) == [(1, False), (2, True)]
    assert attempt("nightly/20261120/1", 1) == [(3, True)]
    assert attempt("nightly/20261121/0", 1) == [(4, True)]
    assert attempt("nightly/20261120/0", 2) == [(1, False), (2, False)]
    assert attempt("", 1) == [(5, True)]
    assert numbers_of(list_versions(shelf.place)) == [1, 2, 3, 4, 5]


def test_later_steps_of_a_later_attempt_are_versions_of_their_own(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt goes on from a checkpoint of the one before it."""
    monkeypatch.setenv("PAI_RUN_KEY", "nightly/20261120/0")

    def attempt(*steps: int | None) -> list[tuple[int, bool]]:
        monkeypatch.setattr(publishing, "_counts", Counter())  # each attempt is a process
        made = [publish_model(shelf.place, about=About(step=step)) for step in steps]
        return [(one.version, one.is_new) for one in made]

    assert attempt(50, 100) == [(1, True), (2, True)]
    assert attempt(100, 150, 150) == [(2, False), (3, True), (4, True)]
    assert attempt(150, 150, 200) == [(3, False), (4, False), (5, True)]
    assert attempt(None, None) == [(6, True), (7, True)]
    assert attempt(None, 200) == [(6, False), (5, False)]
