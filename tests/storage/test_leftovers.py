"""What `pai storage doctor` finds, removes, and leaves alone."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto_server import CREDENTIALS, S3Server
from oss_server import OSSServer

from pai_runner.cli.main import main
from pai_runner.storage.leftovers import What, leftovers_of
from pai_runner.storage.local_tree import LocalTree, unfinished_name
from pai_runner.storage.trees import Stores

INDEX = b"blocks of a table" + bytes.fromhex("57fb808b247547db")
POINTER = b'model_checkpoint_path: "ckpt-3"\nall_model_checkpoint_paths: "ckpt-2"\n'
DATA = "data-00000-of-00001"
WHOLE = {
    "checkpoint": POINTER,
    f"ckpt-2.{DATA}": b"two",
    "ckpt-2.index": INDEX,
    f"ckpt-3.{DATA}": b"three",
    "ckpt-3.index": INDEX,
    # Not named any more, but whole.
    "old/model.ckpt-7.index": INDEX,
    "old/model.ckpt-7.data-00000-of-00002": b"7",
    "old/model.ckpt-7.data-00001-of-00002": b"7",
    "export/variables/variables.index": INDEX,
    f"export/variables/variables.{DATA}": b"v",
    "export/saved_model.pb": b"graph",
    # What others call so.
    "faiss.index": b"vectors of somebody",
    "empty.index": b"",
    f"train.{DATA}": b"a data set",
    "page.tmp": b"",
    "part.part": b"",
}
LEFT = {
    f"ckpt-4.{DATA}.tempstate1234567890": What.TEMPORARY,
    f"ckpt-4_temp/part-00000-of-00001.{DATA}": What.TEMPORARY,
    f"model.ckpt-9.part-00000-of-00002.{DATA}": What.TEMPORARY,
    f"checkpoint.tmp{'0f' * 16}": What.TEMPORARY,
    f"models/.staging-{'0' * 32}/saved_model.pb": What.PUBLISHING,
    f"ckpt-5.{DATA}": What.DATA,
    "half/model-1.data-00000-of-00002": What.INDEX,
    "half/model-1.index": What.INDEX,
    f"half/model-2.{DATA}": What.DATA,
    f"lost/variables/variables.{DATA}": What.DATA,
}
LONG_AGO = time.time() - 3 * 86400


@pytest.fixture
def folder(tmp_path: Path) -> LocalTree:
    return LocalTree(str(tmp_path / "folder"))


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())


Doctor = Callable[..., tuple[int, str, str]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["storage", "doctor", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def write(tree: LocalTree, names: dict[str, bytes], written: float = LONG_AGO) -> None:
    for name, data in names.items():
        os.makedirs(os.path.dirname(tree.path(name)), exist_ok=True)
        Path(tree.path(name)).write_bytes(data)
        os.utime(tree.path(name), (written, written))


def content(name: str) -> bytes:
    return INDEX if name.endswith(".index") else b"data"


def test_each_kind_is_known_and_nothing_else(folder: LocalTree) -> None:
    download = unfinished_name("deep/file")
    write(folder, WHOLE | {name: content(name) for name in (*LEFT, download)})
    found = {one.name: one.what for one in leftovers_of(folder).found}
    assert found == {**LEFT, download: What.DOWNLOAD}


def test_what_a_pointer_names_is_never_listed(folder: LocalTree) -> None:
    named = {
        "checkpoint": b'model_checkpoint_path: "ckpt-1"\n',
        f"ckpt-1.{DATA}": b"",
        "sub/checkpoint": b'model_checkpoint_path: "model-2"\n',
        "sub/model-2.index": INDEX,
        # What it names here cannot be told: all is left alone.
        "far/checkpoint": b'model_checkpoint_path: "/elsewhere/ckpt-1"\n',
        f"far/ckpt-9.{DATA}": b"",
    }
    write(folder, named)
    result = leftovers_of(folder)
    assert result.found == []
    assert result.notes == [f"{folder.shown('checkpoint')} names ckpt-1, which has no index"]


def test_only_what_is_old_is_removed(folder: LocalTree, doctor: Doctor) -> None:
    write(folder, WHOLE | {name: content(name) for name in LEFT})
    young = {f"ckpt-6.{DATA}": b"young", f"ckpt-7.{DATA}.tempstate1": b""}
    write(folder, young, time.time())
    # One half is as young as the other.
    write(folder, {"half/model-1.index": INDEX}, time.time())
    mine = {"half/model-1.index", "half/model-1.data-00000-of-00002"}
    code, output, errors = doctor(folder.prefix)
    assert (code, errors) == (1, "")
    assert f"{len(LEFT) - 2} may be removed: add --clean" in output
    assert sum(line.endswith("young") for line in output.splitlines()) == 4
    code, _, errors = doctor(folder.prefix, "--clean")
    assert code == 2
    assert "--yes" in errors
    before = folder.find()
    code, output, _ = doctor(folder.prefix, "--clean", "--yes", "--json")
    told = json.loads(output)
    assert (code, told["removed"], told["failures"]) == (0, len(LEFT) - 2, {})
    assert set(folder.find()) == set(WHOLE) | set(young) | mine
    assert len(before) == len(folder.find()) + len(LEFT) - 2
    assert not os.path.exists(folder.path("lost"))
    # What is young does not count, until it is asked for.
    assert doctor(folder.prefix)[0] == 0
    assert doctor(folder.prefix, "--clean", "--yes", "--older-than", "0s")[0] == 0
    assert set(folder.find()) == set(WHOLE)
    assert doctor(folder.prefix)[:2] == (0, f"{folder.prefix}: nothing is left over\n")


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_uploads_that_have_not_ended_are_aborted(
    kind: str, doctor: Doctor, request: pytest.FixtureRequest
) -> None:
    server: S3Server | OSSServer = request.getfixturevalue(f"{kind}_server")
    prefix: str = request.getfixturevalue(f"{kind}_location")
    stores = Stores()
    tree: Any = stores.tree(prefix, kind, server.options)
    bucket = tree.base.partition("/")[0]
    for name in ("a", "sub/b"):
        tree.objects.upload(tree.path(name)).send(1, b"part")
    tree.objects.upload(f"{bucket}/dir2/other")  # it lies beside
    tree.objects.put(tree.path("good"), b"good")
    tree.objects.put(tree.path(f"ckpt-1.{DATA}"), b"data")
    location = f"{prefix}?{'&'.join(f'{name}={value}' for name, value in server.options.items())}"
    code, output, errors = doctor(location, "--json", "--older-than", "0s")
    assert (code, errors) == (1, "")
    assert not any(str(value) in output for value in CREDENTIALS.values())
    found = [(one["what"], one["name"]) for one in json.loads(output)["leftovers"]]
    assert sorted(found) == [
        ("data", f"{prefix}ckpt-1.{DATA}"),
        ("upload", f"{prefix}a"),
        ("upload", f"{prefix}sub/b"),
    ]
    code, output, errors = doctor(location, "--clean", "--yes", "--older-than", "0s")
    assert (code, errors) == (0, "")
    assert output.endswith("removed 3\n")
    assert list(tree.uploads()) == []
    assert set(tree.find()) == {"good"}
    whole: Any = stores.tree(f"{kind}://{bucket}/", kind, server.options)
    assert [name for name, _, _ in whole.uploads()] == ["dir2/other"]


def test_a_role_that_may_not_list_uploads_is_said(
    oss_location: str, oss_server: OSSServer, doctor: Doctor
) -> None:
    tree = Stores().tree(oss_location, "oss", oss_server.options)
    tree.objects.put(tree.path(f"ckpt-1.{DATA}"), b"data")
    oss_server.set(deny_list_parts=True)
    query = "&".join(f"{name}={value}" for name, value in oss_server.options.items())
    code, output, errors = doctor(f"{oss_location}?{query}", "--older-than", "0s")
    assert code == 1
    assert "uploads in parts are not listed: " in errors
    assert "AccessDenied" in errors
    assert What.DATA.value in output


def test_a_file_is_no_place_to_look_below(folder: LocalTree, doctor: Doctor) -> None:
    write(folder, {"file": b""})
    code, _, errors = doctor(folder.path("file"))
    assert code == 2
    assert "is a file" in errors
    assert doctor(folder.path("none"))[0] == 125
