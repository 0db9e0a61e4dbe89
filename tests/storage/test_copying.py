"""Copies: their order, what is verified, what is damaged or changed, and going on after a kill."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Fault, fault_proxy
from moto_server import S3Server
from oss_server import OSSServer
from support import Pai, wait_until

from pai_runner.storage.checksums import crc64
from pai_runner.storage.copy_journal import CopyJournal, journals_folder
from pai_runner.storage.copying import Chosen, Copier, Outcome, moves_below
from pai_runner.storage.local_tree import LocalTree, unfinished_name
from pai_runner.storage.moving import Move
from pai_runner.storage.objects import PART
from pai_runner.storage.trees import Entry, Stores, StoreTree, Tree
from pai_runner.storage.verifying import CRC64, ETAG, MD5, PARTS, Checksum, parts_of

PIECES = 3
LARGE = os.urandom(1024) * (2 * PART // 1024 + 5)  # two pieces, and a bit
CHECKPOINT = {
    "checkpoint": b'model_checkpoint_path: "ckpt-2"\n',
    "ckpt-1.index": b"1",
    "ckpt-1.data-00000-of-00001": b"one",
    "ckpt-2.index": b"2",
    "ckpt-2.data-00000-of-00001": b"two",
    "export/variables/variables.data-00000-of-00001": b"v",
    "export/saved_model.pb": b"graph",
    "events.out.tfevents.1": b"e",
}

# What ends a copy. CI tries two of them.
ENDS = [
    ("s3", True, signal.SIGKILL),
    ("oss", False, signal.SIGINT),
    ("oss", True, signal.SIGTERM),
    ("s3", False, signal.SIGKILL),
]
# The requests that move pieces, by store and direction.
PIECES_OF: dict[tuple[str, bool], dict[str, Any]] = {
    **{(kind, True): {"methods": ("PUT",), "path": "partNumber"} for kind in ("s3", "oss")},
    ("s3", False): {"methods": ("GET",), "path": "/dir/large"},
    ("oss", False): {"methods": ("GET",), "path": "/dir%2Flarge"},
}
IS_PROOF = "PAI_PROOF_COUNT" in os.environ

_numbers = itertools.count(1)
# Making a client takes longer than most tests: they share theirs.
_stores = Stores()


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PAI_RETRY_SECONDS", "0.1")


@pytest.fixture
def folder(tmp_path: Path) -> LocalTree:
    (tmp_path / "folder").mkdir()
    return LocalTree(str(tmp_path / "folder"))


@pytest.fixture
def back(tmp_path: Path) -> LocalTree:
    return LocalTree(str(tmp_path / "back"))


def s3_tree(location: str, options: dict[str, str]) -> StoreTree:
    return _stores.tree(location, "s3", options)


@pytest.fixture
def s3(s3_location: str, s3_server: S3Server) -> StoreTree:
    return s3_tree(s3_location, s3_server.options)


@pytest.fixture
def oss(oss_location: str, oss_server: OSSServer) -> StoreTree:
    return _stores.tree(oss_location, "oss", oss_server.options)


def memory() -> StoreTree:
    return _stores.tree(f"memory://copies-{next(_numbers)}/dir/", "memory", {})


def write(tree: LocalTree, files: dict[str, bytes]) -> LocalTree:
    for name, data in files.items():
        os.makedirs(os.path.dirname(tree.path(name)), exist_ok=True)
        Path(tree.path(name)).write_bytes(data)
    return tree


def read(tree: LocalTree) -> dict[str, bytes]:
    return {name: Path(tree.path(name)).read_bytes() for name in tree.find()}


def copied(source: Tree, target: Tree, **more: Any) -> Outcome:
    return Copier(moves_below(source, target, "", Chosen()), **more).run()


def moved(source: Tree, name: str, target: Tree, **entry: Any) -> Outcome:
    found = source.entry(name)
    assert found is not None
    return Copier([Move(source, name, found._replace(**entry), target, name)]).run()


# ====== The order of names ======


def test_what_names_others_comes_after_them(folder: LocalTree) -> None:
    order: list[str] = []
    copied(write(folder, CHECKPOINT), memory(), copied=lambda move: order.append(move.name))
    pointers = {"checkpoint", "export/saved_model.pb"}
    indexes = {"ckpt-1.index", "ckpt-2.index"}
    assert set(order[-2:]) == pointers
    assert set(order[-4:-2]) == indexes


def test_what_fails_stops_only_what_needs_it(folder: LocalTree, back: LocalTree) -> None:
    write(folder, CHECKPOINT)
    # There is a folder where the data of the second checkpoint belongs.
    os.makedirs(back.path("ckpt-2.data-00000-of-00001"))
    outcome = copied(folder, back)
    left = {"ckpt-2.data-00000-of-00001", "ckpt-2.index", "checkpoint"}
    assert {name.rpartition("/")[2] for name in outcome.failures} == left
    assert read(back) == {name: data for name, data in CHECKPOINT.items() if name not in left}
    assert "it needs ckpt-2.data" in outcome.failures[folder.shown("checkpoint")]


def test_names_that_are_no_local_files_are_refused(
    s3: StoreTree, s3_server: S3Server, back: LocalTree, tmp_path: Path
) -> None:
    bucket, _, prefix = s3.base.partition("/")
    names = ("../evil", "a//b", "./c", "good", "x" * 300)
    for name in names:
        s3_server.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"data")
    outcome = copied(s3, back)
    assert read(back) == {"good": b"data"}
    assert len(outcome.failures) == len(names) - 1
    assert not (tmp_path / "evil").exists()


# ====== Verified ======


@pytest.mark.parametrize("kind", ["s3", "oss", "memory"])
def test_a_large_file_moves_in_pieces_and_is_verified(
    kind: str, folder: LocalTree, back: LocalTree, request: pytest.FixtureRequest
) -> None:
    tree = memory() if kind == "memory" else request.getfixturevalue(kind)
    write(folder, {"large": LARGE})
    os.utime(folder.path("large"), (1_700_000_000, 1_700_000_000))
    sent: list[int] = []
    there = copied(folder, tree, sent=sent.append)
    again = copied(tree, back, sent=sent.append)
    assert (there.failures, again.failures) == ({}, {})
    assert (len(sent), sum(sent)) == (2 * PIECES, 2 * len(LARGE))
    assert read(back) == {"large": LARGE}
    entry, whole = tree.entry("large"), back.entry("large")
    assert entry is not None
    assert whole is not None
    assert whole.modified_ns == entry.modified_ns
    how = {"s3": ("CRC32C", PARTS), "oss": (CRC64, CRC64), "memory": ("size", "size")}[kind]
    assert (set(there.verified), set(again.verified)) == ({how[0]}, {how[1]})
    assert not os.listdir(journals_folder())


def test_space_is_taken_where_the_system_has_no_call_for_it(
    folder: LocalTree, back: LocalTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    tree = memory()
    copied(write(folder, {"large": LARGE}), tree)
    assert copied(tree, back).failures == {}
    assert read(back) == {"large": LARGE}


def test_a_store_is_streamed_into_another(s3: StoreTree, oss: StoreTree, folder: LocalTree) -> None:
    copied(write(folder, {"large": LARGE}), s3)
    outcome = copied(s3, oss)
    assert (outcome.failures, dict(outcome.verified)) == ({}, {PARTS: 1})
    large = oss.entry("large")
    assert large is not None
    assert oss.checksum("large", large) == Checksum(CRC64, str(crc64(LARGE)))
    # In one piece its ETag is the MD5 of all.
    s3.objects.put(s3.path("whole"), LARGE)
    assert dict(moved(s3, "whole", oss).verified) == {MD5: 1}


def test_a_server_copies_large_objects_itself_in_parts(
    s3: StoreTree, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pai_runner.storage.s3_tree.COPIED_AT_ONCE", PART)
    s3.objects.put(s3.path("large"), LARGE)
    entry = s3.entry("large")
    assert entry is not None
    assert s3.copy(s3, "large", entry, "copy") == "size"
    bucket, _, key = s3.path("copy").partition("/")
    assert s3_server.read(bucket, key) == LARGE
    copy = s3.entry("copy")
    assert copy is not None
    assert parts_of(copy.etag) == PIECES


def test_parts_of_several_lengths_are_no_damage(
    s3: StoreTree, s3_server: S3Server, back: LocalTree
) -> None:
    upload = s3.objects.upload(s3.path("file"))
    sizes = (5 << 20, 6 << 20, 1 << 20)
    for number, size in enumerate(sizes, 1):
        upload.send(number, os.urandom(size))
    upload.complete()
    outcome = copied(s3, back)
    assert (outcome.failures, dict(outcome.verified)) == ({}, {ETAG: 1})
    bucket, _, key = s3.path("file").partition("/")
    assert read(back) == {"file": s3_server.read(bucket, key)}


@pytest.mark.parametrize("name", ["small", "large"])
def test_what_is_damaged_is_not_published(
    name: str, oss: StoreTree, oss_server: OSSServer, back: LocalTree
) -> None:
    oss.objects.put(oss.path(name), b"small" if name == "small" else LARGE)
    oss_server.set(corrupt_reads=1)
    outcome = copied(oss, back)
    assert "is another" in outcome.failures[oss.shown(name)]
    assert not os.path.exists(back.path(name))
    assert copied(oss, back).failures == {}
    assert list(read(back)) == [name]


def test_a_truncated_answer_is_gone_on_with(
    oss: StoreTree, oss_server: OSSServer, back: LocalTree
) -> None:
    oss.objects.put(oss.path("file"), LARGE)
    oss_server.set(truncate=2)
    assert copied(oss, back).failures == {}
    assert read(back) == {"file": LARGE}


@pytest.mark.parametrize("size", [5, len(LARGE)])
def test_an_object_that_changes_is_not_mixed(s3: StoreTree, back: LocalTree, size: int) -> None:
    s3.objects.put(s3.path("file"), b"a" * size)
    move = moves_below(s3, back, "", Chosen())
    s3.objects.put(s3.path("file"), b"b" * size)
    outcome = Copier(move).run()
    assert "changed meanwhile" in outcome.failures[s3.shown("file")]
    assert not os.path.exists(back.prefix) or os.listdir(back.prefix) == []


def test_a_local_file_that_changes_is_not_published(s3: StoreTree, folder: LocalTree) -> None:
    write(folder, {"small": b"1", "large": LARGE})
    moves = moves_below(folder, s3, "", Chosen())
    write(folder, {"small": b"2", "large": LARGE[:-1]})
    outcome = Copier(moves).run()
    assert len(outcome.failures) == 2
    assert all("changed meanwhile" in text for text in outcome.failures.values())
    assert s3.find() == {}
    assert list(s3.uploads()) == []  # type: ignore[attr-defined]


# ====== Going on ======


def journal_lines() -> list[Any]:
    names = os.listdir(journals_folder()) if os.path.isdir(journals_folder()) else []
    assert len(names) < 2
    if not names:
        return []
    return [
        json.loads(line) for line in Path(journals_folder(), names[0]).read_text().split("\n")[:-1]
    ]


def test_a_changed_source_is_begun_anew_and_the_old_upload_given_up(
    s3: StoreTree, s3_server: S3Server, folder: LocalTree, tmp_path: Path
) -> None:
    write(folder, {"large": LARGE})
    with fault_proxy(s3_server.url, tmp_path / "proxy") as proxy:
        slow = s3_tree(s3.prefix, proxy.options(s3_server.options))
        proxy.set(Fault("500", methods=("PUT",), path=f"partNumber={PIECES}"))
        assert "500" in copied(folder, slow).failures[folder.shown("large")]
        assert len(journal_lines()) == PIECES
        (before,) = s3.uploads()  # type: ignore[attr-defined]
        proxy.mend()
        write(folder, {"large": LARGE[::-1]})
        outcome = copied(folder, slow)
    assert (outcome.failures, outcome.resumed) == ({}, 0)
    assert list(s3.uploads()) == []  # type: ignore[attr-defined]
    bucket, _, key = s3.path("large").partition("/")
    assert s3_server.read(bucket, key) == LARGE[::-1]
    assert before[0] == "large"


def test_an_upload_without_parts_is_begun_anew(s3: StoreTree, folder: LocalTree) -> None:
    write(folder, {"large": LARGE})
    entry = folder.entry("large")
    assert entry is not None
    upload = s3.objects.upload(s3.path("large"))
    journal = CopyJournal(folder.shown("large"), f"{s3.shown('large')}?{s3.server}")
    journal.begin(**entry._asdict(), part=PART, upload=upload.id)
    journal.close()
    outcome = copied(folder, s3)
    assert (outcome.failures, dict(outcome.verified)) == ({}, {"CRC32C": 1})
    assert list(s3.uploads()) == []  # type: ignore[attr-defined]


def test_an_upload_that_somebody_gave_up_is_begun_anew(
    oss: StoreTree, folder: LocalTree, back: LocalTree
) -> None:
    tree = oss
    write(folder, {"large": LARGE})
    entry = folder.entry("large")
    assert entry is not None
    upload = tree.objects.upload(tree.path("large"))
    upload.send(1, LARGE[:PART])
    part = upload.parts[1]
    journal = CopyJournal(folder.shown("large"), f"{tree.shown('large')}?{tree.server}")
    journal.begin(**entry._asdict(), part=PART, upload=upload.id)
    journal.add(1, [part.etag, part.size, part.checksum])
    journal.close()
    upload.abort()
    assert copied(folder, tree).failures == {}
    assert copied(tree, back).failures == {}
    assert read(back) == {"large": LARGE}


def test_pieces_that_are_not_as_they_were_are_fetched_again(
    oss: StoreTree, back: LocalTree, tmp_path: Path
) -> None:
    oss.objects.put(oss.path("large"), LARGE)
    entry = oss.entry("large")
    assert entry is not None
    part = unfinished_name(back.path("large"))
    os.makedirs(back.prefix)
    Path(part).write_bytes(LARGE[:PART] + b"x" * (len(LARGE) - PART))
    journal = CopyJournal(f"{oss.shown('large')}?{oss.server}", back.shown("large"))
    journal.begin(**entry._asdict(), part=PART)
    journal.add(1, crc64(LARGE[:PART]))
    journal.add(2, crc64(LARGE[PART : 2 * PART]))  # a crash of the machine has lost it
    journal.close()
    outcome = copied(oss, back)
    assert (outcome.failures, outcome.resumed) == ({}, PART)
    assert read(back) == {"large": LARGE}
    assert not os.path.exists(part)


@pytest.mark.slow
@pytest.mark.proof_buckets
@pytest.mark.parametrize(("kind", "is_upload", "ended_by"), ENDS if IS_PROOF else ENDS[:2])
def test_a_killed_copy_goes_on_where_it_stopped(
    kind: str,
    is_upload: bool,
    ended_by: signal.Signals,
    folder: LocalTree,
    pai: Pai,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    server, tree = request.getfixturevalue(f"{kind}_server"), request.getfixturevalue(kind)
    if is_upload:
        write(folder, {"large": LARGE})
    else:
        tree.objects.put(tree.path("large"), LARGE)
    pai = pai.with_settings(XDG_CACHE_HOME=str(tmp_path / "cache"))
    pieces = Fault("stall", skip=2, seconds=60, **PIECES_OF[kind, is_upload])
    with fault_proxy(server.url, tmp_path / "proxy") as proxy:
        options = proxy.options(server.options)
        query = "&".join(f"{name}={value}" for name, value in options.items())
        ends = [folder.path("large"), f"{tree.prefix}large?{query}"]
        words = ["storage", "cp", *(ends if is_upload else reversed(ends))]
        proxy.set(pieces)
        running = pai.start(*words)
        wait_until(lambda: len(journal_lines()) == 3, seconds=60)
        running.send_signal(ended_by)
        check_end(running, ended_by, server.options)
        arrived = [number for number, _ in journal_lines()[1:]]
        proxy.mend()
        before = len(proxy.requests())
        again = pai(*words, "--json")
        asked = [
            one.path
            for one in proxy.requests()[before:]
            if one.method in pieces.methods and pieces.path in one.path
        ]
    assert again.returncode == 0, again.stderr
    sizes = [len(LARGE[(number - 1) * PART : number * PART]) for number in arrived]
    assert json.loads(again.stdout)["resumed_bytes"] == sum(sizes)
    assert len(asked) == PIECES - len(arrived)
    assert not any(f"partNumber={number}&" in f"{one}&" for one in asked for number in arrived)
    bucket, _, key = tree.path("large").partition("/")
    assert server.read(bucket, key) == LARGE
    assert read(folder) == {"large": LARGE}
    assert list(tree.uploads()) == []
    assert os.listdir(journals_folder()) == []


def check_end(
    running: subprocess.Popen[str], ended_by: signal.Signals, options: dict[str, str]
) -> None:
    """Check how a copy ended, and that neither it nor its journal tells a secret."""
    output, errors = running.communicate(timeout=30)
    is_told = ended_by is not signal.SIGKILL
    assert running.returncode == (128 + ended_by if is_told else -ended_by)
    assert output == ""
    assert "Traceback" not in errors
    assert ("the same command goes on" in errors) is is_told
    told = errors + json.dumps(journal_lines())
    names = options.keys() & {"key", "secret", "access_key_id", "access_key_secret"}
    assert not any(options[name] in told for name in names)


def test_without_a_place_for_journals_copies_still_work(
    folder: LocalTree, back: LocalTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(folder, {"large": LARGE})
    assert copied(folder, back).failures == {}
    assert read(back) == {"large": LARGE}


def test_a_full_disk_is_said(folder: LocalTree, back: LocalTree, s3: StoreTree) -> None:
    s3.objects.put(s3.path("file"), b"data")
    (move,) = moves_below(s3, back, "", Chosen())
    huge = Move(s3, "file", Entry(1 << 60, 0, move.entry.etag), back, "file")
    (text,) = Copier([huge]).run().failures.values()
    assert "no space is left" in text
    assert os.listdir(back.prefix) == []
