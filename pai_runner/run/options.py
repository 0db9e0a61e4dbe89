"""What a user may say about a run beside the PAI command itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pai_runner.errors import UsageError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smhd]?)")


@dataclass(frozen=True)
class Options:
    """The options of a run. Durations are seconds; None leaves the command's own word.

    `devices` is the text of --devices: `cpu`, `auto`, `gpu` or `gpu:0,1`; `role` that of --role:
    `assume` or `ignore`. `run_key` names what the job is done for, its run and date: a model that
    was exported under it is not exported again.
    """

    devices: str | None = None
    total_seconds: float | None = None
    no_progress_seconds: float | None = None
    grace_seconds: float = 60.0
    role: str | None = None
    run_key: str = ""


def parse_duration(text: str) -> float:
    """Return the seconds that `90`, `90s`, `30m`, `6h` or `1d` means. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"`{text}` is not a duration", "write for example 90s, 30m, 6h or 1d")
    return float(match["number"]) * _UNITS[match["unit"]]
