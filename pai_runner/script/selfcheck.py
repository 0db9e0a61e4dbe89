"""Imports TensorFlow and writes and reads through the bridge: what `pai doctor` runs.

`python -m pai_runner.script.selfcheck` prints the version on success; a failure's last line on
standard error says what is wrong.
"""

from __future__ import annotations

import sys
import uuid


class _Memory:
    """A mount that needs no server."""

    prefix = "memory://pai-doctor/"
    protocol = "memory"
    options: dict[str, str] = {}  # noqa: RUF012 - read only


def main() -> int:
    """Print TensorFlow's version, and how far the bridge carries. Returns the exit code."""
    import tensorflow as tf

    from pai_runner.errors import PaiError
    from pai_runner.script.filesystem import register

    try:
        register([_Memory()])
    except PaiError as error:
        print(f"{tf.__version__}; local folders only: {error}")
        return 0
    name = f"{_Memory.prefix}{uuid.uuid4().hex}"
    tf.io.write_file(name, "written")
    if tf.io.gfile.GFile(name).read() != "written":
        print(f"TensorFlow {tf.__version__} reads back other bytes than it wrote", file=sys.stderr)
        return 1
    tf.io.gfile.remove(name)
    print(f"{tf.__version__}, reads and writes through fsspec")
    return 0


if __name__ == "__main__":
    sys.exit(main())
