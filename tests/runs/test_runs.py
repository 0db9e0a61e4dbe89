"""Runs: commands in order, again, once a date, one at a time. Real jobs, without TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Pai, wait_until

from pai_runner import api
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.runs import Run, RunDirectory, write_run
from pai_runner.jobs.state import State

# Says what it does in a file, and waits, fails or goes on as the file beside it says.
SCRIPT = """
import os, sys, time
sys.argv += ["x"] * 2
name = sys.argv[1]
with open("log", "a") as log:
    log.write(name + "\\n")
count = open("log").read().split().count(name)
while os.path.exists(f"wait-{name}"):
    time.sleep(0.02)
plan = open(f"fail-{name}").read().split() if os.path.exists(f"fail-{name}") else []
if count <= len(plan):
    print("this was attempt", count, file=sys.stderr)
    sys.exit(int(plan[count - 1]))
"""


@pytest.fixture
def file(pai: Pai) -> Path:
    """A file with three commands: a, b and c."""
    (pai.folder / "step.py").write_text(SCRIPT, encoding="utf-8")
    lines = [
        f"PAI -name tensorflow -Dscript=step.py -DjobName={name} -DuserDefinedParameters={name};"
        for name in "abc"
    ]
    path = pai.folder / "nightly.pai"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def log(pai: Pai) -> list[str]:
    path = pai.folder / "log"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def last(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def runs(pai: Pai, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pai("runs", "--json", *arguments).stdout)
    return found


def states(run: dict[str, Any]) -> list[str]:
    return [step["state"] for step in run["steps"]]


# ====== In order ======


def test_the_first_failure_ends_a_run_and_rerun_goes_on(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-b").write_text("7")
    ran = pai("-f", str(file), "--json")
    assert ran.returncode == 7
    assert states(last(ran)) == ["SUCCEEDED", "FAILED", "PENDING"]
    assert log(pai) == ["a", "b"]
    again = pai("rerun", last(ran)["id"], "--failed", "--json")
    assert again.returncode == 0, again.stderr
    assert log(pai) == ["a", "b", "b", "c"]
    assert states(last(again)) == ["SUCCEEDED"] * 3
    assert pai("rerun", last(ran)["id"]).returncode == 0
    assert log(pai) == ["a", "b", "b", "c", "a", "b", "c"]


def test_keep_going_runs_all_and_tells_the_first_failure(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-a").write_text("5")
    ran = pai("-f", str(file), "--keep-going", "--json")
    assert ran.returncode == 5
    assert states(last(ran)) == ["FAILED", "SUCCEEDED", "SUCCEEDED"]


# ====== Again ======


def test_attempts_are_jobs_of_their_own(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-b").write_text("3 4")
    ran = pai("-f", str(file), "--retries", "2", "--backoff", "0.1s..0.2s", "--json")
    assert ran.returncode == 0, ran.stderr
    assert log(pai) == ["a", "b", "b", "b", "c"]
    _, step, _ = last(ran)["steps"]
    codes = [json.loads(pai("status", "--json", job).stdout)["exit_code"] for job in step["jobs"]]
    assert codes == [3, 4, 0]
    assert "attempt 2 of b ended: failure; again in 0.2 s" in ran.stderr
    shown = pai("runs", last(ran)["id"]).stdout
    assert shown.count("  job ") == 5


def test_a_script_that_was_killed_has_its_own_budget(pai: Pai, file: Path) -> None:
    (pai.folder / "step.py").write_text(
        f"import os, signal\nif not os.path.exists('log'): open('log', 'w').close(); "
        f"os.kill(os.getpid(), {signal.SIGKILL.value})\n"
    )
    ran = pai("-f", str(file), "--preemptions", "1", "--backoff", "0s")
    assert ran.returncode == 0, ran.stderr
    assert "ended: preempted" in ran.stderr


def test_a_signal_between_attempts_ends_the_run(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-a").write_text("3")
    process = pai.start("-f", str(file), "--retries", "2", "--backoff", "1h")
    wait_until(lambda: [state for run in runs(pai) for state in states(run)][:1] == ["FAILED"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    (run,) = runs(pai)
    assert (run["state"], run["exit_code"]) == ("CANCELLED", 143)


# ====== Once a date ======

ONCE = ("--name", "n", "--once-per", "bizdate", "--cyctime", "2026-11-20T02:00")


def test_a_date_succeeds_once(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-c").write_text("9")
    assert pai("-f", str(file), *ONCE).returncode == 9
    second = pai("-f", str(file), *ONCE, "--json")
    assert second.returncode == 0, second.stderr
    assert log(pai) == ["a", "b", "c", "c"], "what had succeeded is not run again"
    third = pai("-f", str(file), *ONCE, "--json")
    assert third.returncode == 0
    assert "has succeeded for 20261119" in third.stderr
    assert log(pai) == ["a", "b", "c", "c"]
    assert pai("-f", str(file), *ONCE, "--force").returncode == 0
    assert log(pai) == ["a", "b", "c", "c", "a", "b", "c"]
    other = (*ONCE[:-1], "2026-11-21T02:00")
    assert pai("-f", str(file), *other).returncode == 0
    assert len(log(pai)) == 10


def test_commands_that_changed_are_run_from_the_first(pai: Pai, file: Path) -> None:
    (pai.folder / "fail-c").write_text("9")
    assert pai("-f", str(file), *ONCE).returncode == 9
    file.write_text(file.read_text().replace("-DjobName=a", "-DjobName=other"))
    assert pai("-f", str(file), *ONCE).returncode == 0
    assert log(pai) == ["a", "b", "c", "a", "b", "c"]


def test_a_run_that_is_under_way_is_not_run_beside(pai: Pai, file: Path) -> None:
    (pai.folder / "wait-a").touch()
    process = pai.start("-f", str(file), *ONCE)
    wait_until(lambda: log(pai) == ["a"])
    beside = pai("-f", str(file), *ONCE)
    assert beside.returncode == 75
    assert "is under way" in beside.stderr
    (pai.folder / "wait-a").unlink()
    assert process.wait(30) == 0


def test_a_killed_keeper_loses_nothing(pai: Pai, file: Path) -> None:
    """Its job had succeeded when it was killed: the next start goes on behind it."""
    (pai.folder / "wait-b").touch()
    process = pai.start("-f", str(file), *ONCE)
    wait_until(lambda: log(pai) == ["a", "b"])
    process.kill()
    process.wait()
    assert [run["state"] for run in runs(pai)] == ["LOST"]
    (pai.folder / "wait-b").unlink()
    ran = pai("-f", str(file), *ONCE, "--lock", "n", "--if-running", "wait", "--json")
    assert ran.returncode == 0, ran.stderr
    assert log(pai)[0] == "a"
    assert log(pai).count("a") == 1
    assert states(last(ran)) == ["SUCCEEDED"] * 3


SLOW_TO_END = """
import os, signal, time
def end(*_):
    open("ending", "w").close()
    while os.path.exists("hold"):
        time.sleep(0.02)
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
with open("log", "a") as log:
    log.write(f"{os.getpid()}\\n")
