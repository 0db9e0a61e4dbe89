"""The program of a role's process: loads this package, then runs the user's script.

It is started by path, `<interpreter> -u …/bootstrap.py`, possibly under an interpreter where the
project is not installed: the package is loaded from where this file lies, and nothing of its
site-packages comes onto `sys.path`.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

# The name under which a multiprocessing child runs this file; see `children`.
CHILD = "__pai_child__"


def load_package() -> None:
    """Make `pai_runner` importable, from the folder above this file's."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = spec_from_file_location(
        "pai_runner", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} holds no package")
    package = module_from_spec(spec)
    sys.modules["pai_runner"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    load_package()
    from pai_runner.script.main import main

    main()
elif __name__ == CHILD:
    load_package()
    from pai_runner.script.imports import Settings, install

    install(Settings.from_plain(globals()["inherited"]))
