"""How a recorded job's buckets are opened once more, after its end or beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from pai_runner.errors import SetupError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.location import Location
from pai_runner.run.access import Access, check_servers
from pai_runner.run.plan import Plan
from pai_runner.secret import holds_reference


def read_plan(directory: JobDirectory) -> Plan:
    """Return the plan of a job. Raises SetupError where there is none that can be read."""
    try:
        with open(directory.spec, encoding="utf-8") as file:
            return Plan.from_json(json.load(file))
    except FileNotFoundError:
        reason = "it was never started"
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{directory.spec} is damaged: {error}"
    raise SetupError(
        f"the plan of job {directory.id} cannot be read: {reason}",
        f"look at the record with: pai status {directory.id}",
    )


def mount_options(
    directory: JobDirectory,
    locations: Sequence[Location],
    is_wanted: Callable[[str], bool] = lambda prefix: True,
) -> dict[str, Mapping[str, str]]:
    """Return the options of the job's wanted mounts by prefix, secrets in clear.

    Keys that the job's command held are not on record: `locations` give them once more. Raises
    SetupError, UsageError.
    """
    plan = read_plan(directory)
    mounts = {mount.prefix: mount.options for mount in plan.mounts if is_wanted(mount.prefix)}
    given = [location.directory() for location in locations]
    check_servers(given)
    access = Access.of(given, directory.id, ignores_roles=False)
    mounts.update({location.prefix: access.options(location) for location in given})
    for prefix, options in mounts.items():
        if any(holds_reference(value) for value in options.values()):
            raise SetupError(
                f"the keys of {prefix} are not on record",
                f"give them once more: --location '{prefix}?…', as in the job's command",
            )
    return mounts
