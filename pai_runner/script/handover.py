"""What the launcher hands to a role's process: the plan in spec.json, and the secrets.

Only plain values are read here, and only what the script's process needs: this module is on the
path of every start, so it imports nothing heavy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pai_runner.errors import SetupError
from pai_runner.secret import receive, resolve

if TYPE_CHECKING:
    from typing import Any


class Mount:
    """A remote location that the script reaches itself; `options` hold secrets in plain text."""

    __slots__ = ("options", "prefix", "protocol")

    def __init__(self, prefix: str, protocol: str, options: dict[str, str]) -> None:
        self.prefix = prefix
        self.protocol = protocol
        self.options = options


class Handover:
    """One role of a plan, ready to be run in this process.

    `arguments` become `sys.argv[1:]`, `source_roots` follow the script's folder on `sys.path`,
    `folders` are made before it starts, `secrets` are the values that no text of ours may show.
    """

    __slots__ = (
        "arguments",
        "folders",
        "mounts",
        "role_directory",
        "script",
        "secrets",
        "source_roots",
        "tf_api",
    )

    def __init__(
        self,
        plan: Mapping[str, Any],
        role: Mapping[str, Any],
        secrets: Mapping[str, str],
        role_directory: str,
    ) -> None:
        def plain(text: str) -> str:
            try:
                return resolve(text, secrets)
            except KeyError as error:
                raise SetupError(
                    f"the secret {error} was not handed over",
                    "start the job again with `pai`, which resolves it anew",
                ) from None

        self.role_directory = role_directory
        self.script: str = role["script"]
        self.arguments = [plain(argument) for argument in role["arguments"]]
        self.source_roots = [os.path.abspath(root) for root in plan["source_roots"]]
        self.folders: list[str] = plan["folders"]
        self.tf_api: str = plan["tf_api"]
        self.mounts = [
            Mount(
                mount["prefix"],
                mount["protocol"],
                {name: plain(value) for name, value in mount["options"].items()},
            )
            for mount in plan["mounts"]
            if mount["mode"] == "stream"
        ]
        self.secrets = list(secrets.values())


def read_handover(environment: Mapping[str, str] = os.environ) -> Handover:
    """Return what the launcher hands over through the environment and a descriptor.

    Every secret is known to `redact` from then on. Raises SetupError.
    """
    secrets = _read_secrets(environment)
    job_directory = _variable(environment, "PAI_JOB_DIR")
    role_directory = _variable(environment, "PAI_ROLE_DIR")
    label = os.path.basename(os.path.normpath(role_directory))
    specification = os.path.join(job_directory, "spec.json")
    plan = _read(specification, lambda: _parse_file(specification))
    try:
        roles = {f"{role['name']}-{role['index']}": role for role in plan["roles"]}
        if label not in roles:
            raise SetupError(f"{specification} has no role `{label}`", f"roles: {', '.join(roles)}")
        return Handover(plan, roles[label], secrets, role_directory)
    except KeyError as error:
        raise SetupError(
            f"{specification} lacks {error}",
            "another version of pai_runner wrote it: start the job again with this one",
        ) from error


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SetupError(f"{name} is not set", "this program is started by `pai`, not by hand")
    return value


def _read_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    descriptor = _variable(environment, "PAI_SECRETS_FD")
    return _read(f"descriptor {descriptor}", lambda: receive(int(descriptor)))


def _read(name: str, parse: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return parse()
    except (OSError, ValueError) as error:
        # A ValueError of the JSON parser quotes no content, only a position.
        raise SetupError(f"{name} cannot be read: {error}", "start the job again") from None


def _parse_file(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as stream:
        values: dict[str, Any] = json.load(stream)
    return values
