"""The command line that starts `pai` by another process. Open to all, it imports none of ours."""

from __future__ import annotations

import os
import sys

# `-c` puts the current folder first on the path, as `-m` does: a signal.py or queue.py of the
# user's there would be imported instead of Python's own. Only that entry goes; it is empty, and
# is not there under PYTHONSAFEPATH. Python's own option for it, -P, came with 3.11.
_WITHOUT_FOLDER = "import sys; sys.path[0] or sys.path.pop(0); "

_PAI = _WITHOUT_FOLDER + "from pai_runner.cli.main import main; sys.exit(main())"


def pai_command(*words: str, python: str = sys.executable) -> list[str]:
    """Return the command line of `pai` with these arguments, for that Python."""
    return [python, "-c", _PAI, *words]


def module_command(module: str) -> list[str]:
    """Return the command line that runs a module as a program, as `python -m` would."""
    run = f"import runpy; runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", _WITHOUT_FOLDER + run]


def search_path() -> str:
    """Return the PYTHONPATH of such a process: this package first, then what is set here."""
    ours = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")]))
