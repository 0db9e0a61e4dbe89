"""What keeps the supervisor quick: it imports little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
# Each of these costs as much as a third of the interpreter's own start, or more.
HEAVY = {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "socket", "subprocess"}


def test_it_imports_nothing_heavy_and_nothing_beside_the_standard_library() -> None:
    code = f"""
import sys
sys.path.append({ROOT!r})
import pai_runner.run.supervisor
print(*sys.modules, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    modules = {name.split(".")[0] for name in done.stdout.split()}
    assert modules & HEAVY == set()
    assert modules - {"pai_runner", "__main__"} <= sys.stdlib_module_names
    assert "pai_runner.run.plan" not in done.stdout