while len(open("log").read().split()) == 1:
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    "words", [ONCE, ("--lock", "n", "--if-running", "wait"), ("--max-running", "1")]
)
def test_a_script_that_outlives_its_keeper_is_waited_for(
    words: tuple[str, ...], pai: Pai, file: Path
) -> None:
    (pai.folder / "step.py").write_text(SLOW_TO_END)
    (pai.folder / "hold").touch()
    file.write_text("PAI -name tensorflow -Dscript=step.py;")
    first = pai.start("-f", str(file), *words)
    wait_until(lambda: len(log(pai)) == 1)
    first.kill()
    first.wait()
    wait_until(lambda: (pai.folder / "ending").exists(), 30)
    if "--lock" in words:
        skipped = pai("-f", str(file), "--lock", "n")
        assert skipped.returncode == 75, "and the next one still knows whom to wait for"
    second = pai.start("-f", str(file), *words)
    wait_until(lambda: len(runs(pai, "--state", "pending", "--state", "running")) == 1)
    assert len(log(pai)) == 1
    (pai.folder / "hold").unlink()
    assert second.wait(60) == 0
    assert len(log(pai)) == 2


def test_a_run_whose_script_still_lives_is_not_done_again(pai: Pai, file: Path) -> None:
    (pai.folder / "step.py").write_text(SLOW_TO_END)
    (pai.folder / "hold").touch()
    file.write_text("PAI -name tensorflow -Dscript=step.py;")
    first = pai.start("-f", str(file), "--name", "n")
    wait_until(lambda: len(log(pai)) == 1)
    first.kill()
    first.wait()
    wait_until(lambda: (pai.folder / "ending").exists(), 30)
    (run,) = runs(pai)
    again = pai("rerun", run["id"], "--failed")
    assert again.returncode == 75
    assert "still lives" in again.stderr
    (pai.folder / "hold").unlink()
    wait_until(lambda: pai("rerun", run["id"], "--failed").returncode == 0, 60)
    assert len(log(pai)) == 2


