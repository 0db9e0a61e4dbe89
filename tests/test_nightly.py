"""A job that trains, exports and prunes, night after night, started as schedulers start it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import ROOT, Pai, wait_until

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("PAI_PROOF_COUNT", "2"))

# How many versions the training leaves (see nightly_train).
KEPT = 2


@pytest.fixture
def file(pai: Pai) -> Path:
    shutil.copy(ROOT / "tests" / "nightly_train.py", pai.folder / "train.py")
    path = pai.folder / "nightly.pai"
    path.write_text(
        "-- @param day=$[yyyymmdd-1]\n"
        "PAI -name tensorflow -Dscript=train.py -DcheckpointDir=./models\n"
        "  -DuserDefinedParameters='${day}';\n",
        encoding="utf-8",
    )
    return path


def trained(pai: Pai) -> list[str]:
    """Return the dates of the log, in order."""
    path = pai.folder / "log"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def versions(pai: Pai) -> list[str]:
    found = json.loads(pai("models", "ls", "./models/export", "--json").stdout)
    return [str(one["version"]) for one in found]


def crontab(folder: Path) -> Path:
    """Make a program `crontab` that keeps the table in a file; return the folder for PATH."""
    program = folder / "bin" / "crontab"
    program.parent.mkdir()
    table = folder / "table"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then [ -e {table} ] && exec cat {table}; '
        f'echo "no crontab for you" >&2; exit 1; fi\nexec cat >{table}\n'
    )
    program.chmod(0o755)
    return program.parent


def test_nights_by_the_crontab_and_days_before_by_hand(
    pai: Pai, file: Path, tmp_path: Path
) -> None:
    there = f"{crontab(tmp_path)}:{os.environ['PATH']}"
    cron = pai.with_settings(PATH=there, PAI_ALLOWED_HOSTS="http://127.0.0.1")
    installed = cron(
        "schedule", "install", str(file), "--cron", "* * * * *", "--name", "n", "--yes",
        "--", "--once-per", "bizdate", "--retries", "1", "--backoff", "1s",
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    line = (tmp_path / "table").read_text().splitlines()[-1].split(" ", 5)[5].replace(r"\%", "%")
    # A minute is due when it has begun after the installation.
    deadline = time.monotonic() + 90
    while not trained(pai):
        assert time.monotonic() < deadline, (pai.home / "schedules" / "n.log").read_text()
        subprocess.run(["env", "-i", "/bin/sh", "-c", line], cwd="/", check=False)
    (today,) = trained(pai)
    subprocess.run(["env", "-i", "/bin/sh", "-c", line], cwd="/", check=False)
    assert trained(pai) == [today], "the date has succeeded"
    days = ("--from", "2026-10-01", "--to", f"2026-10-{min(COUNT, 31):02d}")
    ran = pai("backfill", str(file), *days, "--name", "n")
    assert ran.returncode == 0, ran.stderr
    assert len(trained(pai)) == 1 + min(COUNT, 31)
    assert len(versions(pai)) == min(KEPT, 1 + min(COUNT, 31)), "older ones are pruned"
    assert pai("backfill", str(file), *days, "--name", "n").returncode == 0
    assert len(trained(pai)) == 1 + min(COUNT, 31)


def test_nights_by_the_embedded_scheduler(pai: Pai, file: Path, tmp_path: Path) -> None:
    """Its nights come every second; those that pass while one trains are one."""
    file.write_text(file.read_text().replace("yyyymmdd-1", "yyyymmddhh24miss"))
    installed = pai(
        "schedule", "install", str(file), "--cron", "* * * * * *", "--name", "n", "--serve",
        "--yes", "--", "--once-per", "cyctime",
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    serving = pai.start("schedule", "serve")
    wait_until(lambda: len(trained(pai)) > KEPT, seconds=120)
    serving.terminate()
    _, errors = serving.communicate(timeout=60)
    assert serving.returncode == 0, errors
    dates = trained(pai)
    assert dates == sorted(set(dates))
    assert all(len(date) == len("20261120020000") for date in dates)
    assert len(versions(pai)) == KEPT, "older ones are pruned"


@pytest.mark.proof_nights
@pytest.mark.parametrize("seed", range(max(1, COUNT // 2)))
def test_a_night_that_is_killed_at_any_moment_ends_with_one_version(
    seed: int, pai: Pai, file: Path
) -> None:
    """Everything of it is killed, again and again, until an attempt is left alone."""
    chance = random.Random(seed)
    words = (
        "-f",
        str(file),
        "--cyctime",
        "2026-11-20T02:00",
        "--name",
        "n",
        "--once-per",
        "bizdate",
    )
    words += ("--lock", "n", "--if-running", "wait")
    for _ in range(3):
        process = subprocess.Popen(
            pai.command(*words),
            cwd=pai.folder,
            env=pai.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(chance.uniform(0.5, 9))
        except subprocess.TimeoutExpired:
            kill_all(pai, process, only_keeper=chance.random() < 0.5)
    last = pai(*words, "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout.splitlines()[-1])["state"] == "SUCCEEDED"
    assert len(versions(pai)) == 1, "a number may be spent"
    succeeded = [one for one in jobs(pai) if one["state"] == "SUCCEEDED"]
    assert len(succeeded) == 1, "and no other job of the date has succeeded"


def kill_all(pai: Pai, keeper: subprocess.Popen[bytes], only_keeper: bool) -> None:
    """Kill the keeper, or all that carries the records' home in its environment."""
    marked = [keeper.pid]
    for path in () if only_keeper else Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                if f"PAI_HOME={pai.home}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    marked.append(int(path.name))
            except OSError:
                continue  # gone, or another user's
    for pid in marked:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    keeper.wait()


def jobs(pai: Pai) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(pai("jobs", "--all", "--json").stdout)
    return found
