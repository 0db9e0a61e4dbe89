"""What an id on the command line names: a job or a run."""

from __future__ import annotations

from pai_runner.errors import UsageError
from pai_runner.jobs.directory import JobDirectory, all_ids, find, matching
from pai_runner.jobs.runs import RunDirectory, find_run

# How many jobs an error lists.
_SOME = 8


def named(text: str) -> JobDirectory | RunDirectory:
    """Return the one job or run that `text` names: its id, a start of it, or of its last part.

    Raises UsageError where it names none or several, or a run and a job as well.
    """
    run = find_run(text)
    if run is None:
        return find(text)
    jobs = matching(text, all_ids())
    if jobs and run.id != text:
        raise UsageError(
            f"`{text}` names run {run.id}, and {len(jobs)} jobs: {', '.join(jobs[:_SOME])}",
            "write more of the id",
        )
    return run
