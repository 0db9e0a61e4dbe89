"""Listing jobs. Only state.json of each is read."""

from __future__ import annotations

import os
from collections.abc import Collection

from pai_runner.jobs import directory as directories
from pai_runner.jobs.record import Record, read
from pai_runner.jobs.state import State


def list_records(
    limit: int | None = None,
    states: Collection[State] | None = None,
    records_home: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> list[Record]:
    """Return up to `limit` records, newest first, of jobs in one of `states` and called `name`.

    None is any. A damaged record is listed as UNKNOWN; a job that is removed meanwhile is not
    listed. Raises SetupError when the home cannot be read.
    """
    home = directories.home() if records_home is None else os.fspath(records_home)
    found: list[Record] = []
    for job_id in directories.all_ids(home):
        if limit is not None and len(found) >= limit:
            break
        directory = directories.JobDirectory(home, job_id)
        record = read(directory)
        if record.state is State.UNKNOWN and not os.path.isdir(directory.path):
            continue
        if (states is None or record.state in states) and name in (None, record.job_name):
            found.append(record)
    return found
