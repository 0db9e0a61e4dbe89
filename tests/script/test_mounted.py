"""`oss://` for fsspec in the script's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from oss_server import OSSServer
from support import ROOT

SCRIPT = """
    import json, os, signal, sys, threading
    from pai_runner.script.handover import Mount
    from pai_runner.script import mounted
    import fsspec
    prefix, options = sys.argv[1], json.load(sys.stdin)
    mounted.serve(fsspec, [Mount(prefix, "oss", options)])
"""


def run(text: str, prefix: str, server: OSSServer) -> subprocess.CompletedProcess[str]:
    import json

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT) + textwrap.dedent(text), prefix],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(server.options),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_forked_child_is_not_held_up_by_the_parents_threads(
    oss_server: OSSServer, oss_location: str
) -> None:
    ran = run(
        """
        store = mounted._stores.of(prefix + "x")
        held = threading.Event()
        def hold():
            with store._making:
                held.set()
                threading.Event().wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        if os.fork() == 0:
            signal.alarm(20)
            fsspec.filesystem("oss").pipe_file(prefix + "x", b"from the child")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        """,
        oss_location,
        oss_server,
    )
    assert ran.stdout == "0\n", (ran.stdout == f"{-signal.SIGALRM}\n", ran.stderr)


def test_a_filesystem_has_no_secrets_to_give_away(oss_server: OSSServer, oss_location: str) -> None:
    ran = run(
        """
        import pickle
        fs = fsspec.filesystem("oss")
        print(repr(fs), fs.to_json(), pickle.dumps(fs))
        again = pickle.loads(pickle.dumps(fs))
        again.pipe_file(prefix + "x", b"x")
        assert fs.cat_file(prefix + "x") == b"x"
        """,
        oss_location,
        oss_server,
    )
    assert ran.returncode == 0, ran.stderr
    for secret in (oss_server.options["access_key_id"], oss_server.options["access_key_secret"]):
        assert secret not in ran.stdout


def test_a_process_that_knows_no_mounts_says_so() -> None:
    from pai_runner.errors import SetupError
    from pai_runner.script.mounted import MountedOSSFileSystem

    with pytest.raises(SetupError, match="not known in this process"):
        MountedOSSFileSystem()
