"""TensorBoard in a process of its own, whose TensorFlow reads buckets as a job's script does.

`python -m pai_runner.script.board` is what `pai tensorboard` becomes. PAI_TENSORBOARD holds JSON:
`mounts`, each with a prefix, a protocol and options that hold references for secrets, and
`arguments`, those of TensorBoard's own command line. The secrets come through the descriptor that
PAI_SECRETS_FD names.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pai_runner.errors import ExitCode, PaiError, SetupError
from pai_runner.script.failure import redact_threads, report_setup
from pai_runner.script.handover import Mount
from pai_runner.secret import receive, resolve


def main(request: Mapping[str, Any], secrets: Mapping[str, str]) -> int:
    """Serve until the process is told to end. Returns the exit code."""
    # `-m` puts the current folder first, where modules of the user's may lie.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    try:
        if find_spec("tensorboard") is None:
            raise SetupError(
                f"{sys.executable} has no TensorBoard",
                f"{sys.executable} -m pip install tensorboard",
            )
        _open([_mount(one, secrets) for one in request["mounts"]])
    except PaiError as error:
        report_setup(error, "")
        return ExitCode.SETUP
    from tensorboard import main as tensorboard

    sys.argv = ["tensorboard", *request["arguments"]]
    tensorboard.run_main()
    return ExitCode.OK


def _mount(plain: Mapping[str, Any], secrets: Mapping[str, str]) -> Mount:
    options = {name: resolve(value, secrets) for name, value in plain["options"].items()}
    return Mount(plain["prefix"], plain["protocol"], options)


def _open(mounts: Sequence[Mount]) -> None:
    """Let TensorFlow reach the mounts. Raises SetupError for the first that cannot be reached."""
    if not mounts:
        return
    redact_threads()
    from pai_runner.script.filesystem import register
    from pai_runner.script.preflight import check_mounts

    check_mounts(mounts)
    try:
        register(mounts)
    except ImportError as error:
        raise SetupError(
            f"TensorFlow cannot be imported: {error}", f"{sys.executable} -m pip install tensorflow"
        ) from error


if __name__ == "__main__":
    try:
        handed_over = receive(int(os.environ.pop("PAI_SECRETS_FD")))
        sys.exit(main(json.loads(os.environ.pop("PAI_TENSORBOARD")), handed_over))
    except KeyboardInterrupt:
        # Before TensorBoard serves: from then on it takes Ctrl-C for its end itself.
        sys.exit(ExitCode.OK)
