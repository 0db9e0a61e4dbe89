"""Measures what `pai` adds to a run, against plain Python, in one run.

    python scripts/bench/launcher.py [--rounds 15] [--json]

Each round runs every case once, in turn, so that a machine that slows down slows all of them;
medians are of whole processes, from start to exit, in milliseconds. The cases with a bucket
start an S3 server of their own on loopback (package moto).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "servers"))

GOAL_MS = 150
SCRIPT = """\
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--checkpointDir")
parser.add_argument("--buckets")
print(parser.parse_args().checkpointDir)
"""


def elapsed_ms(command: list[str], environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def cases(folder: Path, bucket: str) -> dict[str, list[str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    pai = [sys.executable, "-m", "pai_runner"]
    job = [*pai, "--devices", "cpu", "-name", "tensorflow", f"-Dscript={script}"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "pai --help": [*pai, "--help"],
        "python script.py": [sys.executable, str(script), f"--checkpointDir={folder}/out/"],
        "pai, local folders": [*job, f"-DcheckpointDir={folder}/out"],
        "pai, a bucket": [*job, f"-DcheckpointDir={bucket}"],
    }


def measure(rounds: int) -> dict[str, float]:
    """Return the median of each case, in milliseconds."""
    from moto_server import s3_server

    with tempfile.TemporaryDirectory() as name, s3_server(Path(name, "requests")) as server:
        server.make_bucket("bench")
        environment = {
            **os.environ,
            "PAI_HOME": f"{name}/home",
            "PAI_ALLOWED_HOSTS": "http://127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        # pip compiles what it installs; a checkout is compiled by the round that is not counted.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        query = "&".join(f"{option}={value}" for option, value in server.options.items())
        commands = cases(Path(name), f"s3://bench/out/?{query}")
        times: dict[str, list[float]] = {case: [] for case in commands}
        for round_number in range(rounds + 1):
            for case, command in commands.items():
                took = elapsed_ms(command, environment)
                if round_number > 0:  # the first round fills the disk's caches
                    times[case].append(took)
    return {case: statistics.median(taken) for case, taken in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    median = measure(options.rounds)
    added = {
        "launcher over plain python, local folders": (
            median["pai, local folders"] - median["python script.py"],
            GOAL_MS,
        ),
        "launcher over plain python, a bucket": (
            median["pai, a bucket"] - median["python script.py"],
            None,
        ),
        "pai --help over a bare interpreter": (
            median["pai --help"] - median["python -c pass"],
            GOAL_MS,
        ),
    }
    if options.json:
        print(json.dumps({"median_ms": median, "added_ms": {k: v for k, (v, _) in added.items()}}))
        return 0
    for case, value in median.items():
        print(f"{case:45} {value:8.1f} ms")
    print()
    for case, (value, goal) in added.items():
        verdict = (
            "" if goal is None else f"  goal under {goal}: {'met' if value < goal else 'MISSED'}"
        )
        print(f"{case:45} {value:+8.1f} ms{verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
