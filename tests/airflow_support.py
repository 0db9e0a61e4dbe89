"""What the tests in an Airflow share. They run with that Airflow's Python: see test_airflow.py."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pai_runner.airflow import PaiOperator

# Stands in for `pai`: keeps what it is given beside itself, prints what it is told, and ends.
STAND_IN = """#!{python}
import json, os, sys
from pathlib import Path
folder = Path(__file__).parent
seen = {{"argv": sys.argv[1:], "stdin": sys.stdin.read(), "cwd": os.getcwd(),
        "env": dict(os.environ)}}
name = sys.argv[sys.argv.index("--name") + 1]
(folder / f"{{name}}.json").write_text(json.dumps(seen))
print("pai: job 1", file=sys.stderr)
for line in os.environ.get("LINES", "").split(","):
    print(line)
code = int(os.environ.get("CODE", "0"))
done = {{"id": "run-1", "state": "FAILED" if code else "SUCCEEDED", "exit_code": code}}
if code:
    done["message"] = "it is like that"
print(json.dumps(done))
sys.exit(code)
"""


class StandIn:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "pai")
        Path(self.path).write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
        os.chmod(self.path, 0o755)

    def seen(self, name: str) -> Any:
        """Return what the run of this name was started with."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[PaiOperator], list[str]]:
    """Return a function that collects the lines which an operator logs from then on."""

    def collect(operator: PaiOperator) -> list[str]:
        lines: list[str] = []
        log = logging.Logger("collected")
        log.addHandler(Collector(lines))
        monkeypatch.setattr(type(operator), "log", log)
        return lines

    return collect


class Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def program(text: str) -> list[str]:
    """Return a `pai` that is a Python program; it finds its words in sys.argv."""
    return [sys.executable, "-c", text]


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as `condition()` is true; fail after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def kill_when(condition: Callable[[], bool], kill: Callable[[], None]) -> threading.Thread:
    """Call `kill` from another thread as soon as `condition()` is true."""

    def wait() -> None:
        wait_until(condition)
        kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


SAVES = """
import os, signal, sys, time
def save(*_):
    print("saving")
    open({asked!r}, "w").close()
    while not os.path.exists({may_end!r}):
        time.sleep(0.02)
    with open({saved!r}, "w") as stream:
        stream.write("step 7")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open({started!r}, "w").close()
while True:
    time.sleep(0.1)
"""


def real_pai(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of an operator that runs the real `pai`."""
    return {
        "pai": json.loads(os.environ["REAL_PAI"]),
        "env": {"PAI_HOME": str(tmp_path / "home")},
        "cwd": str(tmp_path),
    }


@pytest.fixture
def saves(tmp_path: Path) -> SimpleNamespace:
    """A script that runs until SIGTERM and saves then, and the command for it.

    It ends when there is a file `may_end`; that is there from the beginning.
    """
    files = {name: tmp_path / name for name in ("started", "asked", "may_end", "saved")}
    files["may_end"].touch()
    script = tmp_path / "saves.py"
    script.write_text(SAVES.format(**{k: str(v) for k, v in files.items()}), encoding="utf-8")
    return SimpleNamespace(
        command=f"PAI -name tensorflow -Dscript=file://{script};",
        **files,
    )
