"""Where a job's files lie. Every path of a record is a property here; nobody joins them elsewhere.

Paths are strings, and this module imports little: the supervisor loads it, and `pathlib` alone
costs it as much as the interpreter's own start.
"""

from __future__ import annotations

import os
import time

from pai_runner.errors import SetupError, UsageError

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_PRIVATE = 0o700  # a record holds what the user's script printed


class RoleDirectory:
    """The folder of one role in one attempt, for example `attempts/1/worker-0`."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def label(self) -> str:
        return os.path.basename(self.path)

    @property
    def stdout(self) -> str:
        return os.path.join(self.path, "stdout")

    @property
    def stderr(self) -> str:
        return os.path.join(self.path, "stderr")

    @property
    def error(self) -> str:
        return os.path.join(self.path, "error.json")

    @property
    def exit(self) -> str:
        return os.path.join(self.path, "exit.json")

    @property
    def heartbeat(self) -> str:
        return os.path.join(self.path, "heartbeat")

    def create(self) -> None:
        """Make the folder. Raises OSError."""
        os.makedirs(self.path, mode=_PRIVATE, exist_ok=True)


class JobDirectory:
    """The folder of one job, `<home>/jobs/<id>`. It need not exist yet."""

    __slots__ = ("id", "path")

    def __init__(self, home: str | os.PathLike[str], job_id: str) -> None:
        self.id = job_id
        self.path = os.path.join(os.path.abspath(os.fspath(home)), "jobs", job_id)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> JobDirectory:
        """Return the job directory that lies at `path`."""
        jobs, job_id = os.path.split(os.path.abspath(os.fspath(path)))
        return cls(os.path.dirname(jobs), job_id)

    @property
    def spec(self) -> str:
        return os.path.join(self.path, "spec.json")

    @property
    def request(self) -> str:
        """What was asked: the command, its options, and where it was given."""
        return os.path.join(self.path, "request.json")

    @property
    def state(self) -> str:
        return os.path.join(self.path, "state.json")

    @property
    def events(self) -> str:
        return os.path.join(self.path, "events.jsonl")

    @property
    def cancel(self) -> str:
        return os.path.join(self.path, "cancel")

    @property
    def code(self) -> str:
        return os.path.join(self.path, "code")

    @property
    def supervisor_log(self) -> str:
        """What the supervisor itself has to say: empty unless it met an error of its own."""
        return os.path.join(self.path, "supervisor.log")

    @property
    def mover(self) -> RoleDirectory:
        """The folder of the process that copies staged files; its stderr is for the user."""
        return RoleDirectory(os.path.join(self.path, "mover"))

    @property
    def publisher(self) -> RoleDirectory:
        """The folder of the process that publishes exports; its stdout is for the user."""
        return RoleDirectory(os.path.join(self.path, "publisher"))

    def role(self, label: str, attempt: int = 1) -> RoleDirectory:
        """Return the folder of the role called `label`, for example `worker-0`."""
        return RoleDirectory(os.path.join(self.path, "attempts", str(attempt), label))

    def printing(self) -> list[RoleDirectory]:
        """Return the folders of all processes whose output is for the user."""
        mover, publisher = (
            [one] if os.path.isdir(one.path) else [] for one in (self.mover, self.publisher)
        )
        return [*mover, *self.roles(), *publisher]

    def roles(self) -> list[RoleDirectory]:
        """Return the folders of all roles that have been started, attempt by attempt."""
        attempts = os.path.join(self.path, "attempts")
        return [
            self.role(label, int(attempt))
            for attempt in sorted(filter(str.isdigit, _names(attempts)), key=int)
            for label in sorted(_names(os.path.join(attempts, attempt)))
        ]

    def __fspath__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobDirectory) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"JobDirectory({self.path!r})"


def home() -> str:
    """Return the folder of all records: PAI_HOME, else ~/.pai_runner. It may not exist yet."""
    return os.path.abspath(os.path.expanduser(os.environ.get("PAI_HOME") or "~/.pai_runner"))


def new_id() -> str:
    """Return an id that sorts by time (UTC) and is like no other: 20261121-051452-k3x9qz."""
    letters = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(6))
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{letters}"


def create(records_home: str | os.PathLike[str] | None = None) -> JobDirectory:
    """Make the folder of a new job, readable by its owner alone, and return it.

    Raises SetupError when the home cannot be written.
    """
    base = home() if records_home is None else os.fspath(records_home)
    return JobDirectory(base, new_folder(base, "jobs"))


def new_folder(base: str, kind: str) -> str:
    """Make a folder with a new id in `<base>/<kind>`, readable by its owner alone; return the id.

    Raises SetupError when the home cannot be written.
    """
    try:
        if not os.path.isdir(base):
            os.makedirs(base, mode=_PRIVATE, exist_ok=True)
        os.makedirs(os.path.join(base, kind), mode=_PRIVATE, exist_ok=True)
        while True:
            new = new_id()
            try:
                os.mkdir(os.path.join(base, kind, new), _PRIVATE)
            except FileExistsError:
                continue
            return new
    except OSError as error:
        raise SetupError(
            f"the records' home {base} cannot be written: {error.strerror}",
            "set PAI_HOME to a folder that you may write, with free space",
        ) from error


def all_ids(records_home: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the ids of all jobs, newest first. Raises SetupError when they cannot be listed."""
    return ids_in(home() if records_home is None else os.fspath(records_home), "jobs")


def ids_in(base: str, kind: str) -> list[str]:
    """Return the ids of `<base>/<kind>`, newest first. Raises SetupError."""
    folder = os.path.join(base, kind)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SetupError(
            f"the records in {folder} cannot be read: {error.strerror}",
            "set PAI_HOME to the folder that holds your records",
        ) from error
    return sorted(names, reverse=True)


def find(text: str, records_home: str | os.PathLike[str] | None = None) -> JobDirectory:
    """Return the job that `text` names: an id, a start of one, or a start of its last part.

    Raises UsageError, listing the candidates, when it names no job or several.
    """
    base = home() if records_home is None else os.fspath(records_home)
    ids = all_ids(base)
    found = only_match(text, ids, "jobs")
    if found is not None:
        return JobDirectory(base, found)
    known = f"the newest are: {_some(ids)}" if ids else "there are no records yet"
    raise UsageError(f"there is no job `{text}` in {base}", known)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def matching(text: str, ids: list[str]) -> list[str]:
    """Return those of `ids` that `text` names: the id itself, else all that it is a start of."""
    if text in ids:
        return [text]
    return [one for one in ids if text and _matches(one, text)]


def only_match(text: str, ids: list[str], kind: str) -> str | None:
    """Return the one of `ids` that `text` names; None where there is none.

    Raises UsageError, listing the candidates, when there are several of that kind.
    """
    matches = matching(text, ids)
    if len(matches) > 1:
        raise UsageError(f"`{text}` names {len(matches)} {kind}", f"one of: {_some(matches)}")
    return matches[0] if matches else None


def _matches(job_id: str, text: str) -> bool:
    return job_id.startswith(text) or job_id.rpartition("-")[2].startswith(text)


def _some(ids: list[str], most: int = 8) -> str:
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")
