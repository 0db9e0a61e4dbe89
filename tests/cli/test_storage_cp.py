"""`pai storage`: cp and sync, on the local disk, in memory and in buckets."""

from __future__ import annotations

import os

import pytest
from storage_folders import FILES, Folder, Verb, json_of, make_folder


def test_a_directory_is_copied_there_and_back(
    folder: Folder, storage: Verb, request: pytest.FixtureRequest
) -> None:
    here, back = make_folder("local", request), make_folder("local", request)
    here.put(FILES)
    told = json_of(storage("cp", "-r", here(), folder("new"), "--json"))
    assert (told["files"], told["bytes"]) == (len(FILES), sum(map(len, FILES.values())))
    assert folder.files() == {f"new/{name}": data for name, data in FILES.items()}
    checksum = {"s3": "MD5", "oss": "CRC64"}.get(folder.kind, "size")
    assert told["verified"] == {checksum: len(FILES)}
    # The same command again does the same; sync finds nothing to do.
    assert storage("cp", "-r", here(), folder("new"))[0] == 0
    again = json_of(storage("sync", here(), folder("new/"), "--json"))
    assert (again["files"], again["same"]) == (0, len(FILES))
    code, output, errors = storage("cp", "-r", folder("new/"), back())
    assert (code, errors) == (0, "")
    assert output.startswith(f"copied {len(FILES)} files, ")
    checksum = {"s3": "MD5", "oss": "MD5"}.get(folder.kind, "size")
    assert f"verified {len(FILES)} by {checksum}" in output
    assert back.files() == FILES
    assert json_of(storage("sync", folder("new"), back(), "--json"))["files"] == 0
    told = json_of(storage("sync", "--checksum", folder("new"), back(), "--json"))
    assert (told["files"], told["same"]) == (0, len(FILES))


@pytest.mark.parametrize(("first", "second"), [("s3", "s3"), ("oss", "oss"), ("s3", "oss")])
def test_buckets_are_copied_to_each_other(
    first: str, second: str, storage: Verb, request: pytest.FixtureRequest
) -> None:
    source, target = make_folder(first, request), make_folder(second, request)
    source.put(FILES)
    before = len(source.server.requests())
    told = json_of(storage("cp", "-r", source(), target(), "--json"))
    asked = [str(one) for one in source.server.requests()[before:]]
    assert told["files"] == len(FILES)
    assert target.files() == source.files() == FILES
    reads = {one for one in asked if one.startswith(f"GET /{source.prefix.partition('://')[2]}")}
    # Within one store the server copies, and no byte comes here.
    assert len(reads) == (0 if first == second else len(FILES) - 1)  # an empty file needs a HEAD


def test_what_a_target_means(local: Folder, memory: Folder, storage: Verb) -> None:
    local.put({"a": b"A", "d/b": b"B", "e/b": b"C"})
    for words, then in (
        ([local("a"), memory("x")], {"x": b"A"}),
        ([local("a"), memory("y/")], {"y/a": b"A"}),
        ([local("a"), memory("y")], {"y/a": b"A"}),  # it is a directory now
        (["-r", local("d"), memory("z")], {"z/b": b"B"}),
        (["-r", local("e/b"), memory("x")], {"x": b"C"}),
        (["-r", local("d/"), memory("z/")], {"z/b": b"B"}),
        (["-r", local("d"), local("e"), local("a"), memory("w")],
         {"w/d/b": b"B", "w/e/b": b"C", "w/a": b"A"}),
    ):  # fmt: skip
        before = memory.files()
        code, _, errors = storage("cp", *words)
        assert (code, errors) == (0, "")
        assert memory.files() == {**before, **then}
    before = memory.files()
    for words, says in (
        ([local("d"), memory("v")], "d/ is a directory"),
        (["-r", local("d"), memory("x")], "x is a file"),
        ([local("a"), local("d/b"), memory("x")], "x is a file"),
        ([local("d/b"), local("e/b"), memory("v")], "would both become"),
        ([local("a"), local("a")], "would be copied to itself"),
        (["-r", local("d"), local("d/")], "would be copied to itself"),
    ):
        code, output, errors = storage("cp", *words)
        assert (code, output) == (2, "")
        assert says in errors
    assert memory.files() == before


