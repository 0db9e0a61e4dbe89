"""`pai doctor`: looks at everything that a run depends on, and says what is missing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pai_runner.entry import module_command, search_path
from pai_runner.errors import PaiError
from pai_runner.location import Location
from pai_runner.run.access import Access, check_servers, ignores_roles
from pai_runner.run.devices import list_gpus
from pai_runner.secret import redact

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `ok` is None where it is missing but not needed."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def checks(locations: list[Location], cwd: Path, role: str | None = None) -> Iterator[Check]:
    """Yield what was found, one thing at a time; the first ones are quick.

    `role` is the text of --role.
    """
    yield _python()
    yield _compiled_part()
    yield _gpus()
    yield _tensorflow()
    yield _amazon_credentials()
    yield _alibaba_credentials()
    for location in locations:
        yield _location(location, cwd, role)


def _python() -> Check:
    version = platform.python_version()
    supported = sys.version_info >= (3, 10)
    return Check("python", supported, f"{version} ({sys.executable})", "use Python 3.10 to 3.13")


def _compiled_part() -> Check:
    library = _PACKAGE / "script" / "_filesystem.so"
    if library.exists():
        return Check("compiled part", True, str(library))
    return Check(
        "compiled part",
        False,
        "not built: TensorFlow cannot reach buckets (local folders work)",
        "install gcc, then install pai_runner again: pip install --force-reinstall --no-deps .",
    )


def _gpus() -> Check:
    gpus, problem = list_gpus()
    if not gpus:
        return Check("GPUs", None, problem or "none", "jobs run on the CPU")
    shown = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus)
    return Check("GPUs", True, shown)


def _tensorflow() -> Check:
    """Import TensorFlow in a process of its own, and write and read through the bridge there."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    found = subprocess.run(
        module_command("pai_runner.script.selfcheck"),
        env={**os.environ, **quiet, "PYTHONPATH": search_path()},
        capture_output=True,
        text=True,
    )
    if found.returncode == 0:
        return Check("TensorFlow", True, found.stdout.strip())
    lines = redact(found.stderr).strip().splitlines() or [f"exit code {found.returncode}"]
    return Check("TensorFlow", False, lines[-1], "pip install tensorflow tf_keras")


def _amazon_credentials() -> Check:
    """Look for AWS credentials where botocore looks, and say where they come from."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        # Asking a cloud's metadata service would wait for seconds on any other machine.
        provider = session.get_component("credential_provider")
        provider.remove("iam-role")
        provider.remove("container-role")
        credentials = session.get_credentials()
    except BotoCoreError as error:
        return Check("AWS credentials", False, redact(str(error)), "mend your AWS settings")
    if credentials is None:
        return Check(
            "AWS credentials",
            None,
            "none in the environment or in ~/.aws",
            "needed for s3:// locations only; instance roles are not asked here",
        )
    return Check("AWS credentials", True, f"from {credentials.method}")


def _alibaba_credentials() -> Check:
    """Look for the user's own keys of Alibaba; the machine's own role is not asked for."""
    from pai_runner.storage.credentials import credential_source

    here = {**os.environ, "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}
    try:
        source = credential_source({}, here)
        source.get()
    except PaiError as error:
        hint = f"needed for oss:// locations only; {error.hint}"
        return Check("Alibaba credentials", None, str(error), hint)
    return Check("Alibaba credentials", True, f"from {source.description}")


def _location(location: Location, cwd: Path, role: str | None) -> Check:
    name = str(location)
    try:
        if location.is_local:
            return _local_location(name, cwd / Path(location.path).expanduser())
        return _remote_location(name, location.directory(), role)
    except PaiError as error:
        return Check(name, False, str(error), error.hint or "")


def _local_location(name: str, folder: Path) -> Check:
    if not folder.exists():
        parent = next(parent for parent in folder.resolve().parents if parent.exists())
        problem = _write_problem(parent)
        state = f"nothing can be made in {parent}: {problem}" if problem else "it can be made"
        hint = "name another folder, or mend its permissions"
        return Check(name, problem is None, f"does not exist yet; {state}", hint)
    if not folder.is_dir():
        return Check(name, folder.is_file(), "a file" if folder.is_file() else "not a folder")
    problem = _write_problem(folder)
    if problem:
        return Check(name, False, f"not writable: {problem}", "mend its permissions")
    return Check(name, True, "can be read and written")


def _write_problem(folder: Path) -> str | None:
    """Return why nothing can be written in `folder`, or None. Trying is the only sure way."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _remote_location(name: str, location: Location, role: str | None) -> Check:
    """List the location, then write, read and delete a small object in it."""
    from pai_runner.storage.failures import describe_error
    from pai_runner.storage.filesystems import check_directory, filesystem, options_at

    access = Access.of([location], "doctor", ignores_roles(role))
    check_servers([location])
    options = options_at(location.prefix, access.options(location))
    remote = filesystem(location.protocol, options)
    check_directory(remote, location.prefix)
    probe = f"{location.prefix}.pai-doctor-{uuid.uuid4().hex}"
    try:
        remote.pipe_file(probe, b"pai doctor")
        try:
            read = remote.cat_file(probe)
        finally:
            remote.rm_file(probe)
    except Exception as error:  # any library's error: its kind tells the user nothing
        return Check(name, False, f"can be listed, not written: {describe_error(error)}")
    return Check(name, read == b"pai doctor", "can be listed, written, read and deleted from")
