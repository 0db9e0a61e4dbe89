"""Which remote locations of a job are mounted, with which options, and where staged ones lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pai_runner.command import Job
from pai_runner.errors import SetupError
from pai_runner.jobs.directory import JobDirectory, home
from pai_runner.location import Location
from pai_runner.run.access import Access
from pai_runner.run.plan import Mount
from pai_runner.run.secrets import SecretStore
from pai_runner.secret import is_secret_name
from pai_runner.storage.names import has_plain_parts


def stage_root(directory: JobDirectory, environment: Mapping[str, str] = os.environ) -> str:
    """Return where the staged folders of a job lie: `….-1`, `….-2` are its first and second."""
    root = environment.get("PAI_STAGE_DIR") or os.path.join(home(), "stage")
    return os.path.join(os.path.abspath(os.path.expanduser(root)), directory.id)


def pending_folder(mounts: Iterable[Mount], root: str) -> str:
    """Return where a job's checkpoints wait for their upload; empty where it writes to no bucket.

    `root` is that of the staged folders: the same disk has the space.
    """
    return f"{root}-pending" if any(mount.mode == "stream" for mount in mounts) else ""


def plan_mounts(job: Job, access: Access, store: SecretStore, root: str) -> tuple[Mount, ...]:
    """Return the job's mounts; secrets go into `store`. `root` begins the staged folders' names.

    Raises SetupError when one prefix is given twice in different ways.
    """
    mounts: dict[str, Mount] = {}
    for purpose, locations in job.directories.items():
        for location in locations:
            if location.is_local:
                continue
            mount = _mount(location, purpose, job.mount, access, store)
            _refuse_two_ways(mounts.setdefault(mount.prefix, mount), mount, store)
    return _with_folders(mounts, root, store)


def _mount(
    location: Location, purpose: str, mode: str, access: Access, store: SecretStore
) -> Mount:
    options = {
        name: store.put(f"{purpose}.{name}", value)
        if is_secret_name(name, in_query=True)
        else value
        for name, value in access.options(location).items()
    }
    return Mount(location.prefix, location.protocol, purpose, options, mode=location.mount or mode)


def _are_opened_alike(first: Mount, second: Mount, store: SecretStore) -> bool:
    def plain(mount: Mount) -> dict[str, str]:
        return {name: store.reveal(value) for name, value in mount.options.items()}

    return plain(first) == plain(second)


def _refuse_two_ways(first: Mount, second: Mount, store: SecretStore) -> None:
    """Refuse one prefix that is given twice with different options: the script names only it."""
    if first.mode != second.mode or not _are_opened_alike(first, second, store):
        raise SetupError(
            f"{first.prefix} is given with different options by -D{first.purpose} and"
            f" -D{second.purpose}",
            "give it the same options in both, or name a folder below it in one of them",
        )


def _with_folders(mounts: Mapping[str, Mount], root: str, store: SecretStore) -> tuple[Mount, ...]:
    """Give staged mounts their folders.

    One that lies in another, and is opened alike, is a folder of it: so a script finds in the one
    what it wrote into the other, as in the bucket.
    """
    outer: list[Mount] = []
    folders: dict[str, str] = {}
    for mount in sorted(mounts.values(), key=lambda mount: mount.prefix):
        if mount.mode != "stage":
            continue
        _refuse_odd_parts(mount)
        above = next((one for one in outer if _holds(one, mount, store)), None)
        if above is None:
            folder = os.path.join(f"{root}-{len(outer) + 1}", "files")
            outer.append(replace(mount, folder=folder))
        else:
            folder = os.path.join(above.folder, mount.prefix.removeprefix(above.prefix).strip("/"))
        folders[mount.prefix] = folder
    return tuple(replace(mount, folder=folders.get(prefix, "")) for prefix, mount in mounts.items())


def _refuse_odd_parts(mount: Mount) -> None:
    """Refuse what a local folder cannot stand for, or what would lead out of it."""
    if not has_plain_parts(mount.prefix.partition("://")[2].rstrip("/")):
        raise SetupError(
            f"{mount.prefix} cannot be staged: it has an empty part, `.` or `..`",
            f"write the location of -D{mount.purpose} without it, or use mount=stream",
        )


def _holds(outer: Mount, inner: Mount, store: SecretStore) -> bool:
    return inner.prefix.startswith(outer.prefix) and _are_opened_alike(outer, inner, store)
