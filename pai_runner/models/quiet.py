"""TensorFlow's own news of what it writes, kept from those who have not asked for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# It says INFO of the folders that a model is built in, which are ours, and of its own timings;
# absl's logging, which scripts use, prints that.
_LOGGERS = ("tensorflow", "absl")


@contextmanager
def quietly() -> Iterator[None]:
    """Let TensorFlow say nothing below a warning."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
