"""`pai logs ID`: a job's output: its standard output to ours, its standard error to ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pai_runner.cli.output import print_json
from pai_runner.jobs.directory import RoleDirectory, find


def run(arguments: Sequence[str]) -> int:
    """Print what the job has printed so far, or all until it ends. Returns the exit code."""
    from pai_runner.run.logs import follow

    parser = argparse.ArgumentParser("pai logs", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    parser.add_argument("--json", action="store_true", help="print JSON, at the end with -f")
    options = parser.parse_args(arguments)
    directory = find(options.id)
    if options.json:
        record = follow(directory, None, None, options.follow)
        roles = {os.path.basename(role.path): _texts(role) for role in directory.printing()}
        print_json({"id": directory.id, "state": record.state.value, "roles": roles})
        return 0
    sys.stdout.flush()
    follow(directory, sys.stdout.fileno(), sys.stderr.fileno(), options.follow)
    return 0


def _texts(role: RoleDirectory) -> dict[str, str]:
    """Return what a role has printed; bytes that are no UTF-8 are replaced."""
    logs = {"stdout": Path(role.stdout), "stderr": Path(role.stderr)}
    return {
        name: path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for name, path in logs.items()
    }
