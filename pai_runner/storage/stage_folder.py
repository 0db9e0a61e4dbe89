"""The local folder of a staged location, and how a job takes over what an interrupted one left.

    <job id>-<n>/files/           what the script gets
                 parts/           downloads that are not complete
                 manifest.jsonl   what of it is in the bucket
                 about.json       which location it is, and whose job
                 lock             locked as long as a mover works here

A folder without about.json is never taken over: it holds files for their owner to look at. So does
`<job id>-<n>-left`: what an interrupted job wrote and did not get into the bucket is moved there
when another job takes its folder over. Both stay until their owner removes them.

The root may be shared: what is another user's there, or no staged folder, is left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

from pai_runner.errors import SetupError
from pai_runner.storage.names import is_in_hands, is_pointer, is_temporary
from pai_runner.storage.stage_files import open_for_writing, walk
from pai_runner.storage.stage_manifest import Manifest
from pai_runner.storage.stage_progress import say

_REMOVED = ".removed-"


def digest_of(prefix: str, options: dict[str, str]) -> str:
    """Return what equal locations have in common, without their credentials."""
    endpoint = options.get("endpoint_url") or options.get("host") or ""
    return sha256(f"{prefix}\n{endpoint}".encode()).hexdigest()


class StageFolder:
    """The folder whose `files` a script gets. Take it before use."""

    manifest: Manifest

    def __init__(self, files: str, digest: str) -> None:
        self.files = files
        self.root = os.path.dirname(files)
        self.parts = os.path.join(self.root, "parts")
        self._digest = digest
        self._lock = -1

    def take(self) -> None:
        """Make the folder, or take over that of an interrupted job of the same location.

        Raises SetupError.
        """
        try:
            os.makedirs(os.path.dirname(self.root), mode=0o700, exist_ok=True)
            if not self._is_ours(self.root):
                if os.path.lexists(self.files):
                    raise OSError("it holds other files")
                self._adopt()
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            self._open()
            for folder in (self.files, self.parts):
                os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def attach(self) -> None:
        """Take over the folder of this job from a mover that died. Raises SetupError."""
        try:
            os.stat(self.root)
            self._open()
        except OSError as error:
            raise self._unusable(error) from error

    def keep(self) -> None:
        """Leave the folder to its owner: no later job takes it over."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, "about.json"))

    def remove(self) -> None:
        """Remove the folder with all that is in it. Raises OSError."""
        _remove(self.root)

    def _open(self) -> None:
        if self._lock < 0:
            self._lock = _lock(self.root)
        if self._lock < 0:
            raise OSError("another mover works in it")
        _write_json(
            os.path.join(self.root, "about.json"),
            {"digest": self._digest, "owner": _identity(os.getppid())},
        )
        self.manifest = Manifest(os.path.join(self.root, "manifest.jsonl"))

    def _adopt(self) -> None:
        """Rename the newest folder of the location to this one, and remove the others."""
        for name in os.listdir(os.path.dirname(self.root)):
            path = os.path.join(os.path.dirname(self.root), name)
            if name.startswith(_REMOVED) and _is_own(path):
                # Interrupted, or under way: then both remove what they find.
                shutil.rmtree(path, ignore_errors=True)
        for root in sorted(self._abandoned(), key=_age):
            lock = _lock(root)
            if lock < 0:
                continue
            _set_aside(root)
            if self._lock < 0 and not os.path.exists(self.root):
                os.rename(root, self.root)
                self._lock = lock
            else:
                _remove(root)
                os.close(lock)

    def _abandoned(self) -> Iterator[str]:
        """Yield the folders of this location whose job is no more."""
        parent = os.path.dirname(self.root)
        for name in os.listdir(parent):
            root = os.path.join(parent, name)
            if self._is_ours(root) and not _is_alive(_about(root)["owner"]):
                states = walk(os.path.join(root, "files")).files.values()
                # Something of that job may have outlived it.
                if not open_for_writing(state.file for state in states):
                    yield root

    def _is_ours(self, root: str) -> bool:
        return _about(root).get("digest") == self._digest and _is_own(root)

    def _unusable(self, error: OSError) -> SetupError:
        reason = error.strerror or str(error)
        return SetupError(
            f"{self.root} cannot be used for staging: {reason}",
            "set PAI_STAGE_DIR to a folder on a local disk with space",
        )


def _lock(root: str) -> int:
    """Return a descriptor that locks the folder, or -1: another has it, or it was renamed."""
    path = os.path.join(root, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return -1


def _about(root: str) -> dict[str, Any]:
    """Return the folder's about.json; empty where there is none that can be read."""
    try:
        with open(os.path.join(root, "about.json"), encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) and about.keys() == {"digest", "owner"} else {}


def _is_own(path: str) -> bool:
    """Tell whether it is a directory of this user."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _age(root: str) -> float:
    """Return a number that is the smaller the later the folder was worked in."""
    with suppress(FileNotFoundError):
        return -os.path.getmtime(os.path.join(root, "manifest.jsonl"))
    return 0.0


def _write_json(path: str, value: Any) -> None:
    """Replace the file at once: a reader never sees half of it."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(temporary, path)


def _remove(root: str) -> None:
    """Remove a folder. It loses its name first, so that nobody takes half of it for whole."""
    parent, name = os.path.split(root)
    dead = os.path.join(parent, f"{_REMOVED}{name.removeprefix(_REMOVED)}")
    os.rename(root, dead)
    # A job that starts meanwhile removes it as well; what is left over goes with a later one.
    shutil.rmtree(dead, ignore_errors=True)


def _set_aside(root: str) -> None:
    """Make an interrupted job's folder fit for another job, and lose nothing of it.

    Files that are newer than their copy in the bucket go to a folder that is not taken over.
    """
    files, aside = os.path.join(root, "files"), f"{root}-left"
    manifest = Manifest(os.path.join(root, "manifest.jsonl"))
    for name, state in walk(files).files.items():
        path, kept = os.path.join(files, name), os.path.join(aside, name)
        is_passing = is_temporary(name) or is_in_hands(name)
        if not (manifest.is_same(name, state) or is_passing or os.path.islink(path)):
            os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
            os.rename(path, kept)
        elif is_pointer(name):  # it may name the folder as it was called; it is fetched anew
            os.unlink(path)
    manifest.close()
    if os.path.isdir(aside):
        say(f"{aside} has what an interrupted job wrote and did not copy to the bucket")


# ====== The job that a folder belongs to: its supervisor, the mover's parent ======


def _identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "start": _start_of(pid)}


def _is_alive(identity: dict[str, Any]) -> bool:
    pid = identity["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's: the number is used again, unless its start says otherwise
    return _start_of(pid) == str(identity["start"])


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks of /proc; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The command's name stands in brackets and may itself hold brackets and blanks.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
