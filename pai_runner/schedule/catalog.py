"""The schedules on record: `<home>/schedules/NAME.json`, one file each.

Beside it lie NAME.state.json (which ticks have been run, and how that ended), NAME.lock (held
while it runs), NAME.log and NAME.log.1 (what cron's runs print).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from pai_runner.entry import pai_command
from pai_runner.errors import SetupError, UsageError, nearest
from pai_runner.jobs.directory import home
from pai_runner.jobs.files import write_atomic
from pai_runner.schedule.ticks import canonical
from pai_runner.schedule.zones import zone

SCHEMA = 1
BACKENDS = ("crontab", "systemd-user", "systemd-system", "serve")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_STATE = ".state"
# As many ticks as a state remembers, and so as many as can be caught up.
REMEMBERED = 31

_PRIVATE = 0o700


@dataclass(frozen=True)
class Schedule:
    """A file of PAI commands and when it is run.

    `folder` is where it runs; `python` has this package; `options` are further words for `pai`;
    `environment` is what is set for `pai`; of the ticks that are due, the last `catch_up` are run
    that have not succeeded. `created` is ISO text: what was due before is not run. `units` is the
    folder of its systemd units; None where it has none, or is of an older `pai`.
    """

    name: str
    file: str
    folder: str
    cron: str
    timezone: str
    backend: str
    created: str
    python: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    catch_up: int = 1
    units: str | None = None

    @property
    def since(self) -> datetime:
        """When it was made; no tick before that is due."""
        return datetime.fromisoformat(self.created)

    def pai(self, *words: str) -> list[str]:
        """Return the command line of `pai` with these arguments."""
        return pai_command(*words, python=self.python)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "options": list(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schedule:
        """Return the schedule that `to_json` gave.

        Raises ValueError, KeyError, TypeError, UsageError for what is none.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, not {SCHEMA}")
        values = {name: data[name] for name in cls.__dataclass_fields__ if name != "units"}
        values["units"] = data.get("units")  # which older records do not have
        texts = ("name", "file", "folder", "cron", "timezone", "backend", "created", "python")
        if not all(isinstance(values[name], str) for name in texts):
            raise ValueError("a text is missing")
        if values["backend"] not in BACKENDS:
            raise ValueError(f"there is no backend `{values['backend']}`")
        values["options"] = tuple(map(str, values["options"]))
        values["environment"] = dict(values["environment"])
        if not all(isinstance(value, str) for value in values["environment"].values()):
            raise ValueError("`environment` has a value that is no text")
        values["catch_up"] = int(values["catch_up"])
        if values["catch_up"] < 1:
            raise ValueError("`catch_up` is less than 1")
        if not isinstance(values["units"], str | None):
            raise ValueError("`units` is no text")
        schedule = cls(**values)
        if schedule.since.tzinfo is None:
            raise ValueError("`created` has no time zone")
        canonical(schedule.cron, with_seconds=True)
        zone(schedule.timezone)
        return schedule


@dataclass(frozen=True)
class Result:
    """How a tick was run. `cyctime` is the tick; `code` is None while it runs, or was cut off."""

    cyctime: str
    started: str
    tries: int = 1
    ended: str | None = None
    code: int | None = None

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.cyctime)


@dataclass(frozen=True)
class History:
    """What has been run of a schedule, the last tick last."""

    results: tuple[Result, ...] = ()

    def of(self, tick: datetime) -> Result | None:
        """Return what is known of a tick."""
        # Instants: in an hour that clocks repeat, times of two zones never equal (PEP 495).
        instant = tick.timestamp()
        return next((one for one in self.results if one.moment.timestamp() == instant), None)

    def succeeded(self, tick: datetime) -> bool:
        result = self.of(tick)
        return result is not None and result.code == 0

    @property
    def last(self) -> Result | None:
        """What was started last."""
        return max(self.results, key=lambda one: one.started, default=None)

    @property
    def last_success(self) -> Result | None:
        """The latest tick that has succeeded, of those remembered."""
        return next((one for one in reversed(self.results) if one.code == 0), None)

    def with_result(self, result: Result) -> History:
        """Return the history with this in its tick's place; the oldest ticks go."""
        others = [one for one in self.results if one.moment != result.moment]
        kept = sorted([*others, result], key=lambda one: one.moment)[-REMEMBERED:]
        return History(tuple(kept))


# ====== Paths ======


def folder() -> str:
    """Return the folder of all schedules. It may not exist yet."""
    return os.path.join(home(), "schedules")


def log_path(name: str) -> str:
    return os.path.join(folder(), f"{name}.log")


