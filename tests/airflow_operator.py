"""`PaiOperator.execute` and `on_kill`, called directly. test_airflow.py runs this in an Airflow."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow import DAG
from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow_support import StandIn, kill_when, program, real_pai, wait_until

from pai_runner.airflow import PaiOperator, scheduled_time, words

UTC = timezone.utc
COMMAND = "PAI -name tensorflow -Dscript=train.py -DbucketKey='secret';"

# ====== What pai is started with ======


def test_the_words() -> None:
    made = words(
        pai=["/opt/pai"],
        cyctime=datetime(2026, 11, 20, tzinfo=ZoneInfo("Asia/Shanghai")),
        timezone="Asia/Shanghai",
        name="nightly.train",
        once_per="bizdate",
        grace=2.5,
        assignments={"day": "$[yyyymmdd-1]", "steps": 100},
        options=["--timeout", "6h"],
    )
    assert made == [
        "/opt/pai", "-f", "-", "--cyctime", "2026-11-20T00:00:00+08:00",
        "--timezone", "Asia/Shanghai", "--name", "nightly.train", "--once-per", "bizdate",
        "--grace", "2.5s", "--json", "--param", "day=$[yyyymmdd-1]", "--param", "steps=100",
        "--timeout", "6h",
    ]  # fmt: skip


def test_the_instant_of_a_run() -> None:
    day = [datetime(2026, 11, number, tzinfo=UTC) for number in (1, 2, 3)]
    run = SimpleNamespace(run_after=day[2])
    interval = {"data_interval_end": day[0], "logical_date": day[1], "dag_run": run}
    assert scheduled_time(interval) == day[0]
    assert scheduled_time({"logical_date": day[1], "dag_run": run}) == day[1]
    assert (
        scheduled_time({"data_interval_end": None, "logical_date": None, "dag_run": run})
        == (day[2])
    )
    before = datetime.now(UTC)
    assert before <= scheduled_time({}) <= datetime.now(UTC)


def test_execute_outside_a_run(stand_in: StandIn, tmp_path: Path) -> None:
    operator = PaiOperator(
        task_id="train",
        command=COMMAND,
        pai=stand_in.path,
        name="by-hand",
        timezone="Asia/Shanghai",
        once_per=None,
        env={"BUCKET": "oss://b/"},
        cwd=str(tmp_path),
    )
    before = datetime.now(UTC).replace(microsecond=0)
    record = operator.execute({})
    assert record == {"id": "run-1", "state": "SUCCEEDED", "exit_code": 0}
    seen = stand_in.seen("by-hand")
    assert seen["stdin"] == COMMAND
    assert "secret" not in " ".join(seen["argv"])
    assert "--once-per" not in seen["argv"]
    assert seen["env"]["BUCKET"] == "oss://b/"
    assert seen["env"]["PATH"] == os.environ["PATH"]
    assert seen["cwd"] == str(tmp_path)
    cyctime = datetime.fromisoformat(seen["argv"][seen["argv"].index("--cyctime") + 1])
    assert cyctime.utcoffset() == timedelta(hours=8)
    assert before <= cyctime <= datetime.now(UTC)


def test_a_zone_that_is_none() -> None:
    operator = PaiOperator(task_id="train", command=COMMAND, timezone="Asia/Beijing")
    with pytest.raises(AirflowFailException, match="`Asia/Beijing` is not a time zone"):
        operator.execute({})


def test_the_zone_and_name_are_those_of_the_dag(stand_in: StandIn) -> None:
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    with DAG("nightly", start_date=start, schedule=None):
        operator = PaiOperator(task_id="train", command=COMMAND, pai=[stand_in.path])
    # The night on which 2:30 comes twice: the offset tells which one it is.
    second = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    operator.execute({"data_interval_end": second})
    argv = stand_in.seen("nightly.train")["argv"]
    assert argv[argv.index("--cyctime") + 1] == "2026-10-25T02:30:00+01:00"
    assert argv[argv.index("--timezone") + 1] == "Europe/Berlin"


# ====== What comes out ======


@pytest.mark.parametrize(
    ("code", "settings", "expected"),
    [
        (1, {}, AirflowException),
        (2, {}, AirflowFailException),
        (125, {}, AirflowFailException),
        (125, {"fatal_exit_codes": ()}, AirflowException),
        (75, {}, AirflowSkipException),
        (75, {"skip_busy": False}, AirflowException),
    ],
)
def test_exit_codes(
    code: int, settings: dict[str, Any], expected: type[Exception], stand_in: StandIn
) -> None:
    operator = PaiOperator(
        task_id="train",
        command=COMMAND,
        pai=stand_in.path,
        env={"CODE": str(code)},
        **settings,
    )
    with pytest.raises(AirflowException) as raised:
        operator.execute({})
    assert type(raised.value) is expected
    assert str(raised.value) == f"pai ended with exit code {code}: it is like that"


def test_a_later_try_is_never_skipped(stand_in: StandIn) -> None:
    operator = PaiOperator(task_id="train", command=COMMAND, pai=stand_in.path, env={"CODE": "75"})
    with pytest.raises(AirflowException) as raised:
        operator.execute({"ti": SimpleNamespace(try_number=2, map_index=-1)})
    assert type(raised.value) is AirflowException


def test_without_a_record_the_last_line_tells_why() -> None:
    wrong = program(
        "import sys; print('pai: error: so it is\\n     hint', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(AirflowFailException, match=r"^pai ended .* 2: pai: error: so it is$"):
        PaiOperator(task_id="train", command=COMMAND, pai=wrong).execute({})


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    operator = PaiOperator(task_id="train", command=COMMAND, pai=str(tmp_path / "pai"))
    with pytest.raises(AirflowFailException, match=r"cannot start .*/pai: "):
        operator.execute({})


def test_a_program_that_is_killed() -> None:
    killed = program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(AirflowException, match=r"^pai ended with signal SIGKILL$"):
        PaiOperator(task_id="train", command=COMMAND, pai=killed).execute({})


def test_lines_come_in_order_whatever_their_bytes(logged: Callable[..., list[str]]) -> None:
    prints = """
