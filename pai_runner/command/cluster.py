"""The roles that -Dcluster asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from pai_runner.errors import ParameterError, nearest

ROLES = ("ps", "worker", "chief", "evaluator")
_RESOURCES = ("count", "cpu", "gpu", "memory")
_EXAMPLE = """write for example -Dcluster='{"worker": {"count": 1, "gpu": 100}}'"""


@dataclass(frozen=True)
class ClusterRole:
    """The processes of one role. What is None was not given.

    `cpu` and `gpu` are of each process, 100 for a core or a card; `memory` is in MB.
    """

    name: str
    count: int = 1
    cpu: int | None = None
    gpu: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Cluster:
    """The roles of a job, in the order given."""

    roles: tuple[ClusterRole, ...]

    @property
    def processes(self) -> int:
        """The number of processes of all roles."""
        return sum(role.count for role in self.roles)

    def __str__(self) -> str:
        return ", ".join(f"{role.count} {role.name}" for role in self.roles)


def parse_cluster(text: str) -> Cluster:
    """Return the cluster of a JSON object of roles. Raises ParameterError."""
    try:
        roles = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ParameterError("cluster", f"cluster is not JSON: {error}", _EXAMPLE) from error
    if not isinstance(roles, dict) or not roles:
        raise ParameterError("cluster", "cluster is not a JSON object of roles", _EXAMPLE)
    return Cluster(tuple(_role(name, resources) for name, resources in roles.items()))


def single_role(cluster: Cluster) -> ClusterRole:
    """Return the role of a cluster's only process.

    Raises ParameterError for several processes, for none, and for one that cannot work alone.
    """
    if cluster.processes > 1:
        raise ParameterError(
            "cluster",
            f"cluster asks for {cluster.processes} processes ({cluster}); several are not run yet",
            "leave -Dcluster out to run one process",
        )
    for role in cluster.roles:
        if role.count and role.name in ("worker", "chief"):
            return role
    raise ParameterError("cluster", f"cluster has no worker ({cluster})", _EXAMPLE)


def _role(name: str, resources: object) -> ClusterRole:
    if name not in ROLES:
        raise _unknown(f"cluster has an unknown role `{name}`", name, ROLES)
    if not isinstance(resources, dict):
        raise ParameterError("cluster", f"cluster: `{name}` is not a JSON object", _EXAMPLE)
    for key, value in resources.items():
        if key not in _RESOURCES:
            raise _unknown(f"cluster: `{name}` has an unknown entry `{key}`", key, _RESOURCES)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ParameterError(
                "cluster",
                f"cluster: `{key}` of `{name}` is {json.dumps(value)}, not an integer of 0 or more",
                _EXAMPLE,
            )
    return ClusterRole(name, **resources)


def _unknown(message: str, name: str, valid: Iterable[str]) -> ParameterError:
    close = nearest(name, valid)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    return ParameterError(
        "cluster", message + meant, f"valid: {', '.join(valid)}", suggestions=close
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`{twice}` is given twice")
    return found
