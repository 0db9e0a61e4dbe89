"""Staged jobs killed at any moment: the bucket holds whole files in order, and the next job ends
right.

The moments come from a seeded generator; PAI_PROOF_COUNT says how many.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoint_writer
import pytest
from mover_process import Job, Mover, OSSPlace, Place, S3Place

COUNT = int(os.environ.get("PAI_PROOF_COUNT", "6"))
VICTIMS = ("mover", "script", "both")


@contextmanager
def script(folder: Path, steps: int, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, checkpoint_writer.__file__, str(folder), str(steps), str(seed)],
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def assert_in_order(place: Place) -> None:
    names = place.names()
    assert checkpoint_writer.problems(names, place.read) == []


def run_until(process: subprocess.Popen[bytes], moment: float) -> None:
    """Wait until the script has saved a few steps, and then `moment` seconds."""
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(moment)


def end_in_order(mover: Mover, folder: Path, place: Place, seed: int) -> None:
    """Run the script to its end, and check that all it left is in the bucket."""
    with script(folder, 6, seed) as process:
        process.communicate()
        assert process.returncode == 0
    wanted = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".temp" not in path.name and ".tmp" not in path.name
    }
    wanted["checkpoint"] = wanted["checkpoint"].replace(f"{folder}/".encode(), b"")
    finished = mover.finish()
    assert (finished["conflicts"], finished["not_copied"], finished["error"]) == ([], [], "")
    assert place.names() == wanted.keys()
    assert {name: place.read(name) for name in wanted} == wanted
    assert_in_order(place)


@pytest.mark.slow
@pytest.mark.proof_staging
@pytest.mark.parametrize("seed", range(COUNT))
def test_killed_at_any_moment(seed: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    victim = VICTIMS[seed % 3]
    kind = "s3" if seed % 2 else "oss"
    location = request.getfixturevalue(f"{kind}_location")
    server = request.getfixturevalue(f"{kind}_server")
    place: Place = S3Place(location, server) if kind == "s3" else OSSPlace(location, server)
    chance = random.Random(seed)
    first = Job(tmp_path, "first", [place])
    with first.mover() as mover:
        mover.staged()
        folder = first.folder()
        with script(folder, 1000, seed) as process:
            run_until(process, chance.uniform(0.0, 3.0))
            if victim != "script":
                mover.kill()
                assert_in_order(place)
            if victim == "mover":
                with first.mover("attach") as heir:
                    heir.staged()
                    run_until(process, chance.uniform(0.0, 1.0))
                    heir.kill()
                    assert_in_order(place)
            process.kill()
        if victim == "script":
            finished = mover.finish("killed")
            assert (finished["conflicts"], finished["error"]) == ([], "")
            assert_in_order(place)
        else:
            first.abandon()
    second = Job(tmp_path, "second", [place])
    with second.mover() as mover:
        mover.staged()
        end_in_order(mover, second.folder(), place, seed + 1)
