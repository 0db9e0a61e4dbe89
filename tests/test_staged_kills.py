"""Whole staged jobs, of which a process or all are killed at any moment.

Afterwards the bucket holds whole files in TensorFlow's order, nothing of the job is left, and the
same command goes on from the bucket and ends right. The moments come from a seeded generator;
PAI_PROOF_COUNT says how many kills of each kind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import checkpoint_writer
import pytest
from mover_process import OSSPlace, Place, S3Place
from support import Pai, wait_until

COUNT = max(1, int(os.environ.get("PAI_PROOF_COUNT", "1")) // 10)
VICTIMS = ["launcher", "supervisor", "guard", "script", "mover", "all"]
STEPS = 8

SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(Path(checkpoint_writer.__file__).parent)!r})
import checkpoint_writer
sys.argv[1:1] = [os.environ["PAI_CHECKPOINT_DIR"]]
checkpoint_writer.main()
"""


@pytest.mark.slow
@pytest.mark.proof_staging
@pytest.mark.parametrize("seed", range(COUNT))
@pytest.mark.parametrize("kind", ["s3", "oss"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_job_can_be_run_again(
    victim: str, kind: str, seed: int, request: pytest.FixtureRequest, pai: Pai, tmp_path: Path
) -> None:
    location = request.getfixturevalue(f"{kind}_location")
    server = request.getfixturevalue(f"{kind}_server")
    place: Place = S3Place(location, server) if kind == "s3" else OSSPlace(location, server)
    host = f"host={server.url}&" if kind == "oss" else ""
    chance = random.Random(f"{victim} {kind} {seed}")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    words = [
        "--grace", "2s", "-name", "tensorflow", f"-Dscript={path}",
        f"-DcheckpointDir={location}?{host}mount=stage",
    ]  # fmt: skip
    quick = pai.with_settings(PAI_STAGE_SECONDS="0.1")
    running = quick.start(*words, f"-DuserDefinedParameters=1000 {seed}")
    with running:
        _kill(victim, running, pai, chance)
    wait_until(lambda: not _processes(pai), 60)
    assert checkpoint_writer.problems(place.names(), place.read) == []
    again = quick(*words, f"-DuserDefinedParameters={STEPS} {seed}")
    assert again.returncode == 0, again.stderr
    assert checkpoint_writer.problems(place.names(), place.read) == []
    last = int(again.stdout.split()[-1])
    assert checkpoint_writer.last_step(place.read("checkpoint")) == last
    newest = range(last - checkpoint_writer.KEPT + 1, last + 1)
    assert {f"model.ckpt-{step}.index" for step in newest} <= place.names()


def _kill(victim: str, running: subprocess.Popen[str], pai: Pai, chance: random.Random) -> None:
    """Kill once the script has saved a few steps, and then some time later."""
    assert running.stdout is not None
    for _ in range(3):
        assert running.stdout.readline(), running.communicate()[1]
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(chance.uniform(0.0, 1.5))
    pids = _processes(pai)
    assert set(pids) >= {"launcher", "supervisor", "guard", "script", "mover"}
    chosen = list(pids.values()) if victim == "all" else [pids[victim]]
    chance.shuffle(chosen)
    for pid in chosen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            assert victim == "all"  # the first one's death was quicker
    if victim == "mover":
        wait_until(lambda: _processes(pai).get("mover", pids["mover"]) != pids["mover"], 20)
        assert running.stdout.readline(), "the script should have gone on"
        running.send_signal(signal.SIGINT)
    running.communicate(timeout=90)


def _processes(pai: Pai) -> dict[str, int]:
    """Return the processes of the latest job, by what they are, as far as they live."""
    folders = sorted((pai.home / "jobs").iterdir())
    record = json.loads((folders[-1] / "state.json").read_text(encoding="utf-8"))
    named = {
        "launcher": record["launcher"],
        "supervisor": record["supervisor"],
        "guard": record["roles"][0]["guard"],
        "script": record["roles"][0]["process"],
    }
    found = {name: one["pid"] for name, one in named.items() if one and _lives(one["pid"])}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if "storage/mover.py" in arguments and str(folders[-1]) in arguments:
            found["mover"] = int(folder.name)
    return found


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
