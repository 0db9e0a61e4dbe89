"""`pai jobs --chart`: how long each job took, and how it ended, night by night."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pai_runner.jobs.nights import Night, nights_of
from pai_runner.jobs.record import Record
from pai_runner.jobs.state import State

# A chart that nobody looks at on a terminal is as wide as most terminals are.
_PLAIN_WIDTH = 80
_SHORTEST_BAR = 10
# Those between the cells of a line, and before the first.
_BLANKS = 11
# A bar's last place is filled by eighths.
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def chart(records: Iterable[Record], most: int | None) -> list[str]:
    """Return the lines of the chart, with up to `most` nights of each name, for this terminal."""
    nights = _newest(nights_of(records, datetime.now(timezone.utc)), most)
    width = os.get_terminal_size(1).columns if sys.stdout.isatty() else _PLAIN_WIDTH
    return draw(nights, width or _PLAIN_WIDTH, _can_print(_EIGHTHS))


def plain_chart(records: Iterable[Record], most: int | None) -> list[dict[str, Any]]:
    """Return the same as plain values; `seconds` is how long a night's jobs ran."""
    nights = _newest(nights_of(records, datetime.now(timezone.utc)), most)
    return [
        {
            "job_name": name,
            "nights": [
                {
                    "date": night.date.isoformat(),
                    "state": night.state.value,
                    "seconds": round(night.seconds, 3),
                    "jobs": list(night.ids),
                }
                for night in of_name
            ],
        }
        for name, of_name in nights.items()
    ]


def draw(nights: Mapping[str, Sequence[Night]], width: int, has_blocks: bool) -> list[str]:
    """Return a chart of lines that are not wider than `width`, unless that leaves no bar.

    Bars are drawn with block characters where the output `has_blocks`, else with `#`.
    """
    lines: list[str] = []
    for name, of_name in nights.items():
        lines += [""] if lines else []
        lines.append(_without_controls(name) or "(no name)")
        rows = [_words(night) for night in of_name]
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        room = max(_SHORTEST_BAR, width - sum(widths) - _BLANKS)
        longest = max(night.seconds for night in of_name)
        for night, row in zip(of_name, rows, strict=True):
            day, mark, state, length, count = (
                text.ljust(wide) for text, wide in zip(row, widths, strict=True)
            )
            bar = _bar(night.seconds / longest if longest else 0.0, room, has_blocks)
            lines.append(f"  {day}  {mark} {state}  {length}  {count}  {bar}".rstrip())
    return lines


def _newest(nights: Mapping[str, list[Night]], most: int | None) -> dict[str, list[Night]]:
    return {name: of_name[:most] for name, of_name in nights.items()}


def _words(night: Night) -> tuple[str, str, str, str, str]:
    """Return a night's cells: the date, a mark, the state, the length and the number of jobs."""
    jobs = "" if len(night.ids) == 1 else f"{len(night.ids)} jobs"
    mark = "+" if night.state is State.SUCCEEDED else "x" if night.state.final else "."
    return night.date.isoformat(), mark, night.state.value, length_text(night.seconds), jobs


def length_text(seconds: float) -> str:
    """Return a duration for people, its two largest units: 45s, 3m 05s, 2h 10m or 1d 03h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def _bar(part: float, room: int, has_blocks: bool) -> str:
    """Return a bar that takes `part` of the room; what is not nothing is seen."""
    if not has_blocks:
        return "#" * max(round(part * room), 1 if part else 0)
    eighths = max(round(part * room * 8), 1 if part else 0)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _without_controls(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
