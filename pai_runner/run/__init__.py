"""From a Job to finished processes on one machine."""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pai_runner.run.outcome import Outcome


class _Room(ModuleType):
    """This package, which is also the function `pai_runner.run`.

    Python binds a package to its parent's name as soon as any module of it is imported, so the
    public function of the same name must be this very object.
    """

    def __call__(self, *arguments: Any, **options: Any) -> list[Outcome]:
        from importlib import import_module

        outcomes: list[Outcome] = import_module("pai_runner.api").run(*arguments, **options)
        return outcomes


sys.modules[__name__].__class__ = _Room