import os, sys
out = sys.stdout.buffer
for piece in ("训".encode()[:2], "训".encode()[2:] + b"\\r\\n", b"\\r 10%", b"\\r 20%", b"\\r",
              b"\\n\\xff\\xfe!\\n\\n", b'{"loss": 1}\\n', b"x" * 200000 + b"\\n", b"the end"):
    out.write(piece)
    out.flush()
"""
    operator = PaiOperator(task_id="train", command=COMMAND, pai=program(prints))
    lines = logged(operator)
    assert operator.execute({}) is None
    # Airflow itself says first that no task runner calls it.
    shown = lines[2:]
    long = [line for line in shown if line.startswith("xxx")]
    assert sum(map(len, long)) == 200000
    assert [line for line in shown if line not in long] == [
        "训", " 10%", " 20%", "\ufffd\ufffd!", '{"loss": 1}', "the end",
        "`pai` has printed no record: is it older than this operator?",
    ]  # fmt: skip


def test_a_record_of_any_length_is_returned() -> None:
    prints = """
import json
print(json.dumps({"id": "run-1", "state": "SUCCEEDED", "exit_code": 0, "steps": "x" * 300_000}))
"""
    record = PaiOperator(task_id="train", command=COMMAND, pai=program(prints)).execute({})
    assert record is not None
    assert len(record["steps"]) == 300_000


def test_much_of_everything_at_once_blocks_nobody(logged: Callable[..., list[str]]) -> None:
    # Prints before it reads; each of the three is far more than a pipe holds.
    chatty = """
import sys
for number in range(20000):
    print("out", number)
    print("err", number, file=sys.stderr)
text = sys.stdin.read()
print(len(text), text[-3:])
"""
    operator = PaiOperator(task_id="train", command="x" * 1_000_000 + "end", pai=program(chatty))
    lines = logged(operator)
    operator.execute({})
    for kind in ("out", "err"):
        numbers = [line.split()[1] for line in lines if line.startswith(f"{kind} ")]
        assert numbers == [str(number) for number in range(20000)]
    assert "1000003 end" in lines


def test_a_program_that_does_not_read_its_input() -> None:
    deaf = program("import sys; sys.stdin.close(); sys.exit(3)")
    operator = PaiOperator(task_id="train", command="x" * 1_000_000, pai=deaf)
    with pytest.raises(AirflowException, match=r"^pai ended with exit code 3$"):
        operator.execute({})


def test_secrets_among_the_words_are_not_logged(logged: Callable[..., list[str]]) -> None:
    silent = [*program("pass"), "--notify", "https://hooks/?token=abcdef123"]
    operator = PaiOperator(task_id="train", command=COMMAND, pai=silent)
    lines = logged(operator)
    operator.execute({})
    assert [line for line in lines if line.startswith("Starting: ") and "token=***" in line]
    assert not [line for line in lines if "abcdef123" in line or "bucketKey" in line]


@pytest.mark.parametrize("words", [["--notify", "{}"], ["--notify={}"]])
def test_webhooks_are_not_logged(words: list[str], logged: Callable[..., list[str]]) -> None:
    options = [word.format("https://hooks.example.com/services/T0/xyz4711") for word in words]
    operator = PaiOperator(task_id="train", command=COMMAND, pai=program("pass"), options=options)
    lines = logged(operator)
    operator.execute({})
    assert [line for line in lines if line.startswith("Starting: ") and "--notify" in line]
    assert not [line for line in lines if "xyz4711" in line]


# ====== on_kill ======


def test_on_kill_lets_the_script_save(
    saves: SimpleNamespace, tmp_path: Path, logged: Callable[..., list[str]]
) -> None:
    operator = PaiOperator(task_id="train", command=saves.command, **real_pai(tmp_path))
    lines = logged(operator)
    thread = kill_when(saves.started.exists, operator.on_kill)
    with pytest.raises(AirflowException, match="as it was told to"):
        operator.execute({})
    thread.join()
    assert saves.saved.read_text(encoding="utf-8") == "step 7"
    assert "saving" in lines


class OutOfTime(BaseException):
    """As Airflow's own, which its handler of SIGALRM raises."""


