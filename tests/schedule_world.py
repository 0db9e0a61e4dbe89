"""`pai schedule` with a home, a crontab and a program of its own, for tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from support import ROOT

from pai_runner.schedule import catalog

Verb = Callable[..., tuple[int, str, str]]

# Stands for `python -c …` where a test is about what `pai` is told and how it ends, not about
# jobs: `pai schedule …` goes to the real one; a run is a line in the file `calls`, and ends
# as the file `behaviour`, a piece of shell, says.
PROGRAM = """\
#!/bin/sh
[ "$3" != schedule ] || exec {python} "$@"
shift 2
printf '%s\\n' "$*" >>{calls}
. {behaviour}
"""


@dataclass(frozen=True)
class World:
    """A home of schedules, a crontab, and the program that runs files."""

    folder: Path
    verb: Verb

    @property
    def file(self) -> Path:
        return self.folder / "nightly.pai"

    @property
    def home(self) -> Path:
        return self.folder / "the home" / "100%?"

    @property
    def program(self) -> Path:
        return self.folder / "program"

    @property
    def table(self) -> Path:
        return self.folder / "table"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def behave(self, shell: str) -> None:
        """Have runs do this from now on."""
        behaviour = self.folder / "behaviour"
        (self.folder / "new").write_text(shell + "\n")
        (self.folder / "new").replace(behaviour)

    def calls(self) -> list[list[str]]:
        """Return the arguments that `pai` was started with, run by run."""
        calls = self.folder / "calls"
        return [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []

    def cyctimes(self) -> list[str]:
        return [call[call.index("--cyctime") + 1] for call in self.calls()]

    def install(self, *arguments: str, age: timedelta = timedelta(0), **changes: Any) -> None:
        """Install the file as if that were `age` ago; its runs are the program's."""
        code, _, errors = self.verb("install", str(self.file), "--yes", *arguments)
        assert code == 0, errors
        name = arguments[arguments.index("--name") + 1] if "--name" in arguments else "nightly"
        self.change(
            name,
            python=str(self.program),
            created=(datetime.now(timezone.utc) - age).isoformat(),
            **changes,
        )

    def change(self, name: str = "nightly", **changes: Any) -> None:
        """Change what is on record."""
        path = Path(catalog.folder(), f"{name}.json")
        data = {**json.loads(path.read_text()), **changes}
        new = path.with_name("new")
        new.write_text(json.dumps(data))
        new.replace(path)

    def line_command(self, unescaped: str = "%") -> str:
        """Return what cron gives to /bin/sh: all behind the fields, its % restored."""
        line = self.table.read_text().splitlines()[-1]
        return as_cron_reads(line.split(" ", 5)[5], unescaped)

    def run_line(self, unescaped: str = "%") -> subprocess.CompletedProcess[bytes]:
        """Run the line of the crontab as cron does, with nothing in its environment."""
        return subprocess.run(
            ["env", "-i", "/bin/sh", "-c", self.line_command(unescaped)],
            cwd="/",
            capture_output=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `pai schedule …` as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "pai_runner", "schedule", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def as_cron_reads(text: str, unescaped: str) -> str:
    """Return the command of a line: all before a plain %, as do_command.c of Vixie's cron has it.

    `unescaped` are the characters before which a backslash is dropped: cronie's `%`, or `%` and
    the backslash itself.
    """
    parts = re.findall(r"\\.|[^%\\]|\\$|%", text)
    command = parts[: parts.index("%")] if "%" in parts else parts
    return "".join(one[1:] if one[0] == "\\" and one[1:] in unescaped else one for one in command)


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
