"""`pai status ID`: what is known of a job. ID may be a start of the id or of its last part."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from pai_runner.cli.output import print_json
from pai_runner.jobs.directory import find
from pai_runner.jobs.record import Record, read
from pai_runner.run.waiting import pending_folder, waiting


def run(arguments: Sequence[str]) -> int:
    """Print the record. Returns the exit code."""
    parser = argparse.ArgumentParser("pai status", description=__doc__)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    directory = find(options.id)
    record = read(directory)
    folder = pending_folder(directory)
    left = waiting(folder) if record.state.final else None
    if options.json:
        shown = {"folder": folder, **asdict(left)} if left else None
        print_json({**record.to_json(), "directory": directory.path, "waiting": shown})
        return 0
    upload = f"{left} in {folder}: `pai jobs resume-upload {record.id}`" if left else ""
    for name, value in [*_lines(record, directory.path), ("upload", upload)]:
        if value:
            print(f"{name:10}{value}")
    if record.last_lines:
        print("last lines of its standard error:")
        print("\n".join(f"  {line}" for line in record.last_lines))
    return 0


def _lines(record: Record, folder: str) -> list[tuple[str, str]]:
    code = "" if record.exit_code is None else str(record.exit_code)
    if record.kind is not None:
        code += f" ({record.kind.meaning})"
    return [
        ("id", record.id),
        ("name", record.job_name),
        ("state", f"{record.state.value}: {record.state.meaning}"),
        ("reason", f"{record.reason.value}: {record.reason.meaning}" if record.reason else ""),
        ("message", record.message),
        ("exit code", code),
        ("role", record.role or ""),
        ("created", record.created or ""),
        ("started", record.started or ""),
        ("ended", record.ended or ""),
        *(
            ("process", f"{role.label}: pid {role.process.pid}")
            for role in record.roles
            if role.process and not record.state.final
        ),
        ("folder", folder),
    ]