def test_an_exception_of_a_signal_handler_lets_the_script_save(
    saves: SimpleNamespace, tmp_path: Path, logged: Callable[..., list[str]]
) -> None:
    def raise_it(*_: object) -> None:
        raise OutOfTime

    operator = PaiOperator(task_id="train", command=saves.command, **real_pai(tmp_path))
    lines = logged(operator)
    before = signal.signal(signal.SIGALRM, raise_it)
    thread = kill_when(saves.started.exists, lambda: os.kill(os.getpid(), signal.SIGALRM))
    try:
        with pytest.raises(OutOfTime):
            operator.execute({})
    finally:
        signal.signal(signal.SIGALRM, before)
    thread.join()
    assert saves.saved.read_text(encoding="utf-8") == "step 7"
    assert "saving" in lines
    operator.on_kill()  # Airflow calls it then, too: there is nothing left to do.


def test_the_script_saves_though_its_task_is_killed_meanwhile(
    saves: SimpleNamespace, tmp_path: Path
) -> None:
    # Airflow 3 gives a task five seconds between SIGTERM and SIGKILL, Airflow 2 a minute.
    saves.may_end.unlink()
    operator = PaiOperator(task_id="train", command=saves.command, **real_pai(tmp_path))
    task = os.fork()
    if task == 0:
        try:
            signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
            operator.execute({})
        finally:
            os._exit(0)
    wait_until(saves.started.exists)
    os.kill(task, signal.SIGTERM)
    wait_until(saves.asked.exists)
    os.kill(task, signal.SIGKILL)
    os.waitpid(task, 0)
    saves.may_end.touch()
    wait_until(saves.saved.exists)


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pai_runner.airflow._LAST_WORDS_SECONDS", 0.2)
    started = tmp_path / "started"
    stubborn = program(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(started)!r}, 'w').close()\nwhile True: time.sleep(1)"
    )
    operator = PaiOperator(task_id="train", command=COMMAND, pai=stubborn, grace=0.1)
    thread = kill_when(started.exists, operator.on_kill)
    with pytest.raises(AirflowException, match="signal SIGKILL, as it was told to"):
        operator.execute({})
    thread.join()


def test_a_night_is_run_once(tmp_path: Path, logged: Callable[..., list[str]]) -> None:
    script = tmp_path / "nightly.py"
    script.write_text("import sys; print('started with', *sys.argv[1:])", encoding="utf-8")
    operator = PaiOperator(
        task_id="train",
        command=(
            f"PAI -name tensorflow -Dscript=file://{script}"
            " -DuserDefinedParameters='--day=${day} --night=${bdp.system.bizdate}';"
        ),
        assignments={"day": "$[yyyy-mm-dd]"},
        timezone="Asia/Shanghai",
        **real_pai(tmp_path),
    )
    lines = logged(operator)
    night = {"data_interval_end": datetime(2026, 11, 19, 18, tzinfo=UTC)}
    records = [operator.execute(night) for _ in range(2)]
    started = [line for line in lines if line.startswith("started with")]
    assert started == ["started with --day=2026-11-20 --night=20261119"]
    assert [record and record["state"] for record in records] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_script_that_fails(tmp_path: Path, logged: Callable[..., list[str]]) -> None:
    script = tmp_path / "fails.py"
    script.write_text("for n in range(5): print('line', n, flush=True)\nraise SystemExit(7)\n")
    operator = PaiOperator(
        task_id="train",
        command=f"PAI -name tensorflow -Dscript=file://{script};",
        **real_pai(tmp_path),
    )
    lines = logged(operator)
    with pytest.raises(AirflowException, match=r"^pai ended with exit code 7"):
        operator.execute({})
    shown = [line for line in lines if line.startswith("line ")]
    assert shown == [f"line {number}" for number in range(5)]
