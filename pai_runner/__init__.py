"""Runs PAI-TensorFlow commands anywhere, unchanged.

    import pai_runner

    outcomes = pai_runner.run("PAI -name tensorflow -Dscript=train.py;")

and gives scripts `from pai_runner import checkpoint, export`. The names are imported when they
are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

# Importing typing would cost the supervisor as much as its own modules.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pai_runner.api import fill_dates, plan, run
    from pai_runner.command import parse
    from pai_runner.models import checkpoint, export
    from pai_runner.run.options import Options

__version__ = "0.1.0"

__all__ = [
    "Options",
    "__version__",
    "checkpoint",
    "export",
    "fill_dates",
    "parse",
    "plan",
    "run",
]

# `run` is a room that can be called: see there.
_MODULES = {
    "checkpoint": "pai_runner.models.checkpoint",
    "export": "pai_runner.models.export",
    "run": "pai_runner.run",
}
_HOMES = {
    "Options": "pai_runner.run.options",
    "fill_dates": "pai_runner.api",
    "parse": "pai_runner.command",
    "plan": "pai_runner.api",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
