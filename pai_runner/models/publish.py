"""The program of the publisher: `python -m pai_runner.models.publish`; see `publish_process`.

A job's supervisor starts it by path, possibly under an interpreter where the project is not
installed: the package is loaded from where this file lies, and nothing of its site-packages comes
onto `sys.path`.
"""

from __future__ import annotations

import os
import sys


def load_package() -> None:
    """Make `pai_runner` importable, from the folder above this file's."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Python looks in this folder first, where modules have names that others have as well.
    sys.path[:] = [path for path in sys.path if path != here]
    from importlib.util import module_from_spec, spec_from_file_location

    folder = os.path.dirname(here)
    spec = spec_from_file_location(
        "pai_runner", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} holds no package")
    package = module_from_spec(spec)
    sys.modules["pai_runner"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if not __package__:
        load_package()
    from pai_runner.models.publish_process import main

    sys.exit(main(sys.argv[1:]))
