"""Runs the user's script in this process as Python itself would run it."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import NoReturn

from pai_runner.errors import ExitCode, SetupError
from pai_runner.script.failure import redact_threads, report_script, report_setup
from pai_runner.script.handover import Handover, read_handover
from pai_runner.script.imports import NotPreparedError, Settings, install


def main() -> None:
    """Set this process up as its role in the plan says, and run the script as `__main__`.

    Ends as `python script.py` would, or with 125 where the script could not be started; what is
    recorded is said in `failure`.
    """
    role_directory = os.environ.get("PAI_ROLE_DIR", "")
    try:
        handover, source = _set_up()
    except Exception as error:
        _end_setup(error, role_directory)
    _run(handover, source)


def _set_up() -> tuple[Handover, bytes]:
    """Return what is to be run, and the script's source, with this process ready for it."""
    environment = dict(os.environ)
    os.environ.pop("PAI_SECRETS_FD", None)
    handover = read_handover(environment)
    source = _read_script(handover.script)
    folder = os.path.dirname(os.path.realpath(handover.script))
    if handover.mounts:
        from pai_runner.script.preflight import check_mounts

        check_mounts(handover.mounts)
    if handover.mounts or handover.secrets:
        redact_threads()
    _make(handover.folders)
    install(
        Settings(
            tf_api=handover.tf_api,
            source_folders=(folder, *handover.source_roots),
            mounts=handover.mounts,
            secrets=handover.secrets,
            heartbeat=os.path.join(handover.role_directory, "heartbeat"),
        )
    )
    _set_path(folder, handover.source_roots)
    sys.argv = [handover.script, *handover.arguments]
    _dump_stacks_on_demand()
    return handover, source


def _read_script(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise SetupError(
            f"the script {path} cannot be read: {error.strerror}", "check -Dscript and -DentryFile"
        ) from error


def _make(folders: Sequence[str]) -> None:
    for folder in folders:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"the folder {folder} cannot be made: {error.strerror}",
                "name another folder, or mend the permissions of the one above it",
            ) from error


def _set_path(folder: str, source_roots: Sequence[str]) -> None:
    """Put the script's folder, then the roots of its sources, where Python put ours."""
    ours = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(ours):
        del sys.path[0]
    sys.path[:0] = [folder, *(root for root in source_roots if os.path.realpath(root) != folder)]


def _dump_stacks_on_demand() -> None:
    """Let a crash, and a SIGQUIT to a process that hangs, print every thread's stack."""
    if sys.stderr is None:
        return
    import faulthandler
    import signal

    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)


def _run(handover: Handover, source: bytes) -> None:
    path = os.path.abspath(handover.script)
    process = os.getpid()
    module = _main_module(path)
    sys.modules["__main__"] = module
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except NotPreparedError as error:
        # TensorFlow could not be given its file systems, while the script imported it. Any other
        # error of ours is one that the script met, as those of `checkpoint` and `export`.
        _end_setup(error, handover.role_directory)
    except BaseException as error:
        # A process that the script forked ends by itself; the record is not about it.
        report_script(error, handover.role_directory if os.getpid() == process else "")
        raise


def _main_module(path: str) -> ModuleType:
    """Return an empty module as Python prepares it for `python path`."""
    module = ModuleType("__main__")
    module.__loader__ = SourceFileLoader("__main__", path)
    module.__dict__.update(
        __annotations__={}, __builtins__=builtins, __file__=path, __cached__=None
    )
    return module


def _end_setup(error: Exception, role_directory: str) -> NoReturn:
    report_setup(error, role_directory)
    sys.exit(ExitCode.SETUP)
