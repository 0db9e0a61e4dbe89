"""`pai logs ID`: a job's output: its standard output to ours, its standard error to ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pai_runner.jobs.directory import find


def run(arguments: Sequence[str]) -> int:
    """Print what the job has printed so far, or all until it ends. Returns the exit code."""
    from pai_runner.run.logs import follow

    parser = argparse.ArgumentParser("pai logs", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    options = parser.parse_args(arguments)
    sys.stdout.flush()
    follow(find(options.id), sys.stdout.fileno(), sys.stderr.fileno(), options.follow)
    return 0
