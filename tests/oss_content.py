"""What the tests of oss:// write and read."""

from __future__ import annotations

import random
from typing import IO, Any

KB = 1024
# The shortest part: a file that is longer needs more than one.
BLOCK = 100 * KB
UGLY = [
    "a b",
    "q?x=1",
    "h#1",
    "50%",
    "%41",
    "it's",
    'say "hi"',
    "a+b&c",
    "中文/文件",
    "a//b",
    "?first",
    "new\nline",
    "cr\rx",
    "c\x01x",
    "not\ufffex",
    "end ",
    "~!$*()[]{}",
]


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def write_and_fail(stream: IO[Any], data: Any, error: BaseException) -> None:
    """Write to an open file, and raise `error` inside its `with`."""
    with stream:
        stream.write(data)
        raise error


def fail_in_transaction(fs: Any, path: str, error: BaseException) -> None:
    """Write a file of several parts in a transaction, which `error` ends."""
    with fs.transaction:
        with fs.open(path, "wb", block_size=BLOCK) as stream:
            stream.write(content(3 * BLOCK))
        raise error
