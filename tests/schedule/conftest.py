"""What tests of schedules share: `pai schedule`, and a world for it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from schedule_world import PROGRAM, Verb, World, executable
from support import ROOT

from pai_runner.cli.main import main


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs `pai schedule …` in this process; returns the code, standard output and error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code: int | str | None
        try:
            code = main(["schedule", *arguments])
        except SystemExit as end:  # argparse's
            code = end.code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(code or 0), printed.out, printed.err

    return run


@pytest.fixture
def world(tmp_path: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, verb)
    made.home.mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    crontab = ROOT / "tests/servers/crontab_program.py"
    executable(programs / "crontab", f'#!/bin/sh\nexec {sys.executable} -SE {crontab} "$@"\n')
    made.behave("exit 0")
    made.file.write_text("PAI -name tensorflow -Dscript=train.py;\n")
    quoted = {
        "python": sys.executable,
        "calls": str(tmp_path / "calls"),
        "behaviour": str(tmp_path / "behaviour"),
    }
    values = {name: shlex.quote(text) for name, text in quoted.items()}
    executable(made.program, PROGRAM.format(**values))
    for name in [name for name in os.environ if name.startswith(("AWS_", "OSS_", "PAI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PAI_HOME", str(made.home))
    monkeypatch.setenv("CRONTAB_FILE", str(made.table))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.chdir(tmp_path)
    return made
