"""`pai jobs gc --older-than 30d`: removes the records of jobs and runs that ended longer ago, logs
and all.

What is not at its end stays, and so does a job of which files wait on this machine's disk, or which
an unfinished run may go on from.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pai_runner.cli.models_place import age_text, duration_with_unit, size_text
from pai_runner.cli.output import print_json, print_table, say
from pai_runner.errors import SetupError
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.retention import Finding, Rule, Swept, sweep
from pai_runner.run.waiting import pending_folder, waiting


def run(arguments: Sequence[str]) -> int:
    """Remove them, and print what went. Returns the exit code.

    Raises SetupError, when all else is done, for what cannot be deleted.
    """
    options = _parser().parse_args(arguments)
    rule = Rule(options.older_than, options.keep_failed, options.damaged)
    swept = sweep(rule, time.time(), still_needed, options.dry_run)
    if options.json:
        print_json(_plain(swept, options.dry_run))
    else:
        _show(swept, options.dry_run)
    if swept.problems:
        raise SetupError(
            f"not all can be deleted: {'; '.join(swept.problems)}",
            "remove it by hand; it is no record any more",
        )
    return 0


def _show(swept: Swept, dry_run: bool) -> None:
    for finding in swept.kept:
        say(f"{finding.kind} {finding.id} stays: {finding.kept}")
    if not (swept.removed or swept.leftover_bytes):
        print("nothing to remove")
        return
    rows = [_row(finding) for finding in swept.removed]
    if swept.leftover_bytes:
        left = size_text(swept.leftover_bytes)
        rows.append(("left by an interrupted removal", "", "", "", "", left))
    header = ("would go" if dry_run else "gone", "kind", "name", "state", "age", "size")
    print_table([header, *rows, ("total", "", "", "", "", size_text(swept.bytes))])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pai jobs gc", description=__doc__)
    parser.add_argument(
        "--older-than",
        type=duration_with_unit,
        required=True,
        metavar="T",
        help="those that ended longer ago than 90s, 30m, 12h, 30d",
    )
    parser.add_argument(
        "--keep-failed", action="store_true", help="keep those that failed, timed out or were lost"
    )
    parser.add_argument(
        "--damaged",
        action="store_true",
        help="records that cannot be read, too, when nothing in them has changed for as long",
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def still_needed(directory: JobDirectory) -> str:
    """Return which files of a job, not in their bucket yet, need its record; empty for none."""
    folder = pending_folder(directory)
    left = waiting(folder)
    if left is not None:
        return f"{left} in {folder}: `pai jobs resume-upload {directory.id}`"
    for staged in _staged_folders(directory):
        if os.path.isdir(staged):
            return f"{staged} holds what is not in the bucket; take from it what you need"
    return ""


def _staged_folders(directory: JobDirectory) -> list[str]:
    """Return where files of a job's staged locations lie if they are not in their bucket.

    See `storage.stage_folder`: a folder of which all is in the bucket is removed.
    """
    try:
        with open(directory.spec, encoding="utf-8") as file:
            mounts = json.load(file)["mounts"]
        above = {os.path.dirname(mount.get("folder", "")) for mount in mounts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # it was never started, or is damaged: --damaged decides
    roots = sorted(root for root in above if os.path.basename(root).startswith(f"{directory.id}-"))
    return [folder for root in roots for folder in (f"{root}-left", root)]


def _row(finding: Finding) -> tuple[str, ...]:
    age, size = age_text(finding.age), size_text(finding.bytes)
    return (finding.id, finding.kind, finding.name, finding.state, age, size)


def _plain(swept: Swept, dry_run: bool) -> dict[str, Any]:
    def plain(finding: Finding) -> dict[str, Any]:
        values = asdict(finding)
        reason = values.pop("kept")
        return {**values, "reason": reason} if reason else values

    return {
        "dry_run": dry_run,
        "removed": [plain(finding) for finding in swept.removed],
        "kept": [plain(finding) for finding in swept.kept],
        "leftover_bytes": swept.leftover_bytes,
        "bytes": swept.bytes,
    }
