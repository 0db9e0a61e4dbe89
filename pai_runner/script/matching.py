"""Paths by pattern, as TensorFlow matches them.

The rules are those of tensorflow::io::internal::GetMatchingPaths, which serves local files: one
directory after another is listed from the first part of the pattern that has a wildcard, and a
path matches by the C library's fnmatch with FNM_PATHNAME. Unlike there, an error (a server that
does not answer) is raised and not taken for an empty directory: a script that looks for its
latest checkpoint must not start anew because of it.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Mapping

from pai_runner.script.stores import Entry

_FNM_PATHNAME = 2 if sys.platform == "darwin" else 1
_fnmatch = ctypes.CDLL(None).fnmatch
_fnmatch.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_fnmatch.restype = ctypes.c_int

_WILDCARD = re.compile(r"[*?\[\\]")


_List = Callable[[str], Mapping[str, Entry]]


def matching(pattern: str, exists: Callable[[str], bool], list_: _List) -> list[str]:
    """Return the paths that match, sorted; a pattern without wildcards matches what it names.

    Wildcards in a bucket's name match nothing.
    """
    if not _WILDCARD.search(pattern):
        return [pattern] if exists(pattern) else []
    levels = _levels(pattern)
    first = next(index for index, level in enumerate(levels) if _WILDCARD.search(level))
    found = levels[:first][-1:]
    for level in levels[first:]:
        is_last = level is levels[-1]
        found = [
            path for directory in found for path in _children(directory, level, is_last, list_)
        ]
    return sorted(found)


def _levels(pattern: str) -> list[str]:
    """Return the pattern and the directories above it, the bucket first."""
    protocol, _, rest = pattern.partition("://")
    bucket = f"{protocol}://{rest.partition('/')[0]}/"
    levels = [pattern.removesuffix("/")]
    while len(levels[-1]) > len(bucket):
        above = levels[-1].rpartition("/")[0]
        levels.append(above if len(above) > len(bucket) else bucket)
    return levels[::-1]


def _children(directory: str, pattern: str, is_last: bool, list_: _List) -> list[str]:
    try:
        entries = list_(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [
        f"{directory}{name}" if directory.endswith("/") else f"{directory}/{name}"
        for name, entry in entries.items()
        if is_last or entry.is_directory
    ]
    return [path for path in paths if _matches(path, pattern)]


def _matches(path: str, pattern: str) -> bool:
    names = (text.encode("utf-8", "surrogateescape") for text in (pattern, path))
    return bool(_fnmatch(*names, _FNM_PATHNAME) == 0)
