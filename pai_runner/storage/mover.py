"""The program of the mover: finds the package from where this file lies, and begins.

    mover.py JOB_DIRECTORY CONTROL REPORT PHASE

A file of its own, because Python compiles the file that it is started with every time.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    # Python looks in this folder first, where modules have names that others may have as well.
    # The package comes last, so that nothing beside it can stand in the way of a library.
    sys.path[:] = [path for path in sys.path if path != folder]
    sys.path.append(os.path.dirname(os.path.dirname(folder)))
    from pai_runner.storage.stage_process import main

    main(sys.argv[1:])
