"""Keeping a run: in this process until its end, or in the background."""

from __future__ import annotations

import json
import os
import sys
import traceback

from pai_runner.errors import ExitCode, SetupError
from pai_runner.jobs.runs import RunDirectory
from pai_runner.runs.keeper import Keeper
from pai_runner.secret import redact


def keep(prepared: tuple[RunDirectory, Keeper], detach: bool, as_json: bool) -> int:
    """Keep a run to its end, or with `detach` print its id and let another process do it.

    With `as_json` the last line on standard output is the run. Returns the exit code.
    """
    directory, keeper = prepared
    if not detach:
        run = keeper.keep()
        if as_json:
            # A script's last line may have no end.
            print("\n" + json.dumps(run.to_json(), ensure_ascii=False), flush=True)
        return run.exit_code or ExitCode.OK
    _in_background(directory, keeper)
    print(json.dumps({"id": directory.id}) if as_json else directory.id)
    return ExitCode.OK


def _in_background(directory: RunDirectory, keeper: Keeper) -> None:
    """Let a process of its own session keep the run; return when the run is on record.

    Raises SetupError.
    """
    ready, begun = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ready)
            os.setsid()
            if os.fork() == 0:
                _become_keeper(directory)
                code = keeper.keep(on_record=lambda: os.close(begun)).exit_code or 0
            else:
                code = 0
        except BaseException:
            # Nothing above this process tells of it: what follows ends it at once.
            print(redact(traceback.format_exc()), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    os.close(begun)
    os.waitpid(child, 0)
    with os.fdopen(ready, "rb") as pipe:
        pipe.read()  # ends when the keeper has written its record, or is dead
    if not os.path.exists(directory.record):
        raise SetupError(
            f"the run could not be started in the background: see {directory.log}",
            "without --detach it says what is wrong",
        )


def _become_keeper(directory: RunDirectory) -> None:
    """Give the standard streams to the run's log: the terminal may go."""
    log = os.open(directory.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
