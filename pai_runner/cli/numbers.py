"""Numbers among the options of verbs."""

from __future__ import annotations

import argparse


def natural(text: str) -> int:
    """Return a number from 0 on, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"`{text}` is not a number")
    return int(text)


def positive(text: str) -> int:
    """Return a number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 1 on")
    return int(text)
