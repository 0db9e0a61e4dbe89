"""Journals of copies, the checksums that verify them, and names of what is unfinished."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pai_runner.storage.checksums import crc64
from pai_runner.storage.copy_journal import CopyJournal, InUseError, journals_folder
from pai_runner.storage.local_tree import is_unfinished, unfinished_name
from pai_runner.storage.verifying import CRC64, MD5, PARTS, Checksum, Digest, md5_of, parts_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_journal_that_was_cut_off_is_gone_on_with() -> None:
    journal = CopyJournal("a", "b")
    journal.begin(size=1)
    journal.add(1, "one")
    journal.close()
    path = Path(journals_folder(), *os.listdir(journals_folder()))
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b'[2, "tw')
    journal = CopyJournal("a", "b")
    assert (journal.about["size"], journal.pieces) == (1, {1: "one"})
    journal.add(3, "three")
    with pytest.raises(InUseError, match="another process"):
        CopyJournal("a", "b")
    journal.close()
    journal = CopyJournal("a", "b")
    assert journal.pieces == {1: "one", 3: "three"}
    journal.end()
    assert os.listdir(journals_folder()) == []


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_digests_take_bytes_in_any_steps(step: int) -> None:
    data = bytes(range(256)) * 3
    parts = [data[start : start + 100] for start in range(0, len(data), 100)]
    of_parts = hashlib.md5(b"".join(hashlib.md5(one).digest() for one in parts)).hexdigest()
    for checksum in (
        Checksum(MD5, hashlib.md5(data).hexdigest().upper()),
        Checksum(CRC64, str(crc64(data))),
        Checksum(PARTS, f"{of_parts}-{len(parts)}", 100),
    ):
        for content, is_right in ((data, True), (data[:-1] + b"x", False)):
            digest = Digest(checksum)
            for start in range(0, len(content), step):
                digest.add(memoryview(content)[start : start + step])
            assert digest.matches() is is_right
    assert md5_of(of_parts) is not None
    assert md5_of(f"{of_parts}-3") is None
    assert (parts_of(f"{of_parts}-3"), parts_of(of_parts)) == (3, 0)


def test_unfinished_downloads_are_known_by_their_names() -> None:
    name = unfinished_name("dir/" + "n" * 255)
    assert name.startswith("dir/.")
    assert len(name) < 60
    assert is_unfinished(name)
    assert not is_unfinished("dir/archive.part")
