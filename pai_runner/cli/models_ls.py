"""`pai models ls LOCATION`: the versions of a model, newest first."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from typing import Any

from pai_runner.cli.models_place import add_place_arguments, age_text, opened, size_text
from pai_runner.cli.output import print_json, print_table
from pai_runner.models.keeping import no_versions
from pai_runner.models.pointer import Pointer, read_pointer
from pai_runner.models.versions import Version, list_versions, pinned_numbers


def run(arguments: Sequence[str]) -> int:
    """Print the list. Returns the exit code."""
    parser = argparse.ArgumentParser("pai models ls", description=__doc__)
    add_place_arguments(parser)
    options = parser.parse_args(arguments)
    with opened(options.location, options.role) as place:
        versions = list_versions(place)[::-1]
        if not versions:
            raise no_versions(place, "has no versions")
        latest = _latest(versions, read_pointer(place))
        pinned = pinned_numbers(place)
    if options.json:
        print_json([_json(version, latest, pinned) for version in versions])
    else:
        header = ("version", "age", "size", "signatures", "state", "marks")
        print_table([header, *(_row(version, latest, pinned) for version in versions)])
    return 0


def _latest(versions: Sequence[Version], pointer: Pointer | None) -> int | None:
    """Return the version to serve: the pointer's, else the highest complete one."""
    if pointer is not None and any(one.number == pointer.version for one in versions):
        return pointer.version
    return max((one.number for one in versions if one.is_complete), default=None)


def _row(version: Version, latest: int | None, pinned: Collection[int]) -> tuple[str, ...]:
    marks = {"latest": version.number == latest, "pinned": version.number in pinned}
    signatures = version.manifest.about.signatures if version.manifest else ()
    return (
        str(version.number),
        # Some file systems do not tell when a file was written.
        age_text(version.age_seconds(time.time())) if version.written_ns else "-",
        size_text(version.total_bytes),
        ", ".join(sorted(signatures)) or "-",
        version.problem or "complete",
        ", ".join(mark for mark, is_set in marks.items() if is_set),
    )


def _json(version: Version, latest: int | None, pinned: Collection[int]) -> dict[str, Any]:
    """Return a version for machines; None is: not known."""
    manifest = version.manifest
    written = version.written_ns / 1e9
    return {
        "version": version.number,
        "written": datetime.fromtimestamp(written, timezone.utc).isoformat() if written else None,
        "bytes": version.total_bytes,
        "signatures": sorted(manifest.about.signatures) if manifest else None,
        "complete": version.is_complete,
        "problem": version.problem or None,
        "pinned": version.number in pinned,
        "latest": version.number == latest,
        "published_at": manifest.published_at if manifest else None,
        "job_id": manifest.about.job_id if manifest else None,
        "step": manifest.about.step if manifest else None,
    }
