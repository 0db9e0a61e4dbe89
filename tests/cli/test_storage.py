"""`pai storage`: ls, du and rm, and what is wrong with a command or the world."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from moto_server import CREDENTIALS
from oss_server import KEY_ID, REFUSED_ROLE, SECRET, OSSServer
from storage_folders import Folder, Verb, json_of, make_folder
from support import ROLE

from pai_runner.cli.storage import VERBS

# ====== ls and du ======


def test_what_is_there_is_listed_and_counted(quick: Folder, storage: Verb) -> None:
    quick.put({"a": b"12345", "sub/b": b"1", "sub/deep/c": b""})
    assert storage("ls", quick()) == (0, "a\nsub/\n", "")
    assert storage("ls", "-R", quick())[1] == "a\nsub/b\nsub/deep/c\n"
    header, first, second = storage("ls", "-l", quick("sub"))[1].splitlines()
    assert header.split() == ["size", "modified", "name"]
    assert first.split()[:2] == ["1", "B"]
    assert first.split()[-1] == "b"
    assert second.split() == ["-", "-", "deep/"]
    listed = json_of(storage("ls", "--json", quick()))
    assert [(one["name"], one["type"]) for one in listed] == [("a", "file"), ("sub", "directory")]
    assert listed[0]["bytes"] == 5
    assert listed[0]["modified"].endswith("+00:00")
    counted = json_of(storage("du", "--json", quick(), quick("sub/b")))
    assert [(one["files"], one["bytes"]) for one in counted] == [(3, 6), (1, 1)]


def test_counts_are_added_up(local: Folder, memory: Folder, storage: Verb) -> None:
    local.put({"a": b"12345"})
    memory.put({"b": b"1", "sub/c": b""})
    rows = storage("du", memory(), local("a"))[1].splitlines()
    assert [row.split()[:4] for row in rows[1:]] == [
        ["1", "B", "1", "2"],
        ["5", "B", "5", "1"],
        ["6", "B", "6", "3"],
    ]
    assert storage("ls", local("a"))[1] == "a\n"


def test_links_to_nothing_are_passed_over(local: Folder, memory: Folder, storage: Verb) -> None:
    local.put({"a": b"12345"})
    folder = Path(local.prefix)
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("nowhere")
    assert storage("ls", local()) == (0, "a\n", "")
    assert json_of(storage("du", "--json", local()))[0]["bytes"] == 5
    assert storage("cp", "-r", local(), memory())[0] == 0
    assert storage("ls", memory())[1] == "a\n"
    assert storage("rm", "-r", local(), "--yes")[0] == 0
    assert not folder.exists()


def test_what_is_not_there_is_said(quick: Folder, storage: Verb) -> None:
    quick.put({"a": b""})
    for words in (["ls"], ["du"], ["rm"], ["rm", "-r"]):
        for name in ("none", "none/"):
            code, output, errors = storage(*words, quick(name))
            assert (code, output) == (125, "")
            assert f"{quick.prefix}none: there is no such file or directory" in errors


# ====== rm ======


def test_files_and_directories_are_removed(quick: Folder, storage: Verb) -> None:
    quick.put({"a": b"1", "b[1]*": b"2", "b1x": b"3", "sub/c": b"4", "sub/deep/d": b"5"})
    assert storage("rm", quick("b[1]*")) == (0, "removed 1 file, 1 B\n", "")
    code, _, errors = storage("rm", quick("sub"))
    assert code == 2
    assert "sub/ is a directory" in errors
    assert storage("rm", "-r", quick("sub"), "--dry-run")[1].splitlines() == [
        f"remove {quick.prefix}sub/c",
        f"remove {quick.prefix}sub/deep/d",
        "would remove 2 files, 2 B",
    ]
    assert set(quick.files()) == {"a", "b1x", "sub/c", "sub/deep/d"}
    assert json_of(storage("rm", "-r", quick("sub"), quick("a"), "--json"))["files"] == 3
    assert quick.files() == {"b1x": b"3"}
    if quick.kind == "local":
        assert os.listdir(quick.prefix) == ["b1x"]


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_many_files_go_in_few_requests(
    kind: str, storage: Verb, request: pytest.FixtureRequest
) -> None:
    folder = make_folder(kind, request)
    folder.put({f"sub/{number}": b"" for number in range(20)} | {"sub/checkpoint": b""})
    folder.put({"b[1]*": b"", "b1x": b"", "subway": b""})
    with folder.server.counted() as counts:
        assert storage("rm", "-r", folder("sub"), folder("b[1]*"))[0] == 0
    assert counts["DELETE"] == 3  # of the directory the pointer goes first
    assert storage("ls", folder())[1] == "b1x\nsubway\n"


def test_a_whole_bucket_is_never_removed(storage: Verb, request: pytest.FixtureRequest) -> None:
    for kind in ("s3", "oss", "memory"):
        folder = make_folder(kind, request)
        folder.put({"a": b""})
        bucket = "/".join(folder.prefix.split("/")[:3])
        for root in (bucket, f"{bucket}/"):
            code, _, errors = storage("rm", "-r", "--yes", f"{root}{folder.query}")
            assert code == 2
            assert "is a whole bucket" in errors
        for name in ("../dir", "x//y", "./a"):
            code, _, errors = storage("rm", "-r", "--yes", folder(name))
            assert code == 2
            assert "empty, `.` or `..`" in errors
        assert folder.files() == {"a": b""}
    assert storage("rm", "-r", "--yes", "/")[0] == 2
    assert storage("rm", "-r", "--yes", "~")[0] == 2


def test_a_question_comes_before_many_files_go(
    memory: Folder, local: Folder, storage: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put({f"d/{number}": b"" for number in range(1001)})
    local.put({"a": b""})
    for words in (["rm", "-r", memory("d")], ["sync", "--delete", local(), memory("d")]):
        code, output, errors = storage(*words)
        assert (code, output) == (2, "")
        assert "1,001 files" in errors
        assert "--yes" in errors

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert storage("rm", "-r", memory("d"))[0] == 2
    assert len(memory.files()) == 1001
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert storage("rm", "-r", memory("d"))[0] == 0
    assert memory.files() == {}


# ====== What is wrong with the command, or the world ======


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "usage: pai storage VERB"),
        (["copy"], "pai storage has no verb `copy`"),
        (["snyc"], "did you mean `sync`?"),
        (["ls"], "LOCATION"),
        (["ls", ""], "an empty location"),
        (["ls", "oss:/bucket"], "write oss://bucket"),
        (["ls", "s3://bucket/?hots=x"], "has no option `hots`"),
        (["ls", ".", "--role", "maybe"], "no such choice"),
        (["cp", "."], "TARGET"),
        (["cp", ".", "x"], "add -r"),
        (["sync", ".", "x", "y"], "y"),
        (["doctor", ".", "--older-than", "7"], "write 90s, 30m, 12h or 7d"),
        (["cp", "a", "b", "--no-verify"], "--no-verify"),
    ],
)
def test_a_wrong_command_is_told_what_is_right(
    arguments: list[str], says: str, storage: Verb
) -> None:
    code, output, errors = storage(*arguments)
    assert code == 2
    assert says in output + errors


def test_each_verb_is_listed_and_explains_itself(storage: Verb) -> None:
    code, output, _ = storage("--help")
    assert code == 0
    for name, (_, _, summary) in VERBS.items():
        assert f"  {name}" in output
        assert summary in output
        code, explained, _ = storage(name, "--help")
        assert code == 0
        assert f"pai storage {name}" in explained
        assert "--json" in explained


@pytest.mark.parametrize("kind", ["s3", "oss"])
def test_a_bucket_that_is_missing(
    kind: str, local: Folder, storage: Verb, request: pytest.FixtureRequest
) -> None:
    folder = make_folder(kind, request)
    missing = f"{kind}://no-such-bucket/dir/{folder.query}"
    for words in (
        ["ls", missing],
        ["cp", "-r", local(), missing],
    ):
        code, output, errors = storage(*words)
        assert (code, output) == (125, "")
        assert "there is no bucket `no-such-bucket`" in errors


def test_a_server_that_denies_or_is_not_there(denying_endpoint: str, storage: Verb) -> None:
    key, secret = CREDENTIALS["key"], CREDENTIALS["secret"]
    for url, says in (
        (denying_endpoint, "access denied"),
        ("http://127.0.0.1:9", "the server does not answer"),
    ):
        location = f"s3://bucket/dir/?endpoint_url={url}&region=r&key={key}&secret={secret}"
        code, output, errors = storage("ls", location)
        assert (code, output) == (125, "")
        assert f"s3://bucket/dir/: {says}" in errors


def test_a_role_opens_a_bucket_or_is_ignored(
    oss_server: OSSServer,
    request: pytest.FixtureRequest,
    storage: Verb,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "OSS_ACCESS_KEY_ID": KEY_ID,
        "OSS_ACCESS_KEY_SECRET": SECRET,
        "PAI_STS_ENDPOINT": oss_server.sts_url,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PAI_ROLE", raising=False)
    folder = make_folder("oss", request)
    folder.put({"a": b"1"})
    location = f"{folder.prefix}?host={oss_server.url}&role_arn={ROLE}"
    assert storage("ls", location) == (0, "a\n", "")
    call = oss_server.calls_of_sts()[-1]
    assert (call["session_name"], call["role_arn"]) == ("pai-storage", ROLE)
    refused = location.replace(ROLE, REFUSED_ROLE)
    assert storage("ls", refused)[0] == 125
    code, output, errors = storage("ls", refused, "--role", "ignore")
    assert (code, output) == (0, "a\n")
    assert "is ignored: your own keys are used" in errors
    assert "1234567890123456" not in errors
