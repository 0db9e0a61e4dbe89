"""Back-filling a range of dates."""

from __future__ import annotations

import shutil
import signal
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest
from support import Pai, wait_until

from pai_runner.errors import UsageError
from pai_runner.runs.backfill import BUSY, DONE, FAILED, OPEN, calendar_text, day_of

SCRIPT = """
import os, sys, time
day = sys.argv[1]
with open("log", "a") as log:
    log.write(day + "\\n")
while os.path.exists(f"wait-{day}"):
    time.sleep(0.02)
sys.exit(3 if os.path.exists(f"fail-{day}") else 0)
"""


@pytest.fixture
def file(pai: Pai) -> Path:
    (pai.folder / "step.py").write_text(SCRIPT, encoding="utf-8")
    path = pai.folder / "nightly.pai"
    path.write_text(
        "-- @param day=$[yyyymmdd-1]\n"
        "PAI -name tensorflow -Dscript=step.py -DuserDefinedParameters='${day}';\n",
        encoding="utf-8",
    )
    return path


def log(pai: Pai) -> list[str]:
    path = pai.folder / "log"
    return sorted(path.read_text(encoding="utf-8").split()) if path.exists() else []


def october(first: int, last: int) -> tuple[str, ...]:
    return ("--from", f"2026-10-{first:02d}", "--to", f"2026-10-{last:02d}")


def test_a_range_goes_on_where_it_stopped(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-20261002").touch()
    ran = pai("backfill", str(file), *october(1, 4), "--parallel", "2")
    assert ran.returncode == 1
    assert log(pai) == ["20261001", "20261002", "20261003", "20261004"]
    assert "  1+  2!  3+  4+" in ran.stdout, ran.stdout
    assert "2026-10-02: ended with code 3; see" in ran.stderr
    (pai.folder / "fail-20261002").unlink()
    shown = pai("backfill", str(file), *october(1, 4), "--show")
    assert "  1+  2.  3+  4+" in shown.stdout
    again = pai("backfill", str(file), *october(1, 4))
    assert again.returncode == 0, again.stderr
    assert log(pai).count("20261002") == 2
    assert len(log(pai)) == 5


def test_options_behind_two_dashes_are_those_of_each_date(pai: Pai, file: Path) -> None:
    words = ("--", "--param", "day=x$[yyyymmdd]")
    assert pai("backfill", str(file), *october(31, 31), *words).returncode == 0
    assert log(pai) == ["x20261101"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ending_it_ends_its_scripts(number: signal.Signals, pai: Pai, file: Path) -> None:
    (pai.folder / "wait-20261001").touch()
    process = pai.start("backfill", str(file), *october(1, 3))
    wait_until(lambda: log(pai) == ["20261001"])
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert log(pai) == ["20261001"]
    (pai.folder / "wait-20261001").unlink()
    assert pai("backfill", str(file), *october(1, 3), "--parallel", "3").returncode == 0
    assert log(pai) == ["20261001", "20261001", "20261002", "20261003"]


def test_a_night_that_succeeded_once_per_cyctime_is_done(pai: Pai, file: Path) -> None:
    night = ("--name", "nightly", "--once-per", "cyctime", "--cyctime", "2026-10-03T02:00")
    assert pai("-f", str(file), *night).returncode == 0
    assert log(pai) == ["20261002"]
    assert pai("backfill", str(file), *october(1, 2)).returncode == 0
    assert log(pai) == ["20261001", "20261002"]


def test_dates_at_once_wait_for_a_lock_that_all_take(pai: Pai, file: Path) -> None:
    words = ("--parallel", "2", "--", "--lock", "gpu")
    assert pai("backfill", str(file), *october(1, 3), *words).returncode == 0
    assert sorted(log(pai)) == ["20261001", "20261002", "20261003"]


def test_a_name_that_another_project_has_used_is_told(pai: Pai, file: Path) -> None:
    assert pai("backfill", str(file), *october(1, 2)).returncode == 0
    here = pai("backfill", str(file), *october(1, 2))
    assert "another project" not in here.stderr
    there = pai.folder / "there"
    there.mkdir()
    shutil.copy(file, there)
    ran = subprocess.run(
        pai.command("backfill", file.name, *october(1, 2)),
        cwd=there,
        env=pai.environment,
        capture_output=True,
        text=True,
    )
    assert f"runs of `nightly` were started in {pai.folder}: if that is another" in ran.stderr


def test_a_calendar() -> None:
    first = date(2026, 10, 28)
    marks = [DONE, FAILED, BUSY, OPEN, DONE]
    results = {first + timedelta(number): mark for number, mark in enumerate(marks)}
    assert calendar_text(results).split("\n\n") == [
        "2026-10\n"
        " Mo  Tu  We  Th  Fr  Sa  Su\n"
        "              1   2   3   4\n"
        "  5   6   7   8   9  10  11\n"
        " 12  13  14  15  16  17  18\n"
        " 19  20  21  22  23  24  25\n"
        " 26  27  28+ 29! 30~ 31.",
        "2026-11\n"
        " Mo  Tu  We  Th  Fr  Sa  Su\n"
        "                          1+\n"
        "  2   3   4   5   6   7   8\n"
        "  9  10  11  12  13  14  15\n"
        " 16  17  18  19  20  21  22\n"
        " 23  24  25  26  27  28  29\n"
        " 30",
    ]


def test_dates() -> None:
    assert day_of("2026-02-28") == day_of("20260228") == date(2026, 2, 28)
    for wrong in ("2026-02-30", "yesterday", "2026-2-3", "202602", ""):
        with pytest.raises(UsageError):
            day_of(wrong)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "2026-10-02", "--to", "2026-10-01"), "is before"),
        (("--from", "soon", "--to", "2026-10-01"), "is not a date"),
        ((*october(1, 2), "--at", "25:00"), "no time of day"),
        ((*october(1, 2), "--at", "02:30:45+05:00"), "no time of day"),
        ((*october(1, 2), "--parallel", "0"), "from 1 on"),
        ((*october(1, 2), "--", "--detach"), "--detach stands for itself"),
        ((*october(1, 2), "--", "-fother.pai"), "-f stands for itself"),
        ((*october(1, 2), "--", "--once-per=cyctime"), "--once-per stands for itself"),
    ],
)
def test_wrong_ranges(words: tuple[str, ...], says: str, pai: Pai, file: Path) -> None:
    ran = pai("backfill", str(file), *words)
    assert ran.returncode == 2
    assert says in ran.stderr
    assert not pai.home.exists()
