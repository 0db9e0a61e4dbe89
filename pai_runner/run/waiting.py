"""What a job has left on this machine's disk, to be uploaded yet."""

from __future__ import annotations

import json
import os

from pai_runner.jobs.state import Reason
from pai_runner.run.verdict import with_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pai_runner.jobs.directory import JobDirectory
    from pai_runner.run.verdict import Verdict
    from pai_runner.storage.pending import Waiting


def pending_folder(directory: JobDirectory) -> str:
    """Return the folder of a job in which files wait; empty where it has none."""
    try:
        with open(directory.spec, encoding="utf-8") as file:
            return str(json.load(file).get("pending", ""))
    except (OSError, ValueError, AttributeError):
        # It was never started, is of another time or damaged: nothing is known to wait.
        return ""


def waiting(folder: str) -> Waiting | None:
    """Return what waits in a job's folder, None for nothing. What cannot be read waits, too."""
    if not folder or not os.path.isdir(folder):
        return None
    # Here, not above: few jobs leave anything, and the supervisor is to be up soon.
    from pai_runner.storage.pending import Waiting, waiting_in

    try:
        return waiting_in(folder) or None
    except (OSError, ValueError, KeyError, TypeError):
        return Waiting(files=1)


def problem(job_id: str, folder: str) -> str:
    """Return what to tell of the files of a job that has ended; empty where none wait.

    What is empty of its folder is removed.
    """
    found = waiting(folder)
    if found is None:
        _tidy(folder)
        return ""
    return f"{found} in {folder}; `pai jobs resume-upload {job_id}` finishes the upload"


def judged(verdict: Verdict, job_id: str, folder: str) -> Verdict:
    """Return the verdict of a job with what it has left to be uploaded."""
    left = problem(job_id, folder)
    return with_problem(verdict, left, Reason.NOT_UPLOADED) if left else verdict


def _tidy(folder: str) -> None:
    if folder and os.path.isdir(folder):
        from pai_runner.storage.pending import tidy

        tidy(folder)
