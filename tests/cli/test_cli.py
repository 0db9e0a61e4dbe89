"""The command line, run as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import Pai, wait_until

from pai_runner.errors import ExitCode


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.py"
    path.write_text("import sys\nprint('argv', sys.argv[1:])\n", encoding="utf-8")
    return path


# ====== The three ways of giving a command ======


def test_words_a_text_a_file_and_standard_input_do_the_same(
    pai: Pai, script: Path, tmp_path: Path
) -> None:
    text = f"PAI -name tensorflow -Dscript='{script}' -DuserDefinedParameters='--a=1 --b';"
    file = tmp_path / "jobs.pai"
    file.write_text(f"-- nightly\n{text}\n", encoding="utf-8")
    words = ["-name", "tensorflow", f"-Dscript={script}", "-DuserDefinedParameters=--a=1 --b"]
    ways = (words, ["-e", text], ["-f", str(file)], ["-f", "-"])
    for arguments in ways:
        ran = pai(*arguments, stdin=text)
        assert (ran.returncode, ran.stdout) == (0, "argv ['--a=1', '--b']\n"), ran.stderr


def test_words_are_literal(pai: Pai, script: Path) -> None:
    odd = "--x=a;b #c -- 'd' \\n"
    ran = pai("-name", "tensorflow", f"-Dscript={script}", f'-DuserDefinedParameters="{odd}"')
    assert ran.stdout == f"argv {[odd]!r}\n", ran.stderr


def test_own_options_stand_before_or_behind(pai: Pai, script: Path) -> None:
    words = ["-name", "tensorflow", f"-Dscript={script}"]
    for arguments in (["--devices", "cpu", *words], [*words, "--devices", "cpu"]):
        ran = pai(*arguments)
        assert ran.returncode == 0, ran.stderr
        assert "CPU" not in ran.stderr


def test_a_setting_of_a_property_is_a_parameter(pai: Pai, script: Path) -> None:
    ran = pai(
        "explain",
        "--json",
        "-e",
        f"set odps.pai.property.jobName=nightly; PAI -name tensorflow -Dscript={script};",
    )
    (plan,) = json.loads(ran.stdout)
    assert plan["job_name"] == "nightly"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "run a command:"),
        (["hlep"], "did you mean `help`?"),
        (["PAI -name tensorflow"], "pai -e"),
        (["-e", "PAI -name tensorflow;", "-Dscript=x"], "more than one way"),
        (["-entryFile=x"], "-DentryFile=x"),
        (["-f", "missing.pai"], "missing.pai"),
        (["--nosuch", "-name", "tensorflow", "-Dscript=x"], "--nosuch"),
        (["--timeout", "soon", "-name", "tensorflow", "-Dscript=x"], "soon"),
        (["--devices", "tpu", "-name", "tensorflow", "-Dscript={script}"], "tpu"),
        (["status", "20200101"], "there is no job"),
        (["explain"], "no PAI command"),
        (["-e", "select 1;"], "no PAI command"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    arguments: list[str], says: str, pai: Pai, script: Path
) -> None:
    ran = pai(*(argument.format(script=script) for argument in arguments))
    assert ran.returncode == ExitCode.USAGE
    assert says in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (pai.home / "jobs").exists() or "tpu" in says


# ====== Showing without running ======


def test_explain_prints_the_plan_that_a_run_records(pai: Pai, script: Path) -> None:
    words = ["-name", "tensorflow", f"-Dscript={script}", "-DcheckpointDir=out"]
    (explained,) = json.loads(pai("explain", "--json", *words).stdout)
    assert not (pai.home / "jobs").exists()
    assert not (pai.folder / "out").exists()
    assert pai(*words).returncode == 0
    (job,) = (pai.home / "jobs").iterdir()
    ran = json.loads((job / "spec.json").read_text(encoding="utf-8"))

    def without_the_id(plan: dict[str, object]) -> object:
        return json.loads(json.dumps(plan).replace(str(plan["job_id"]), "ID"))

    assert without_the_id(explained) == without_the_id(ran)


def test_explain_says_which_api_and_why(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "v1.py"
    path.write_text("import tensorflow as tf\ntf.app.run()\n", encoding="utf-8")
    shown = pai("explain", "-name", "tensorflow", f"-Dscript={path}").stdout
    assert "v1 API" in shown
    assert "v1.py:2" in shown
    forced = pai("explain", "-name", "tensorflow", f"-Dscript={path}", "-DtfApi=v2").stdout
    assert "v2 API" in forced


def test_parse_prints_statements(pai: Pai) -> None:
    text = 'use p; PAI -name tensorflow -Dscript= "a.py" -Darn;'
    plain, statement = json.loads(pai("parse", "--json", "-e", text).stdout)
    assert plain["name"] is None
    assert statement["parameters"] == {"script": "a.py", "arn": "true"}


@pytest.mark.parametrize("topic", ["parameters", "environment", "exit-codes", "algorithms"])
def test_help_prints_the_tables(topic: str, pai: Pai) -> None:
    ran = pai("help", topic)
    assert ran.returncode == 0
    assert len(ran.stdout.splitlines()) > 5


def test_every_verb_explains_itself(pai: Pai) -> None:
    shown = pai("--help").stdout
    for verb in ("explain", "parse", "jobs", "status", "logs", "cancel", "rerun", "doctor"):
        assert f"  {verb} " in shown
        assert pai(verb, "--help").returncode == 0


# ====== From another terminal ======


def test_a_detached_job_is_followed_and_cancelled(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "waits.py"
    path.write_text("import signal\nprint('waits', flush=True)\nsignal.pause()\n", encoding="utf-8")
    started = pai("--detach", "-name", "tensorflow", f"-Dscript={path}")
    job = started.stdout.strip()
    assert started.returncode == 0, started.stderr
    wait_until(lambda: pai("logs", job).stdout == "waits\n")
    follower = pai.start("logs", "-f", job)
    assert json.loads(pai("status", job, "--json").stdout)["state"] == "RUNNING"
    assert pai("cancel", job).returncode == 0
    assert follower.communicate(timeout=60)[0] == "waits\n"
    record = json.loads(pai("status", job[-6:], "--json").stdout)
    assert (record["state"], record["exit_code"]) == ("CANCELLED", 143)


def test_a_command_that_held_secrets_is_not_run_again(pai: Pai, script: Path) -> None:
    words = f"--oss_access_key_secret=HiddenHidden --out={script.parent}"
    assert (
        pai("-name", "tensorflow", f"-Dscript={script}", f"-DuserDefinedParameters={words}").stdout
        == f"argv {words.split()!r}\n"
    )
    (job,) = json.loads(pai("jobs", "--json").stdout)
    again = pai("rerun", job["id"])
    assert again.returncode == ExitCode.USAGE
    assert "secrets" in again.stderr
    for path in pai.home.rglob("*"):
        if path.is_file() and path.name != "stdout":
            assert b"HiddenHidden" not in path.read_bytes(), path


def test_a_terminal_gets_wrapped_tables_and_a_pipe_long_lines(pai: Pai, script: Path) -> None:
    assert pai("-name", "tensorflow", f"-Dscript={script}").returncode == 0
    assert len(pai("jobs").stdout.splitlines()) == 2
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        pai.command("help", "exit-codes"),
        env={**pai.environment, "COLUMNS": "40", "TERM": "xterm"},
        stdout=theirs,
        cwd=pai.folder,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: all writers are gone
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[\d*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 40


# ====== Lightness ======

HEAVY = ("tensorflow", "fsspec", "s3fs", "boto", "oss2", "rich", "numpy", "aiohttp")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-name", "tensorflow", "-Dscript={script}", "-DcheckpointDir=out"]]
)
def test_the_launcher_imports_nothing_heavy(arguments: list[str], pai: Pai, script: Path) -> None:
    words = [argument.format(script=script) for argument in arguments]
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pai_runner", *words],
        env=pai.environment,
        cwd=pai.folder,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "pai_runner.cli.main" in imported
    assert not {name for name in imported if name.startswith(HEAVY)}


def test_the_public_names_are_these() -> None:
    program = (
        "import sys, pai_runner;"
        "assert not [name for name in sys.modules if name.startswith('pai_runner.')];"
        "print(sorted(pai_runner.__all__));"
        "[getattr(pai_runner, name) for name in pai_runner.__all__]"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names = ["Options", "__version__", "checkpoint", "export", "fill_dates", "parse", "plan", "run"]
    assert ran.stdout.strip() == str(names)


# ====== In an unkind world ======


def test_closed_standard_streams_do_no_harm(pai: Pai, script: Path) -> None:
    words = " ".join(pai.command("-name", "tensorflow", f"-Dscript={script}"))
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        ran = subprocess.run(
            ["sh", "-c", f"{words} {closed}"], env=pai.environment, cwd=pai.folder, timeout=60
        )
        assert ran.returncode == 0, closed
    states = {job["state"] for job in json.loads(pai("jobs", "--json").stdout)}
    assert states == {"SUCCEEDED"}
    listed = " ".join(pai.command("jobs"))
    assert subprocess.run(["sh", "-c", f"{listed} >&-"], env=pai.environment).returncode == 0


def test_what_an_outer_job_told_its_script_is_not_told_again(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "environment.py"
    path.write_text(
        "import os\nprint(os.environ.get('PAI_BUCKETS'), os.environ['PAI_HOME'])\n",
        encoding="utf-8",
    )
    ran = pai("-name", "tensorflow", f"-Dscript={path}", PAI_BUCKETS="s3://stale/")
    assert ran.stdout == f"None {pai.home}\n"


def test_a_reader_that_goes_away_ends_the_following(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "talks.py"
    path.write_text(
        "import time\nwhile True:\n    print('line', flush=True)\n    time.sleep(0.05)\n",
        encoding="utf-8",
    )
    job = pai("--detach", "-name", "tensorflow", f"-Dscript={path}").stdout.strip()
    follower = pai.start("logs", "-f", job)
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert follower.stdout.readline() == "line\n"
    follower.stdout.close()
    assert follower.wait(timeout=30) == 0
    follower.stderr.close()
    assert pai("cancel", job, "--force").returncode == 0


def end_before_the_script(signum: int, pai: Pai, folder: Path) -> tuple[int, dict[str, object]]:
    """Signal a `pai` that is still planning; return its code and the job's record."""
    fifo = folder / "hyper.txt"
    os.mkfifo(fifo)
    path = folder / "never.py"
    path.write_text("print('ran')\n", encoding="utf-8")
    process = pai.start("-name", "tensorflow", f"-Dscript={path}", f"-DhyperParameters={fifo}")
    # Once this end is open, `pai` has opened the other and waits for what never comes.
    with fifo.open("w"):
        process.send_signal(signum)
        stdout, _ = process.communicate(timeout=60)
    assert stdout == ""
    (record,) = json.loads(pai("jobs", "--json").stdout)
    return process.returncode, record


