"""The journal of what waits to be uploaded."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pai_runner.storage.pending import Journal, waiting_in


@contextmanager
def files_may_grow_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: a write that would is cut there, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_did_not_fit_on_the_disk_spoils_none_that_follow(tmp_path: Path) -> None:
    journal = Journal.create(str(tmp_path), "one")
    journal.add("s3://bucket/first", 10)
    size = os.path.getsize(tmp_path / "one" / "journal.jsonl")
    with files_may_grow_to(size + 5), pytest.raises(OSError, match="the disk is full"):
        journal.add("s3://bucket/too-much", 20)
    second = journal.add("s3://bucket/second", 30)
    assert second.number == 2
    journal.close()
    contents = Journal(str(tmp_path / "one")).contents
    assert [one.path for one in contents.waiting] == ["s3://bucket/first", "s3://bucket/second"]
    assert waiting_in(str(tmp_path)).bytes == 40
