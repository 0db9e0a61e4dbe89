"""Ids, look-up and the home of records."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import JobDirectory, all_ids, create, find, home, new_id


def test_an_id_sorts_by_time_and_is_unlike_any_other() -> None:
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-z]{6}", one) for one in ids)


def test_home_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAI_HOME", str(tmp_path))
    assert home() == str(tmp_path)
    monkeypatch.setenv("PAI_HOME", "~/records")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == str(tmp_path / "records")
    monkeypatch.delenv("PAI_HOME")
    assert home() == str(tmp_path / ".pai_runner")


def test_create_makes_private_folders(tmp_path: Path) -> None:
    directory = create(tmp_path / "new" / "home")
    for folder in (tmp_path / "new" / "home", Path(directory.path)):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert JobDirectory.at(directory.path) == directory
    assert Path(directory) == tmp_path / "new" / "home" / "jobs" / directory.id


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written: Not a directory") as caught:
        create(tmp_path / "file" / "home")
    assert caught.value.hint is not None
    assert "PAI_HOME" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match="Permission denied"):
        create(tmp_path)


IDS = ("20261121-051452-k3x9qz", "20261121-051453-k4aaaa", "20261122-000000-zzzzzz")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for one in IDS:
        (tmp_path / "jobs" / one).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (IDS[0], IDS[0]),
        ("20261122", IDS[2]),
        ("k3", IDS[0]),
        ("k4aaaa", IDS[1]),
        ("20261121-051453", IDS[1]),
    ],
)
def test_find(records: Path, text: str, expected: str) -> None:
    assert find(text, records).id == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("k", "`k` names 2 jobs", f"{IDS[1]}, {IDS[0]}"),
        ("20261121", "`20261121` names 2 jobs", f"{IDS[1]}, {IDS[0]}"),
        ("x", "there is no job `x`", f"the newest are: {IDS[2]}"),
        ("", "there is no job ``", IDS[2]),
    ],
)
def test_find_says_what_there_is(records: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find(text, records)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_find_without_any_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find("x", tmp_path / "nowhere")
    assert caught.value.hint == "there are no records yet"


def test_all_ids_are_newest_first(records: Path) -> None:
    assert all_ids(records) == list(reversed(IDS))


def test_roles_are_listed_by_attempt(tmp_path: Path) -> None:
    directory = create(tmp_path)
    assert directory.roles() == []
    for attempt, label in ((10, "worker-0"), (2, "worker-0"), (2, "ps-0")):
        directory.role(label, attempt).create()
    found = [os.path.relpath(role.path, directory.path) for role in directory.roles()]
    assert found == ["attempts/2/ps-0", "attempts/2/worker-0", "attempts/10/worker-0"]