@pytest.mark.parametrize(("content", "said"), [("{half", "damaged"), (None, "no record")])
def test_a_damaged_run_is_told(content: str | None, said: str, pai: Pai, file: Path) -> None:
    assert pai("-f", str(file), "--name", "n").returncode == 0
    (run,) = runs(pai)
    record = Path(pai.home, "runs", run["id"], "run.json")
    record.unlink()
    if content is not None:
        record.write_text(content)
    for verb, code in (("cancel", 125), ("rerun", 2)):
        ran = pai(verb, run["id"])
        assert ran.returncode == code, ran.stderr
        assert said in ran.stderr


def test_a_damaged_request_is_told(pai: Pai, file: Path) -> None:
    assert pai("-f", str(file), "--name", "n").returncode == 0
    (run,) = runs(pai)
    Path(pai.home, "runs", run["id"], "request.json").write_text("{}")
    ran = pai("rerun", run["id"])
    assert ran.returncode == 2
    assert "has no readable request" in ran.stderr


def test_names_may_be_chinese(pai: Pai, file: Path) -> None:
    words = ("-f", str(file), "--name", "夜间.训练", "--once-per", "bizdate", "--lock", "锁")
    assert pai(*words).returncode == 0
    again = pai(*words)
    assert again.returncode == 0
    assert "has succeeded" in again.stderr
    assert log(pai) == [*"abc"]


# ====== Signals ======


def test_a_signal_while_the_end_is_told_is_late(pai: Pai, file: Path) -> None:
    told = pai.folder / "told"
    os.mkfifo(told)
    words = ("--notify", f"sh -c 'cat >{told}'", "--notify-on", "success", "--json")
    process = pai.start("-f", str(file), *words)
    with told.open() as stream:  # opens when the command does
        process.send_signal(signal.SIGTERM)
        assert json.loads(stream.read())["event"] == "success"
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["state"] == "SUCCEEDED"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_its_own_code(
    signum: signal.Signals, pai: Pai, file: Path
) -> None:
    (pai.folder / "wait-b").touch()
    process = pai.start("-f", str(file), "--retries", "3", "--preemptions", "3")
    wait_until(lambda: log(pai) == ["a", "b"])
    process.send_signal(signum)
    assert process.wait(60) == 128 + signum
    (run,) = runs(pai)
    assert (run["state"], run["exit_code"]) == ("CANCELLED", 128 + signum)
    assert states(run) == ["SUCCEEDED", "CANCELLED", "PENDING"]


def test_a_cancelled_job_ends_its_run(pai: Pai, file: Path) -> None:
    (pai.folder / "wait-b").touch()
    process = pai.start("-f", str(file), "--retries", "3", "--keep-going")
    wait_until(lambda: log(pai) == ["a", "b"])
    (run,) = runs(pai)
    assert pai("cancel", run["steps"][1]["jobs"][0]).returncode == 0
    assert process.wait(60) == 143
    assert states(runs(pai)[0]) == ["SUCCEEDED", "CANCELLED", "PENDING"]


def test_a_repeated_hour_is_two_times(pai: Pai, file: Path) -> None:
    """01:30 in New York on the day that ends summer time."""
    once = ("--name", "n", "--once-per", "cyctime", "--cyctime")
    for offset in ("-04:00", "-05:00", "-05:00"):
        assert pai("-f", str(file), *once, f"2026-11-01T01:30{offset}").returncode == 0
    assert log(pai) == [*"abc" * 2]


def test_a_job_that_is_run_again_by_hand_may_publish_again(pai: Pai, file: Path) -> None:
    ran = pai("-f", str(file), *ONCE, "--json")
    directory = JobDirectory(pai.home, last(ran)["steps"][0]["jobs"][0])
    asked = json.loads(Path(directory.request).read_bytes())
    assert asked["options"]["run_key"] == "n/20261119/0"
    assert api.recorded(directory)[1].run_key == ""


