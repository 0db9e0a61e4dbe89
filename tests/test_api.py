"""The package as a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import Pai

PROGRAM = """
import pai_runner
import pai_runner.run.options
lines = []
command = f"PAI -name tensorflow -Dscript='{SCRIPT}';"
quiet = pai_runner.Options(devices="cpu")
assert [plan.algorithm for plan in pai_runner.plan(command, quiet)] == ["tensorflow"]
for _ in range(2):
    (outcome,) = pai_runner.run(command, quiet, lines.append)
    assert outcome.exit_code == 0 and outcome.state.value == "SUCCEEDED"
from pai_runner import run
assert run(command, quiet, say=lines.append)[0].exit_code == 0
assert len(lines) == 3, lines
assert pai_runner.parse(command)[0].name == "tensorflow"
"""


def test_the_public_functions_work_again_and_again(pai: Pai, tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text("print('hello')\n", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{SCRIPT}", str(script))],
        env=pai.environment,
        cwd=pai.folder,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "hello\n" * 3
