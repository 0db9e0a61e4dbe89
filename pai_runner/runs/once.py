"""At most one success per name and date, whoever is killed and when.

`<home>/once/<name>/<date>.json` lists the runs for a date, and says when one has succeeded. What a
run was killed before it could say is read off the records of its jobs, which their supervisors
write.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pai_runner.errors import BusyError, SetupError
from pai_runner.jobs.directory import JobDirectory, home
from pai_runner.jobs.files import write_atomic
from pai_runner.jobs.record import read
from pai_runner.jobs.runs import Run, RunDirectory, Step, read_run
from pai_runner.jobs.state import State
from pai_runner.runs.locking import TURN, Lock, Say, is_living

# How long a script whose keeper was killed is waited for: its grace, and what it copies back.
_LONGEST_REST = 1800.0


class Once:
    """The runs of one name for one date, while this process has them to itself."""

    def __init__(self, name: str, date: str, run_id: str, say: Say) -> None:
        """Raises BusyError while another run for the date is under way, SetupError."""
        self.key = f"{name}/{date}"
        folder = os.path.join(home(), "once", name)
        self._path = os.path.join(folder, f"{date}.json")
        self._lock = Lock(os.path.join(folder, f"{date}.lock"))
        if not self._lock.take():
            holder = self._lock.holder()
            self._lock.close()
            raise BusyError(
                f"run {holder} of `{name}` for {date} is under way", f"see: pai runs {holder}"
            )
        self._run_id = run_id
        try:
            self._lock.claim(run_id)
            self._known = _known(self._path)
            self._wait_for_rest(say)
        except BaseException:
            self._lock.close()
            raise

    def _wait_for_rest(self, say: Say) -> None:
        """Wait until nothing lives of earlier runs for the date: it may still succeed."""
        deadline = time.monotonic() + _LONGEST_REST
        for run_id in self._known["runs"]:
            if is_living(run_id):
                say(f"waiting for the script of run {run_id}, whose keeper was killed")
            while is_living(run_id):
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"a script of run {run_id} of {self.key} still lives",
                        f"see: pai runs {run_id}; pai cancel --force ends its job",
                    )
                time.sleep(TURN)

    @property
    def success(self) -> str:
        """The id of the run that has succeeded; empty where none has."""
        return str(self._known.get("success") or "")

    def done_before(self, steps: Sequence[Step]) -> dict[int, Step]:
        """Return those of `steps` that have succeeded in an earlier run of the same commands."""
        done: dict[int, Step] = {}
        for run_id in self._known["runs"]:
            run = read_run(RunDirectory(home(), run_id))
            if [step.command for step in run.steps] == [step.command for step in steps]:
                done.update(succeeded_steps(run))
        return done

    def begin(self) -> None:
        """Note this run, before it does anything. Raises SetupError."""
        self._write({**self._known, "runs": [*self._known["runs"], self._run_id]})

    def succeed(self) -> None:
        """Note that the run has succeeded. Raises SetupError."""
        self._write({**self._known, "success": self._run_id})

    def close(self) -> None:
        """Let others run for the date."""
        self._lock.close()

    def _write(self, known: dict[str, Any]) -> None:
        try:
            write_atomic(self._path, json.dumps(known).encode())
        except OSError as error:
            raise SetupError(
                f"{self._path} cannot be written: {error.strerror}", "free some space"
            ) from error
        self._known = known


def has_succeeded(name: str, date: str) -> bool:
    """Tell whether a run of this name is known to have succeeded for a date. Raises SetupError."""
    return bool(_known(os.path.join(home(), "once", name, f"{date}.json"))["success"])


def _known(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            known = json.loads(file.read())
        return {"runs": [str(one) for one in known["runs"]], "success": known["success"]}
    except FileNotFoundError:
        return {"runs": [], "success": None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{path} cannot be read: {error}",
            "look into `pai runs` whether the date is done; then remove the file",
        ) from error


def succeeded_steps(run: Run) -> dict[int, Step]:
    """Return the steps of a run that have succeeded, by their place, as its jobs tell."""
    done = {}
    for place, step in enumerate(run.steps):
        for job in step.jobs:
            record = read(JobDirectory(home(), job))
            if record.state is State.SUCCEEDED:
                done[place] = replace(
                    step, state=State.SUCCEEDED, exit_code=0, message=record.message, jobs=(job,)
                )
    return done
