"""`pai jobs` over many records, and its chart."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, Pai

from pai_runner.cli.jobs_chart import draw, length_text
from pai_runner.cli.main import main
from pai_runner.cli.output import print_table
from pai_runner.jobs.directory import create
from pai_runner.jobs.nights import Night
from pai_runner.jobs.record import Record, write
from pai_runner.jobs.state import State


def make_jobs(home: Path, *jobs: tuple[str, datetime, float, State]) -> list[str]:
    """Make records of jobs: name, start, seconds and state. Returns their ids."""
    ids = []
    for name, began, seconds, state in jobs:
        directory = create(home)
        started, ended = (
            f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
            for moment in (began, began + timedelta(seconds=seconds))
        )
        write(directory, Record(directory.id, name, state, started=started, ended=ended))
        ids.append(directory.id)
    return ids


def test_many_records_are_listed_about_as_fast_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The goal is 5 for 10,000 records; a busy machine and few of them are given more."""
    bench = bench_of_jobs()
    bench.make_records(tmp_path, 300)
    monkeypatch.setenv("PAI_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["-c", str(tmp_path)])
    loop = compile(bench.PLAIN, "loop", "exec")
    listed, plain = zip(
        *(
            (seconds(lambda: main(["jobs", "--all"])), seconds(lambda: exec(loop, {})))
            for _ in range(5)
        ),
        strict=True,
    )
    assert len(capsys.readouterr().out.splitlines()) == 5 * (301 + 1)
    assert min(listed) < 10 * min(plain)


def bench_of_jobs() -> Any:
    spec = spec_from_file_location("bench_jobs", ROOT / "scripts" / "bench" / "jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# ====== The chart ======

NIGHTS = {
    "nightly": [
        Night(date(2026, 11, 21), State.RUNNING, 1.0, ("d",)),
        Night(date(2026, 11, 20), State.SUCCEEDED, 7200.0, ("b", "c")),
        Night(date(2026, 11, 19), State.FAILED, 1800.0, ("a",)),
    ],
    "中文\x1b[2J": [Night(date(2026, 11, 18), State.LOST, 0.0, ("e",))],
}


def test_a_chart_has_a_bar_a_night() -> None:
    assert draw(NIGHTS, 64, has_blocks=False) == [
        "nightly",
        "  2026-11-21  . RUNNING    1s               #",
        "  2026-11-20  + SUCCEEDED  2h 00m   2 jobs  ####################",
        "  2026-11-19  x FAILED     30m 00s          #####",
        "",
        "中文?[2J",
        "  2026-11-18  x LOST  0s",
    ]


@pytest.mark.parametrize("width", [20, 66, 80, 200])
def test_a_bar_fills_the_width_that_is_left(width: int) -> None:
    lines = draw(NIGHTS, width, has_blocks=True)
    longest = max(lines, key=len)
    assert longest.endswith("██████████")
    assert len(longest) == width or width == 20
    assert lines[1].endswith("▏")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m 00s"), (3599, "59m 59s"), (3600, "1h 00m"), (90000, "1d 01h")],
)
def test_lengths_are_in_two_units(seconds: float, text: str) -> None:
    assert length_text(seconds) == text


def test_the_chart_is_of_the_records(pai: Pai) -> None:
    began = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    failed, again, _ = make_jobs(
        pai.home,
        ("nightly", began, 60, State.FAILED),
        ("nightly", began + timedelta(minutes=2), 120, State.SUCCEEDED),
        ("other", began, 10, State.SUCCEEDED),
    )
    words = ["jobs", "--chart", "--name", "nightly"]
    ran = pai(*words, "--json", TZ="UTC")
    night = {"date": "2026-11-20", "state": "SUCCEEDED", "seconds": 180.0, "jobs": [failed, again]}
    assert json.loads(ran.stdout) == [{"job_name": "nightly", "nights": [night]}]
    ran = pai(*words, TZ="UTC", PYTHONIOENCODING="ascii")
    name, line = ran.stdout.splitlines()
    assert (name, ran.returncode) == ("nightly", 0)
    assert line.split()[:7] == ["2026-11-20", "+", "SUCCEEDED", "3m", "00s", "2", "jobs"]
    assert set(line.split()[7]) == {"#"}
    assert len(line) == 80
    assert pai("jobs", "--chart", "--name", "none").stdout == "no jobs on record\n"


def test_a_list_can_be_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAI_HOME", str(tmp_path))
    began = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    first, _ = make_jobs(
        tmp_path, ("one", began, 1, State.SUCCEEDED), ("two", began, 1, State.SUCCEEDED)
    )
    assert main(["jobs", "--name", "one", "-n", "1", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == [first]


# ====== Tables ======


def test_a_table_is_the_same_with_and_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter that cannot be printed leaves the layout to rich: both ways lay out alike."""

    def printed(rows: list[tuple[str, ...]]) -> list[str]:
        output = io.StringIO()
        monkeypatch.setattr("sys.stdout", output)
        print_table(rows)
        monkeypatch.undo()
        return output.getvalue().splitlines()

    rows = [("id", "name", "x"), ("1", "中文 names", ""), ("22", "b", "longer"), ("", "", "")]
    assert printed([*rows, ("", "", "\x00")])[:-1] == printed(rows)
