"""A run: PAI commands given at once, the attempts at each, and what came of them.

`<home>/runs/<id>/run.json` is written by one process at a time, the run's keeper: it starts the
jobs, one after the other and again where that was asked for. A reader sees for itself when the
keeper is gone, and then shows LOST.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.jobs.directory import home, ids_in, new_folder, only_match
from pai_runner.jobs.files import is_out_of_space, write_atomic, write_in_place
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.state import State

SCHEMA = 1
_RUNS = "runs"


@dataclass(frozen=True)
class Step:
    """One PAI command of a run.

    `jobs` are the ids of the attempts at it, in order; `state` is that of the last, PENDING where
    there was none. Where the command had succeeded in an earlier run, that one's job is here.
    """

    command: str
    name: str
    state: State = State.PENDING
    exit_code: int | None = None
    message: str = ""
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What is known of a run. Times are UTC, as ISO text; `cyctime` is in the run's zone.

    `bizdate` is yyyymmdd. `exit_code` is what `pai` ends with.
    """

    id: str
    name: str
    state: State
    steps: tuple[Step, ...]
    cyctime: str = ""
    bizdate: str = ""
    exit_code: int | None = None
    message: str = ""
    created: str | None = None
    ended: str | None = None
    keeper: Identity | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        steps = [{**asdict(step), "state": step.state.value} for step in self.steps]
        keeper = self.keeper and self.keeper.to_json()
        shown = {"state": self.state.value, "steps": steps, "keeper": keeper}
        return {"schema": SCHEMA, **values, **shown}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        """Return the run that `to_json` gave. Raises ValueError, KeyError or TypeError."""
        values = dict(data)
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r}; this version reads {SCHEMA}")
        values["state"] = State(data["state"])
        values["keeper"] = Identity.from_json(data["keeper"])
        values["steps"] = tuple(_step(step) for step in data["steps"])
        return cls(**values)


def _step(data: Mapping[str, Any]) -> Step:
    return Step(**{**data, "state": State(data["state"]), "jobs": tuple(data["jobs"])})


class RunDirectory:
    """The folder of one run, `<home>/runs/<id>`. It need not exist yet."""

    __slots__ = ("id", "path")

    def __init__(self, records_home: str, run_id: str) -> None:
        self.id = run_id
        self.path = os.path.join(records_home, _RUNS, run_id)

    @property
    def record(self) -> str:
        return os.path.join(self.path, "run.json")

    @property
    def request(self) -> str:
        """What was asked: the commands, the options, and where they were given."""
        return os.path.join(self.path, "request.json")

    @property
    def log(self) -> str:
        """What the keeper of a run in the background prints, with its scripts' output."""
        return os.path.join(self.path, "log")


def create_run() -> RunDirectory:
    """Make the folder of a new run and return it. Raises SetupError."""
    base = home()
    return RunDirectory(base, new_folder(base, _RUNS))


def write_run(directory: RunDirectory, run: Run) -> None:
    """Replace the record. On a full disk the old file's own space is used. Raises OSError."""
    try:
        write_atomic(directory.record, _bytes(run))
    except OSError as error:
        if not (is_out_of_space(error) and os.path.exists(directory.record)):
            raise
        steps = tuple(replace(step, message=step.message[:100]) for step in run.steps)
        brief = replace(run, message=run.message[:100], steps=steps)
        write_in_place(directory.record, _bytes(brief))


def _bytes(run: Run) -> bytes:
    text = json.dumps(run.to_json(), ensure_ascii=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_run(directory: RunDirectory) -> Run:
    """Return the record, LOST if its keeper is gone before its end.

    One that cannot be read comes back as UNKNOWN, its message saying why.
    """
    run = _load(directory)
    if _is_forsaken(run):
        run = _load(directory)  # its keeper may have ended between our reading and our looking
        if _is_forsaken(run):
            text = "the process that kept the run was gone before its end"
            return replace(run, state=State.LOST, message=text)
    return run


def _is_forsaken(run: Run) -> bool:
    is_over = run.state.final or run.state is State.UNKNOWN
    return not is_over and (run.keeper is None or run.keeper.gone)


def _load(directory: RunDirectory) -> Run:
    try:
        with open(directory.record, "rb") as file:
            return Run.from_json(json.loads(file.read()))
    except FileNotFoundError:
        message = "no record: the run's folder was made, and nothing was started"
    except OSError as error:
        message = f"the record cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"the record {directory.record} is damaged: {error}"
    return Run(directory.id, "", State.UNKNOWN, (), message=message)


def end_run(directory: RunDirectory) -> Run:
    """Ask a run to end, with the job that it runs; return its record as it was then.

    Raises SetupError when its keeper may not be told.
    """
    run = read_run(directory)
    if not run.state.final and run.keeper is not None and run.keeper.alive:
        try:
            os.kill(run.keeper.pid, signal.SIGTERM)
        except ProcessLookupError:
            return read_run(directory)
        except PermissionError as error:
            raise SetupError(
                f"the process {run.keeper.pid}, which keeps run {run.id}, may not be told",
                "do it as the user who started the run",
            ) from error
    return run


# ====== Finding ======


def all_runs(records_home: str | os.PathLike[str] | None = None) -> list[RunDirectory]:
    """Return all runs, newest first. Raises SetupError."""
    base = home() if records_home is None else os.fspath(records_home)
    return [RunDirectory(base, run_id) for run_id in ids_in(base, _RUNS)]


def list_runs(
    limit: int | None = None, name: str | None = None, states: Collection[State] | None = None
) -> list[Run]:
    """Return up to `limit` runs, newest first, of this name and in one of `states` (None: any)."""
    found: list[Run] = []
    for directory in all_runs():
        if limit is not None and len(found) >= limit:
            break
        run = read_run(directory)
        if name in (None, run.name) and (states is None or run.state in states):
            found.append(run)
    return found


def find_run(text: str) -> RunDirectory | None:
    """Return the run that `text` names: its id, a start of it, or of its last part.

    None where there is no such run. Raises UsageError when there are several.
    """
    base = home()
    found = only_match(text, ids_in(base, _RUNS), "runs")
    return None if found is None else RunDirectory(base, found)
