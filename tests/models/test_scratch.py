"""Folders for models on their way: gone with their process, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from pai_runner.models.scratch import scratch_folder

HOLDS = """
import sys
from pai_runner.models.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_killed_processes_left_is_removed_and_the_living_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        living, killed = (one.stdout.readline().strip() for one in processes if one.stdout)
        processes[1].send_signal(signal.SIGKILL)
        processes[1].wait()
        for folder in (living, killed):
            os.utime(folder, (1, 1))
        young = tmp_path / "pai-model-young"
        young.mkdir()
        with scratch_folder() as own:
            names = {entry.name for entry in tmp_path.iterdir()}
        assert names == {os.path.basename(living), os.path.basename(own), young.name}
        assert {entry.name for entry in tmp_path.iterdir()} == names - {os.path.basename(own)}
    finally:
        for one in processes:
            one.kill()
            one.communicate()