# ====== One at a time ======


def test_locks(pai: Pai, file: Path) -> None:
    (pai.folder / "wait-a").touch()
    locked = ("-f", str(file), "--lock", "gpu")
    first = pai.start(*locked)
    wait_until(lambda: log(pai) == ["a"])
    skipped = pai(*locked)
    assert skipped.returncode == 75
    (holder,) = (run["id"] for run in runs(pai, "--state", "running"))
    assert f"held by run {holder}" in skipped.stderr
    too_long = pai(*locked, "--if-running", "wait", "--lock-wait", "0.3s")
    assert too_long.returncode == 75
    third = pai.start(*locked, "--if-running", "replace")
    assert first.wait(30) == 143
    wait_until(lambda: log(pai) == ["a", "a"])
    waiting = pai.start(*locked, "--if-running", "wait")
    assert waiting.stderr is not None
    wait_until(lambda: len(runs(pai, "--state", "pending")) == 1)
    (pai.folder / "wait-a").unlink()
    assert third.wait(30) == 0
    assert waiting.wait(30) == 0
    assert log(pai) == ["a", *"abc" * 2]


@pytest.mark.proof_queue
@pytest.mark.timeout(1800)
def test_a_queue_on_this_machine(pai: Pai, file: Path) -> None:
    (pai.folder / "wait-a").touch()
    count = int(os.environ.get("PAI_PROOF_COUNT", "4"))
    submitted = [pai.start("-f", str(file), "--detach", "--max-running", "2") for _ in range(count)]
    ids = {process.communicate(timeout=300)[0].strip() for process in submitted}
    assert len(ids) == count
    wait_until(lambda: len(runs(pai, "--state", "running", "-n", "1000")) == 2, 60)
    wait_until(lambda: log(pai) == ["a", "a"], 60)
    assert len(runs(pai, "--state", "pending", "-n", "1000")) == count - 2
    (pai.folder / "wait-a").unlink()
    wait_until(lambda: len(runs(pai, "--state", "succeeded", "-n", "1000")) == count, 1200, 0.5)
    assert {run["id"] for run in runs(pai, "-n", "1000")} == ids
    assert sorted(log(pai)) == sorted("abc" * count)


def test_a_run_in_the_background_can_be_ended(pai: Pai, file: Path) -> None:
    (pai.folder / "wait-a").touch()
    run_id = pai("-f", str(file), "--detach", "--name", "back").stdout.strip()
    wait_until(lambda: log(pai) == ["a"])
    assert pai("cancel", run_id).returncode == 0
    wait_until(lambda: runs(pai)[0]["state"] == "CANCELLED", 30)
    assert Path(pai.home, "runs", run_id, "log").exists()
    assert log(pai) == ["a"]