def test_an_interrupt_before_the_script_is_on_record(pai: Pai, tmp_path: Path) -> None:
    code, record = end_before_the_script(signal.SIGINT, pai, tmp_path)
    assert (code, record["state"], record["exit_code"]) == (130, "CANCELLED", 130)


def test_a_launcher_killed_before_the_script_is_lost(pai: Pai, tmp_path: Path) -> None:
    code, record = end_before_the_script(signal.SIGKILL, pai, tmp_path)
    assert (code, record["state"], record["reason"]) == (-9, "LOST", "launcher gone")


def test_bytes_that_are_no_text_reach_the_script(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "raw.py"
    path.write_text("import os, sys\nprint(os.fsencode(sys.argv[1]))\n", encoding="utf-8")
    ran = pai("-name", "tensorflow", f"-Dscript={path}", "-DuserDefinedParameters=--x=\udcff\udcfe")
    assert ran.stdout == "b'--x=\\xff\\xfe'\n", ran.stderr
    (job,) = json.loads(pai("jobs", "--json").stdout)
    assert pai("rerun", job["id"]).stdout == ran.stdout


def test_an_escaped_secret_leaves_no_tail(pai: Pai, tmp_path: Path) -> None:
    path = tmp_path / "argv.py"
    path.write_text("import sys\nprint(sys.argv[1:])\n", encoding="utf-8")
    ran = pai(
        "-name",
        "tensorflow",
        f"-Dscript={path}",
        "-DuserDefinedParameters=--password=my\\ HiddenTail --label_key=label",
    )
    assert ran.stdout == "['--password=my HiddenTail', '--label_key=label']\n"
    for file in pai.home.rglob("*"):
        if file.is_file() and file.name != "stdout":
            assert b"HiddenTail" not in file.read_bytes(), file


def test_the_verbs_on_a_job_speak_json(pai: Pai, script: Path) -> None:
    assert pai("-name", "tensorflow", f"-Dscript={script}").returncode == 0
    (job,) = json.loads(pai("jobs", "--json").stdout)
    logs = json.loads(pai("logs", job["id"], "--json").stdout)
    assert logs["roles"]["worker-0"]["stdout"] == "argv []\n"
    assert json.loads(pai("cancel", job["id"], "--json").stdout)["state"] == "SUCCEEDED"
    again = pai("rerun", job["id"], "--json").stdout.splitlines()
    assert again[0] == "argv []"
    assert json.loads(again[-1])["exit_code"] == 0
