"""Dates on the command line."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from support import Pai

from pai_runner import fill_dates
from pai_runner.cli.main import main
from pai_runner.errors import CommandError, ExitCode, UsageError

FIXED = ["--cyctime", "2026-11-20T00:00", "--timezone", "Asia/Shanghai"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    script = tmp_path / "job.py"
    script.write_text("import sys\nprint('argv', sys.argv[1:])\n", encoding="utf-8")
    path = tmp_path / "nightly.pai"
    path.write_text(
        "-- @param day=$[yyyymmdd-1] month=${yyyymm-1}\n"
        f"PAI -name tensorflow -Dscript='{script}'\n"
        "  -DuserDefinedParameters='--day=${day} --month=${month} --key_secret=hush-hush';\n",
        encoding="utf-8",
    )
    return path


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["parse", "--json", *arguments]) == 0
    (statement,) = json.loads(capsys.readouterr().out)
    found: dict[str, str] = statement["parameters"]
    return found


# ====== pai parse ======


def test_the_file_assigns_and_the_command_line_wins(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("-f", str(file), *FIXED)
    shown = parsed(capsys, *arguments)["userDefinedParameters"]
    assert shown.startswith("--day=20261119 --month=202610 ")
    shown = parsed(capsys, *arguments, "--param", "day=$[yyyymmdd]")["userDefinedParameters"]
    assert shown.startswith("--day=20261120 --month=202610 ")


def test_parse_fills_only_what_it_is_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    text = "PAI -name tensorflow -Dx=${day} -Dy=$[yyyymmdd];"
    assert parsed(capsys, "-e", text) == {"x": "${day}", "y": "$[yyyymmdd]"}
    words = ["-name", "tensorflow", "-Dx=${day}"]
    assert parsed(capsys, *words) == {"x": "${day}"}
    assert parsed(capsys, *words, "--param", "day=7") == {"x": "7"}
    found = parsed(capsys, "-e", text, *FIXED, "--param=day=$bizdate")
    assert found == {"x": "20261119", "y": "20261120"}


def test_words_have_no_comments(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-name", "tensorflow", "-Dx=--a=${day} # $[hh24]"]
    assert parsed(capsys, *words, *FIXED, "--param", "day=$bizdate") == {"x": "--a=20261119 # 00"}


# ====== pai and pai explain ======


def test_a_run_gets_the_dates(pai: Pai, file: Path) -> None:
    ran = pai("-f", str(file), *FIXED)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("argv ['--day=20261119', '--month=202610', ")


def test_a_run_tells_notices_once(pai: Pai, file: Path) -> None:
    text = f"PAI -name tensorflow -Dscript={file.parent}/job.py -DjobName=d$[yyyymmdd-1];"
    ran = pai("explain", "--json", *FIXED, "-e", text + text)
    assert [plan["job_name"] for plan in json.loads(ran.stdout)] == ["d20261119"] * 2
    assert ran.stderr.count("`$[yyyymmdd-1]` stands in the text itself and is 20261119") == 1


def test_explain_shows_before_and_after(
    pai: Pai, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAI_HOME", str(pai.home))
    assert main(["explain", "-f", str(file), *FIXED]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0] == "cyctime     2026-11-20 00:00:00+08:00"
    assert lines[1] == "before      -- @param day=$[yyyymmdd-1] month=${yyyymm-1}"
    assert "--day=${day} --month=${month} --key_secret=***" in lines[3]
    assert lines[4] == "after       -- @param day=$[yyyymmdd-1] month=${yyyymm-1}"
    assert "--day=20261119 --month=202610 --key_secret=***" in lines[6]
    assert "hush-hush" not in shown
    plain = ["explain", "-name", "tensorflow", f"-Dscript={file.parent}/job.py"]
    assert main(plain) == 0
    assert capsys.readouterr().out.startswith("command ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-e", "PAI -name tensorflow\n-Dscript=${x};"], "line 2, column 10: nothing is assigned"),
        (["-name", "tensorflow", "-Dscript=${x}"], "`-Dscript=${x}`: nothing is assigned to `x`"),
        (["-Dscript=x", "--param", "day"], "`day` does not assign a value"),
        (["-Dscript=x", "--param", "a=1", "--param", "a=1"], "--param assigns `a` twice"),
        (["-Dscript=x", "--param", "a=$[yyyymmd]"], "`$[yyyymmd]` is not a date expression"),
        (["-Dscript=x", "--cyctime", "soon"], "`soon` is not a scheduled time"),
        (["-Dscript=x", "--timezone", "Mars"], "there is no time zone `Mars`"),
    ],
)
def test_errors_end_with_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments if arguments[0] in ("-e", "-name") else ["-name", "tensorflow", *arguments]
    for verb in ([], ["explain"]):
        assert main([*verb, *words]) == ExitCode.USAGE
        assert says in capsys.readouterr().err


# ====== As a library ======


def test_fill_dates() -> None:
    text = "-- @param day=$[yyyymmdd-1]\nPAI -Da=${day};"
    fixed = {"cyctime": "2026-11-20T00:00", "timezone": "Asia/Shanghai"}
    assert fill_dates(text, **fixed).endswith("-Da=20261119;")
    assert fill_dates(text, **fixed, params={"day": "7"}).endswith("-Da=7;")
    aware = datetime(2026, 11, 19, 16, tzinfo=timezone.utc)
    assert fill_dates(text, aware, "Asia/Shanghai").endswith("-Da=20261119;")
    assert fill_dates(text, datetime(2026, 11, 20, 5), "Asia/Shanghai").endswith("-Da=20261119;")
    assert fill_dates("PAI;") == "PAI;"
    with pytest.raises(CommandError, match="nothing is assigned"):
        fill_dates("${day}")
    with pytest.raises(UsageError, match="does not assign"):
        fill_dates("", params={"a b": "1"})
