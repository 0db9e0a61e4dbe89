"""Jobs whose processes are all gone at the end of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import Jobs, jobs_in


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """A place to run jobs; the test fails if a process of one is left."""
    yield from jobs_in(tmp_path)
