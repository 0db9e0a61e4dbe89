"""Processes that the script starts through multiprocessing.

A forked child has everything its parent has. A spawned one starts empty and imports the script
again by its path: what `imports.install` did must be done there first.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pai_runner.script.bootstrap import CHILD
from pai_runner.script.bootstrap import __file__ as BOOTSTRAP
from pai_runner.script.imports import Settings


class _Inheritance:
    """Pickles into a call that runs bootstrap.py in the child, which has no package yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return runpy.run_path, (BOOTSTRAP, {"inherited": self._settings.plain()}, CHILD)


def inherit(spawn: ModuleType, settings: Settings) -> None:
    """Make each process that `spawn` (multiprocessing.spawn) starts install `settings` first.

    A child unpickles its preparation data before it imports the script. The data goes through a
    pipe, so secrets may be in it.
    """
    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**prepare(name), "pai_runner": _Inheritance(settings)}

    spawn.get_preparation_data = get_preparation_data  # type: ignore[attr-defined]