def test_files_are_chosen_by_patterns(local: Folder, memory: Folder, storage: Verb) -> None:
    local.put(dict.fromkeys(("a.txt", "a.bin", "sub/b.txt", "sub/b.log", "old/c.txt"), b""))
    how = ["--include", "*.txt", "--include", "*.log", "--exclude", "old/*"]
    code, output, _ = storage("cp", "-r", local(), memory(), *how, "--dry-run")
    assert code == 0
    assert f"copy {local.prefix}sub/b.log -> {memory.prefix}sub/b.log" in output
    assert "would copy 3 files, 0 bytes, and delete 0" in output
    assert memory.files() == {}
    assert storage("cp", "-r", local(), memory(), *how, "--quiet") == (0, "", "")
    assert set(memory.files()) == {"a.txt", "sub/b.txt", "sub/b.log"}


def test_sync_copies_what_differs_and_deletes_what_is_too_much(
    quick: Folder, local: Folder, storage: Verb
) -> None:
    local.put({"same": b"same", "longer": b"1", "newer": b"1", "sub/new": b"n"})
    quick.put({"same": b"same", "longer": b"", "newer": b"0", "sub/old": b"o", "keep.log": b"k"})
    os.utime(f"{local.prefix}newer")
    os.utime(f"{local.prefix}newer", (4e9, 4e9))
    how = ["sync", local(), quick(), "--exclude", "*.log"]
    would = json_of(storage(*how, "--delete", "--dry-run", "--json"))
    changed = {f"{quick.prefix}{name}" for name in ("longer", "newer", "sub/new")}
    # An ETag tells of other content, whatever the time.
    assert {one["target"] for one in would["copies"]} == changed
    assert would["deletes"] == [f"{quick.prefix}sub/old"]
    assert json_of(storage(*how, "--json"))["files"] == 3
    assert "sub/old" in quick.raw.names()
    assert json_of(storage(*how, "--delete", "--json"))["deleted"] == 1
    assert quick.files() == {**local.files(), "keep.log": b"k"}


def test_content_is_compared_where_it_is_asked_for(
    quick: Folder, local: Folder, storage: Verb
) -> None:
    local.put({"a": b"one", "b": b"two", "c": b""})
    quick.put({"a": b"one", "b": b"TWO", "c": b""})
    assert json_of(storage("sync", "--json", local(), quick()))["files"] == 0
    told = json_of(storage("sync", "--json", "--checksum", local(), quick()))
    assert (told["files"], told["same"]) == (1, 2)
    assert quick.files() == local.files()


def test_nothing_is_deleted_when_a_copy_fails(local: Folder, memory: Folder, storage: Verb) -> None:
    memory.put({"dir": b"a file", "good": b"g"})
    local.put({"dir/inner": b"", "old": b"o"})
    code, output, errors = storage("sync", "--delete", memory(), local())
    assert code == 1
    assert "1 FAILED" in output
    assert f"error: {memory.prefix}dir: " in errors
    assert "nothing was deleted" in errors
    assert set(local.files()) == {"dir/inner", "old", "good"}


def test_sync_needs_two_directories(local: Folder, memory: Folder, storage: Verb) -> None:
    local.put({"a": b"", "d/e/f": b""})
    memory.put({"a": b""})
    for source, target, says in (
        (local("a"), memory("x"), "sync is for directories"),
        (local("d"), memory("a"), "sync is for directories"),
        (local("d"), local("d/e"), "lie one in the other"),
        (local("d"), local("d/"), "lie one in the other"),
    ):
        code, _, errors = storage("sync", source, target)
        assert code == 2
        assert says in errors
    assert storage("sync", local("none"), memory())[0] == 125
