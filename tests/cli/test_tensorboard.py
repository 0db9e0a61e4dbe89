"""`pai tensorboard`: the real TensorBoard on events in buckets and folders, asked over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from moto_server import CREDENTIALS, S3Server
from support import ROOT, Pai, wait_until
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pai_runner.command import make_job, parse_arguments
from pai_runner.jobs.directory import create
from pai_runner.jobs.record import Record, write
from pai_runner.jobs.state import State
from pai_runner.run.options import Options
from pai_runner.run.planner import make_plan

EVENTS = "events.out.tfevents.1760000000.host"


def events(path: Path, steps: Iterable[int]) -> bytes:
    """Write a file of events, a loss at each of `steps`, and return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step in steps:
            value = Summary.Value(tag="loss", simple_value=1.0 / (1 + step))
            event = Event(wall_time=2.0 + step, step=step, summary=Summary(value=[value]))
            records.write(event.SerializeToString())
    return path.read_bytes()


class Board:
    """A `pai tensorboard` that runs; `url` is empty until it serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_until(lambda: self.url or process.poll() is not None, seconds=120)
        assert self.url, "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"TensorBoard \S+ at (http://\S+?)/? ", line)
            self.url = found[1] if found else self.url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/data/{path}", timeout=60) as answer:
            return json.load(answer)

    def steps(self, run: str) -> list[int]:
        """Return the steps at which a run has a loss."""
        if run not in self.get("plugin/scalars/tags"):
            return []
        points = self.get(f"plugin/scalars/scalars?tag=loss&run={quote(run, safe='')}")
        return [step for _, step, _ in points]

    def end(self) -> None:
        """Press Ctrl-C; it must be a clean end, and nothing printed may be a secret."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, "".join(self.lines)
        self._reader.join()
        assert not any(secret in line for secret in CREDENTIALS.values() for line in self.lines)
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)


def make_recorded_job(pai: Pai, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> str:
    """Make the record of a job that ended, with a plan as its command makes it."""
    for name, value in pai.environment.items():
        monkeypatch.setenv(name, value)
    script = pai.folder / "script.py"
    script.write_text("pass", encoding="utf-8")
    words = [f"-D{name}={value}" for name, value in parameters.items()]
    job = make_job(parse_arguments(["-name", "tensorflow", f"-Dscript={script}", *words]))
    directory = create(pai.home)
    plan = make_plan(job, directory, Options(devices="cpu"), pai.folder, Path(directory.code)).plan
    Path(directory.spec).write_text(json.dumps(plan.to_json()), encoding="utf-8")
    write(directory, Record(directory.id, "trained", State.SUCCEEDED))
    return directory.id


@pytest.mark.slow
def test_a_job_s_events_are_read_from_its_bucket_and_folder_as_they_grow(
    pai: Pai,
    s3_server: S3Server,
    s3_location: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket, _, prefix = s3_location.removeprefix("s3://").partition("/")
    client, key = s3_server.client(), f"{prefix}run/{EVENTS}"
    client.put_object(Bucket=bucket, Key=key, Body=events(tmp_path / "1", range(3)))
    summaries = tmp_path / "summaries"
    events(summaries / EVENTS, range(2))
    access = f"?key={CREDENTIALS['key']}&secret={CREDENTIALS['secret']}"
    opened = f"{s3_location}{access}&endpoint_url={quote(s3_server.url, safe='')}&region=us-east-1"
    job = make_recorded_job(pai, monkeypatch, checkpointDir=opened, summaryDir=str(summaries))
    refused = pai("tensorboard", job)
    assert refused.returncode == 125
    assert f"the keys of {s3_location} are not on record" in refused.stderr
    words = [job, "--location", opened, "--port", "0", "--", "--reload_interval", "1"]
    without_keys = {name: "" for name in pai.settings if name.startswith("AWS_")}
    board = Board(pai.with_settings(**without_keys).start("tensorboard", *words))
    wait_until(lambda: board.steps("dir/run") == [0, 1, 2], seconds=60, step=0.2)
    wait_until(lambda: board.steps("summaries/.") == [0, 1], seconds=60, step=0.2)
    client.put_object(Bucket=bucket, Key=key, Body=events(tmp_path / "1", range(6)))
    wait_until(lambda: board.steps("dir/run") == [0, 1, 2, 3, 4, 5], seconds=60, step=0.2)
    board.end()


@pytest.mark.slow
def test_a_local_folder_s_events_are_shown(pai: Pai, tmp_path: Path) -> None:
    events(tmp_path / "logs" / "train" / EVENTS, range(4))
    words = [f"{tmp_path}/logs", "--port", "0", "--", "--reload_interval", "1"]
    board = Board(pai.start("tensorboard", *words))
    wait_until(lambda: board.get("runs") == ["train"], seconds=60, step=0.2)
    wait_until(lambda: board.steps("train") == [0, 1, 2, 3], seconds=60, step=0.2)
    board.end()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["20200101"], 2, "there is no job"),
        (["./missing"], 125, "there is no folder"),
        (["s3://bucket/dir", "--port", "http"], 2, "`http` is not a port"),
        (["s3://bucket/dir", "--role", "who"], 2, "--role who: no such choice"),
        ([], 2, "ID|LOCATION"),
    ],
)
def test_what_is_wrong_is_told(pai: Pai, words: list[str], code: int, says: str) -> None:
    ran = pai("tensorboard", *words)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert says in ran.stderr


def test_an_interpreter_without_tensorboard_is_told_how_to_get_it() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"{}")
    os.close(writer)
    variables = {"PYTHONPATH": str(ROOT), "PAI_SECRETS_FD": str(reader)}
    ran = subprocess.run(
        [
            sys.executable,
            "-S",
            "-m",
            "pai_runner.script.board",
        ],  # -S: what is installed is not seen
        env={**variables, "PAI_TENSORBOARD": '{"mounts": [], "arguments": []}'},
        pass_fds=[reader],
        capture_output=True,
        text=True,
    )
    os.close(reader)
    assert ran.returncode == 125
    assert f"{sys.executable} has no TensorBoard" in ran.stderr
    assert f"{sys.executable} -m pip install tensorboard" in ran.stderr
