"""The plan of a job: everything an engine needs to run it, and nothing that is secret.

A plan is frozen and goes to JSON and back unchanged: `pai explain` prints the very object that
a run submits, and the job's record keeps it as spec.json. Where a value is secret the plan
holds a reference, `${secret:NAME}` (see `pai_runner.secret`); the values travel beside it,
through a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Mount:
    """A remote location of the script.

    `prefix` names it (`s3://bucket/dir/`), `options` are its filesystem's, values possibly
    references. `purpose` is the parameter that named it. By `mode`, TensorFlow and fsspec reach
    it in the script's process (`stream`), or its files are copied to `folder` before the script
    starts, and back (`stage`).
    """

    prefix: str
    protocol: str
    purpose: str
    options: Mapping[str, str] = field(default_factory=dict)
    mode: str = "stream"
    folder: str = ""


@dataclass(frozen=True)
class RolePlan:
    """One process of the job.

    `arguments` become `sys.argv[1:]`; they are handed over inside the process, never in argv,
    so they may hold references. `environment` holds additions to the inherited environment.
    `devices` are GPU UUIDs, empty for the CPU.
    """

    name: str
    index: int
    interpreter: str
    script: str
    arguments: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str]
    devices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The role's folder and log name, for example `worker-0`."""
        return f"{self.name}-{self.index}"


@dataclass(frozen=True)
class Publish:
    """What is done with the models that the script exports, when it has ended well.

    They are looked for below `location`: a mount's prefix or a local folder, with a final `/`.
    The newest `keep` versions of each model are kept, all for None.
    """

    location: str
    keep: int | None


@dataclass(frozen=True)
class Limits:
    """When to end the job. Seconds; None is no limit."""

    total_seconds: float | None = None
    no_progress_seconds: float | None = None
    grace_seconds: float = 60.0


@dataclass(frozen=True)
class Plan:
    """A job, ready to run.

    `code` is the folder that holds the script (and its archive), `source_roots` those that hold
    modules of its own. `folders` are local ones that the command names for output: they are made
    right before the script starts, when all else has been found in order. In `pending` on this
    machine lies what the script saves in the background, until it is in the bucket; empty where
    it has no bucket.
    """

    job_id: str
    job_name: str
    algorithm: str
    command: str
    code: str
    tf_api: str
    tf_api_reason: str
    roles: tuple[RolePlan, ...]
    mounts: tuple[Mount, ...]
    limits: Limits
    source_roots: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    publish: Publish | None = None
    pending: str = ""
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` gave. Raises ValueError for another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"plan of schema {data.get('schema')!r}; this version reads {SCHEMA}")
        values = dict(data)
        values["roles"] = tuple(_role_from_json(role) for role in data["roles"])
        values["mounts"] = tuple(Mount(**mount) for mount in data["mounts"])
        values["limits"] = Limits(**data["limits"])
        # Plans of before have none.
        values["publish"] = Publish(**data["publish"]) if data.get("publish") else None
        for name in ("source_roots", "folders", "notices"):
            values[name] = tuple(data[name])
        return cls(**values)


def _role_from_json(data: Mapping[str, Any]) -> RolePlan:
    lists = {name: tuple(data[name]) for name in ("arguments", "devices")}
    return RolePlan(**{**data, **lists})
