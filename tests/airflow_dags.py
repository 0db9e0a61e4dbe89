"""`PaiOperator` in DAGs, run by `dag.test()`. test_airflow.py runs this in an Airflow."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import airflow
import pytest
from airflow.utils.db import initdb
from airflow_support import StandIn, kill_when, real_pai

UTC = timezone.utc
AIRFLOW_3 = airflow.__version__.startswith("3.")

NIGHTLY = """\
-- @param day=$[yyyymmdd-1]
PAI -name tensorflow -Dscript=train.py -DcheckpointDir=./models
  -DuserDefinedParameters='${day}';
"""

DAGS = """
import json
import os

import pendulum
from airflow import DAG
from airflow.timetables.interval import CronDataIntervalTimetable

from pai_runner.airflow import PaiOperator

every_night = CronDataIntervalTimetable("0 2 * * *", timezone="Asia/Shanghai")
start = pendulum.datetime(2026, 11, 1, tz="Asia/Shanghai")
settings = {"pai": os.environ["STAND_IN"]}

with DAG("nightly", start_date=start, schedule=every_night, catchup=False) as nightly:
    text = PaiOperator(
        task_id="text",
        command="PAI -Dday={{ ds_nodash }};",
        env={"LINES": "one,two,three %s"},
        assignments={"day": "{{ ds_nodash }}", "next": "$[yyyymmdd+1]"},
        **settings,
    )
    after = PaiOperator(
        task_id="after", command="PAI -Dof={{ ti.xcom_pull(task_ids='text')['id'] }};", **settings
    )
    PaiOperator(task_id="file", command="train.pai", name="{{ dag.dag_id }}.{{ ds }}", **settings)
    PaiOperator.partial(task_id="each", **settings).expand(command=["PAI 1;", "PAI 2;"])
    busy = PaiOperator(task_id="busy", command="PAI;", env={"CODE": "75"}, **settings)
    text >> after
    busy >> PaiOperator(task_id="never", command="PAI;", **settings)

with DAG("by_hand", start_date=start, schedule=None) as by_hand:
    PaiOperator(task_id="train", command="PAI;", **settings)

with DAG("trained", start_date=start, schedule=every_night, catchup=False) as trained:
    PaiOperator(
        task_id="train",
        command="nightly.pai",
        once_per="bizdate",
        **json.loads(os.environ["TRAINED"]),
    )

with DAG("killed", start_date=start, schedule=None) as killed:
    PaiOperator(task_id="train", **json.loads(os.environ["KILLED"]))
"""


@pytest.fixture(scope="session", autouse=True)
def database() -> None:
    initdb()


@pytest.fixture
def dags(
    stand_in: StandIn,
    saves: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """The DAGs above, from a file in Airflow's folder; the template lies beside it."""
    monkeypatch.setenv("STAND_IN", stand_in.path)
    killed = {"command": saves.command, **real_pai(tmp_path)}
    monkeypatch.setenv("KILLED", json.dumps(killed))
    monkeypatch.setenv("TRAINED", json.dumps(real_pai(tmp_path)))
    folder = Path(os.environ["AIRFLOW_HOME"], "dags")
    folder.mkdir(exist_ok=True)
    (folder / "train.pai").write_text("PAI -Dday={{ ds }} -Dpath=${day};\n", encoding="utf-8")
    (folder / "nightly.pai").write_text(NIGHTLY, encoding="utf-8")
    (folder / "dags.py").write_text(DAGS, encoding="utf-8")
    return runpy.run_path(str(folder / "dags.py"))


def test_a_run_with_an_interval(
    dags: dict[str, Any], stand_in: StandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    # Started by hand, some hours after the interval has ended.
    when = datetime(2026, 11, 20, 3, 30, tzinfo=UTC)
    name = "logical_date" if AIRFLOW_3 else "execution_date"
    run = dags["nightly"].test(**{name: when})
    states = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
    skipped = {("busy", -1), ("never", -1)}
    assert {key for key, state in states.items() if state == "skipped"} == skipped
    assert {state for key, state in states.items() if key not in skipped} == {"success"}

    log = capfd.readouterr().out
    assert re.search(r"one\b.*\n.*two\b.*\n.*three %s", log), log
    seen = stand_in.seen("nightly.text")
    assert seen["stdin"] == "PAI -Dday=20261120;"
    argv = seen["argv"]
    assert argv[argv.index("--cyctime") + 1] == "2026-11-20T02:00:00+08:00"
    assert argv[argv.index("--timezone") + 1] == "Asia/Shanghai"
    assert argv[-4:] == ["--param", "day=20261120", "--param", "next=$[yyyymmdd+1]"]
    assert stand_in.seen("nightly.after")["stdin"] == "PAI -Dof=run-1;"
    assert stand_in.seen("nightly.2026-11-20")["stdin"] == "PAI -Dday=2026-11-20 -Dpath=${day};"
    assert [stand_in.seen(f"nightly.each.{n}")["stdin"] for n in (0, 1)] == ["PAI 1;", "PAI 2;"]


def test_a_run_without_an_interval(dags: dict[str, Any], stand_in: StandIn) -> None:
    when = datetime(2026, 11, 20, 20, 30, 15, tzinfo=UTC)
    # In Airflow 3 such a run has no logical date either.
    dates = {"logical_date": None, "run_after": when} if AIRFLOW_3 else {"execution_date": when}
    run = dags["by_hand"].test(**dates)
    assert [str(ti.state) for ti in run.get_task_instances()] == ["success"]
    argv = stand_in.seen("by_hand.train")["argv"]
    assert argv[argv.index("--cyctime") + 1] == "2026-11-21T04:30:15+08:00"


def test_nights_that_train_export_and_prune(dags: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("nightly_train.py"), tmp_path / "train.py")
    name = "logical_date" if AIRFLOW_3 else "execution_date"
    # Airflow starts a night again that has succeeded: its task was cleared.
    for day in (18, 19, 19, 20):
        run = dags["trained"].test(**{name: datetime(2026, 11, day, 18, 0, tzinfo=UTC)})
        assert [str(ti.state) for ti in run.get_task_instances()] == ["success"]
    trained = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert trained == ["20261118 1", "20261119 2", "20261120 3"]
    versions = {path.name for path in (tmp_path / "models" / "export").iterdir()}
    assert {name for name in versions if name.isdigit()} == {"2", "3"}, "older ones are pruned"


def test_a_task_that_is_killed(dags: dict[str, Any], saves: SimpleNamespace) -> None:
    # Airflow's own handler of the signal calls on_kill; in Airflow 2 it raises besides.
    thread = kill_when(saves.started.exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with nullcontext() if AIRFLOW_3 else pytest.raises(BaseException, match="SIGTERM"):
        dags["killed"].test()
    thread.join()
    assert saves.saved.read_text(encoding="utf-8") == "step 7"