def test_a_keeper_that_crashes_says_so_in_the_log(pai: Pai, file: Path) -> None:
    """Its record's place is taken by a folder."""
    code = f"""
import os
from pathlib import Path
from pai_runner.cli.keeping import keep
from pai_runner.command import parse
from pai_runner.run.options import Options
from pai_runner.runs.options import RunOptions
from pai_runner.runs.starting import Request, prepare

statements = tuple(parse(Path({str(file)!r}).read_text()))
prepared = prepare(Request(statements, Options(), RunOptions(), Path.cwd()), print)
os.mkdir(prepared[0].record)
print(keep(prepared, detach=True, as_json=True))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pai.folder,
        env=pai.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    shown, exit_code = ran.stdout.splitlines()
    assert exit_code == "0"
    text = Path(pai.home, "runs", json.loads(shown)["id"], "log").read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "cannot be written" in text


# ====== What an id names ======


def test_a_text_that_names_a_run_and_a_job_is_refused(pai: Pai, file: Path) -> None:
    found = last(pai("-f", str(file), "--json"))
    job = found["steps"][0]["jobs"][0]
    for verb in ("cancel", "rerun"):
        both = pai(verb, found["id"][:4])
        assert both.returncode == 2
        assert found["id"] in both.stderr
        assert job in both.stderr
    forced = pai("cancel", "--force", found["id"])
    assert forced.returncode == 2
    assert "--force concerns jobs" in forced.stderr
    assert "had ended already" in pai("cancel", found["id"].rpartition("-")[2]).stderr


def test_a_run_of_another_machine_is_not_ended_from_here(pai: Pai) -> None:
    there = RunDirectory(str(pai.home), "20261120-020000-abcdef")
    os.makedirs(there.path)
    keeper = Identity(4711, "1", "boot", "elsewhere.example")
    write_run(there, Run(there.id, "n", State.RUNNING, (), keeper=keeper))
    ran = pai("cancel", there.id)
    assert ran.returncode == 125
    assert "elsewhere.example" in ran.stderr


# ====== Secrets ======


def test_secrets_of_commands_are_in_no_record(pai: Pai, file: Path) -> None:
    words = "--password 'hunter2hunter2' --api_key='zzzzyyyyxxxx' x"
    command = f'PAI -name tensorflow -Dscript=step.py -DuserDefinedParameters="{words}";'
    file.write_text(command * 2, encoding="utf-8")
    ran = pai("-f", str(file), "--json")
    assert ran.returncode == 0, ran.stderr
    assert log(pai) == ["--password"] * 2
    for folder, _, names in os.walk(pai.home):
        for name in names:
            data = Path(folder, name).read_bytes()
            assert b"hunter2" not in data, name
            assert b"zzzzyyyy" not in data, name
    again = pai("rerun", last(ran)["id"])
    assert again.returncode == 2
    assert "held secrets" in again.stderr
    job = json.loads(pai("status", "--json", last(ran)["steps"][0]["jobs"][0]).stdout)
    request = json.loads(Path(pai.home, "jobs", job["id"], "request.json").read_bytes())
    assert last(ran)["steps"][0]["command"] == request["statement"]["text"]


# ====== Telling others ======


def test_a_command_is_told(pai: Pai, file: Path) -> None:
    told = pai.folder / "told"
    words = ("--notify", f"sh -c 'cat >> {told}; echo >> {told}'", "--name", "n")
    words += ("--notify-on", "start,success,failure,recovery")
    (pai.folder / "fail-a").write_text("3")
    assert pai("-f", str(file), *words).returncode == 3
    assert pai("-f", str(file), *words).returncode == 0
    found = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    events = [(one["event"], one["run"]["state"]) for one in found]
    assert events == [
        ("start", "RUNNING"),
        ("failure", "FAILED"),
        ("start", "RUNNING"),
        ("success", "SUCCEEDED"),
        ("recovery", "SUCCEEDED"),
    ]


def test_nobody_to_tell_fails_no_run(pai: Pai, file: Path) -> None:
    url = "http://127.0.0.1:9/hooks/secret-token-4711"
    told = {"HOOK": url}
    ran = pai("-f", str(file), "--notify", "env:HOOK", "--notify-on", "success", **told)
    assert ran.returncode == 0
    assert "nobody was told of the success" in ran.stderr
    assert "4711" not in ran.stderr
    for folder, _, names in os.walk(pai.home):
        for name in names:
            assert b"4711" not in Path(folder, name).read_bytes()


# ====== What cannot be ======


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--once-per", "bizdate"), "--name"),
        (("--if-running", "wait"), "--lock"),
        (("--force",), "--once-per"),
        (("--retries", "2", "--retry-on", "bad"), "failure, lost, timeout, setup"),
        (("--backoff", "1s"), "--retries"),
        (("--retries", "1", "--fatal", "("), "regular expression"),
        (("--notify", "env:NOBODY"), "NOBODY is not set"),
        (("--name", "../x"), "cannot be a name"),
        (("--max-running", "0"), "from 1 on"),
        (("--lock", "n", "--if-running", "skip", "--lock-wait", "1h"), "leave one of them out"),
        (("--notify-on", "start"), "whom to tell"),
        (("--retries", "1", "--fatal", ""), "fits everything"),
        (("--name", "n", "--once-per", "cyctime"), "--cyctime 2026"),
        (("--name", "夜" * 70), "cannot be a name"),
    ],
)
def test_wrong_options_end_with_2(words: tuple[str, ...], says: str, pai: Pai, file: Path) -> None:
    ran = pai("-f", str(file), *words)
    assert ran.returncode == 2
    assert says in ran.stderr
    assert not (pai.home / "runs").exists()
    assert not log(pai)