def lock_path(name: str) -> str:
    """Return the path of the lock that is held while a schedule is run."""
    return os.path.join(folder(), f"{name}.lock")


def check_name(name: str) -> str:
    """Return `name`. Raises UsageError where it cannot be a schedule's."""
    if not _NAME.fullmatch(name) or name.endswith(_STATE):
        raise UsageError(
            f"`{name}` cannot be the name of a schedule",
            f"letters, digits, `.`, `_` and `-`, a letter or digit first, not ending in {_STATE}",
        )
    return name


def _path(name: str) -> str:
    return os.path.join(folder(), f"{name}.json")


def _history_path(name: str) -> str:
    return _path(name + _STATE)


# ====== Schedules ======


def names() -> list[str]:
    """Return the names of all schedules, sorted. Raises SetupError."""
    try:
        files = os.listdir(folder())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SetupError(f"the schedules in {folder()} cannot be read: {error.strerror}") from error
    found = (os.path.splitext(file) for file in files)
    return sorted(
        stem
        for stem, ending in found
        if ending == ".json" and _NAME.fullmatch(stem) and not stem.endswith(_STATE)
    )


def read(name: str) -> Schedule:
    """Return the schedule of that name.

    Raises UsageError when there is none, SetupError when its file is damaged.
    """
    path = _path(check_name(name))
    try:
        with open(path, encoding="utf-8") as file:
            return Schedule.from_json(json.load(file))
    except FileNotFoundError:
        known = names()
        listed = f"schedules: {', '.join(nearest(name, known) or known)}" if known else None
        hint = listed or "make one with: pai schedule install FILE --cron '0 2 * * *'"
        raise UsageError(f"there is no schedule `{name}` in {folder()}", hint) from None
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise SetupError(
            f"{path} is damaged: {_reason(error)}",
            f"`pai schedule rm {name}` removes it, and what runs it",
        ) from error


def read_all() -> tuple[list[Schedule], list[SetupError]]:
    """Return all schedules by name, and what is wrong with those that cannot be read."""
    schedules, damaged = [], []
    for name in names():
        try:
            schedules.append(read(name))
        except SetupError as error:
            damaged.append(error)
        except UsageError:
            continue  # removed meanwhile
    return schedules, damaged


def write(schedule: Schedule) -> None:
    """Put a schedule on record. Raises SetupError."""
    text = json.dumps(schedule.to_json(), ensure_ascii=False, indent=2)
    _write(_path(check_name(schedule.name)), text, durable=True)


def remove(name: str) -> None:
    """Take a schedule off the record; its log stays. Raises SetupError."""
    for path in (_path(name), _history_path(name), lock_path(name)):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SetupError(f"{path} cannot be removed: {error.strerror}") from error


# ====== What has been run ======


def read_history(name: str) -> History:
    """Return what has been run; nothing where the file is damaged.

    That is safe: `pai --once-per` knows what has succeeded.
    """
    try:
        with open(_history_path(name), encoding="utf-8") as file:
            results = [Result(**one) for one in json.load(file)["results"]]
            history = History(tuple(results))
            if any(one.moment.tzinfo is None for one in results):
                return History()
            return history
    except (OSError, ValueError, KeyError, TypeError):
        return History()


def record(name: str, result: Result) -> None:
    """Put the result of a tick on record. Only who holds the schedule's lock does so.

    It is not written out to the disk: what a crash of the machine loses is only run again, and
    `pai --once-per` knows that it had succeeded. Raises SetupError.
    """
    history = read_history(name).with_result(result)
    data = {"schema": SCHEMA, "results": [vars(one) for one in history.results]}
    _write(_history_path(name), json.dumps(data), durable=False)


def ended(result: Result, code: int, at: str) -> Result:
    """Return a result as it is when its process has ended with `code`."""
    return replace(result, code=code, ended=at)


# ====== Files ======


def make_folder() -> None:
    """Make the folder of all schedules, its owner's alone. Raises SetupError."""
    try:
        os.makedirs(folder(), mode=_PRIVATE, exist_ok=True)
    except OSError as error:
        raise unwritable(error) from error


def _write(path: str, text: str, durable: bool) -> None:
    make_folder()
    try:
        write_atomic(path, f"{text}\n".encode(), durable)
    except OSError as error:
        raise unwritable(error) from error


def unwritable(error: OSError) -> SetupError:
    """Return the error for a folder of schedules that cannot be written."""
    return SetupError(
        f"the schedules in {folder()} cannot be written: {error.strerror}",
        "set PAI_HOME to a folder that you may write, with free space",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return getattr(error, "strerror", None) or str(error)
