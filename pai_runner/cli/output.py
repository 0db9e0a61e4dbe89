"""How the command line speaks: our own lines go to standard error, redacted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pai_runner.errors import PaiError
from pai_runner.secret import redact

# Wider than any row, so that rows are not wrapped where a program reads them.
_ONE_LINE = 10_000


def say(line: str) -> None:
    """Print one of our own lines."""
    print(f"pai: {redact(line)}", file=sys.stderr, flush=True)


def say_error(error: PaiError) -> None:
    """Print an error and how to mend it."""
    say(f"error: {error}")
    if error.hint:
        print(f"     {redact(error.hint)}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print `value` as JSON for machines."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print `rows` as columns; the first row is the header.

    A terminal gets cells that are wrapped to its width, a file or a pipe one line a row.
    """
    if sys.stdout.isatty() or not all(cell.isprintable() for row in rows for cell in row):
        _print_wrapped(rows)
        return
    # Thousands of rows are printed at once; rich takes its time over each.
    from rich.cells import cell_len

    sizes = [[cell_len(cell) for cell in row] for row in rows]
    widths = [max(column) for column in zip(*sizes, strict=True)]
    sys.stdout.writelines(
        "  ".join(
            cell + " " * (width - size)
            for cell, size, width in zip(row, row_sizes, widths, strict=True)
        )
        + "\n"
        for row, row_sizes in zip(rows, sizes, strict=True)
    )


def _print_wrapped(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *body = rows
    shown = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in body:
        shown.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else _ONE_LINE).print(shown)
