"""Measures `pai jobs --all` against reading the same state files in one loop of plain Python.

    python scripts/bench/jobs.py [--records 10000] [--rounds 5] [--json]

The records are real ones, of jobs that ended and in the form that the supervisor leaves. Times
are medians in milliseconds; each round runs every case once, in turn. `whole process` is from
start to exit, `without start` less what an interpreter takes to start and end.
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
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pai_runner.jobs import record  # noqa: E402
from pai_runner.jobs.directory import JobDirectory  # noqa: E402
from pai_runner.jobs.identity import Identity  # noqa: E402
from pai_runner.jobs.record import Record, RoleProcess  # noqa: E402
from pai_runner.jobs.state import Kind, Reason, State  # noqa: E402

# `pai jobs` may take this many times the plain loop.
GOAL = 5.0

# The loop that the goal names: what any program must do that shows the states of all jobs.
PLAIN = """\
import json, os, sys
folder = os.path.join(sys.argv[1], "jobs")
states = []
for name in os.listdir(folder):
    with open(os.path.join(folder, name, "state.json"), encoding="utf-8") as file:
        states.append(json.load(file)["state"])
print(len(states))
"""


def make_records(home: Path, count: int) -> None:
    """Write the records of `count` jobs, one a minute; one in ten has failed."""
    first = datetime(2026, 1, 1, tzinfo=timezone.utc)
    process = Identity.of(os.getpid())
    for number in range(count):
        start = first + timedelta(minutes=number)
        directory = JobDirectory(home, f"{start:%Y%m%d-%H%M%S}-{number:06d}")
        os.makedirs(directory.path)
        failed = number % 10 == 0
        begun, ended = (
            f"{moment:%Y-%m-%dT%H:%M:%S}.000Z" for moment in (start, start + timedelta(minutes=9))
        )
        made = Record(
            directory.id,
            f"nightly-{number % 7}",
            State.FAILED if failed else State.SUCCEEDED,
            Reason.SCRIPT_FAILED if failed else None,
            int(failed),
            Kind.SCRIPT,
            "worker-0 ended with code 1" if failed else "",
            "worker-0" if failed else None,
            created=begun,
            started=begun,
            ended=ended,
            launcher=process,
            supervisor=process,
            roles=(RoleProcess("worker-0", process, process, int(failed)),),
            last_lines=("Traceback (most recent call last):",) * 10 if failed else (),
        )
        record.write(directory, made)


def elapsed_ms(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def measure(records: int, rounds: int) -> dict[str, float]:
    """Return the median of each case in milliseconds, and the ratios."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        make_records(home, records)
        environment = {**os.environ, "PAI_HOME": name, "PYTHONPATH": str(ROOT)}
        cases = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "plain loop": [sys.executable, "-c", PLAIN, name],
            "pai jobs --all": [sys.executable, "-m", "pai_runner", "jobs", "--all"],
        }
        times: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(rounds + 1):
            for case, command in cases.items():
                times[case].append(elapsed_ms(command, environment))
    # The first round fills the caches of the disk and of compiled modules.
    medians = {case: statistics.median(values[1:]) for case, values in times.items()}
    start = medians["python -c pass"]
    plain, jobs = medians["plain loop"], medians["pai jobs --all"]
    return {
        **medians,
        "ratio, whole process": jobs / plain,
        "ratio, without start": (jobs - start) / (plain - start),
    }


def main() -> int:
    """Print the times and the ratios. Returns 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.records, options.rounds)
    if options.json:
        print(json.dumps({"records": options.records, **found}, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:22}{value:10.2f}{'' if 'ratio' in name else ' ms'}")
    return int(max(found["ratio, whole process"], found["ratio, without start"]) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
