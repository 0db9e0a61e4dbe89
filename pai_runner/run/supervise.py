"""The program of the supervisor: finds the package from where this file lies, and begins.

A file of its own, because Python compiles the file that it is started with every time.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # After the standard library, so that nothing beside the project can stand in its way.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from pai_runner.run.supervisor import main

    main(sys.argv[1:])
