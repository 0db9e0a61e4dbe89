"""A `crontab` that keeps the table in the file CRONTAB_FILE: `-l`, `-r`, and `-` as Debian's.

What cron does with the table is not ours; reading and writing it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Do what the one argument says. Returns the exit code."""
    table = Path(os.environ["CRONTAB_FILE"])
    word = sys.argv[1]
    if word == "-":
        data = sys.stdin.buffer.read()
        if data and not data.endswith(b"\n"):
            sys.stderr.write("new crontab file is missing newline before EOF, can't install.\n")
            return 1
        table.write_bytes(data)
    elif os.environ.get("CRONTAB_DENIED"):
        sys.stderr.write("You (me) are not allowed to use this program (crontab)\n")
        return 1
    elif not table.exists():
        sys.stderr.write("no crontab for me\n")
        return 1
    elif word == "-l":
        sys.stdout.buffer.write(table.read_bytes())
    elif word == "-r":
        table.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
