"""Foretells which file is opened next: the one that follows in its directory's listing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

# How many directories are remembered, and how many files are foretold at most.
_DIRECTORIES = 16
_MOST_AHEAD = 32
# In all.
MOST_FORETOLD = _DIRECTORIES * _MOST_AHEAD


@dataclass
class _Directory:
    """`last` was opened last, `ahead` foretold last: places among the sorted `names`."""

    names: list[str]
    places: dict[str, int] = field(default_factory=dict)
    last: int = -2
    ahead: int = -1
    reach: int = 0


class Siblings:
    """The directories that were listed, and how their files are opened. One thread uses it."""

    def __init__(self) -> None:
        self._directories: OrderedDict[str, _Directory] = OrderedDict()

    def listed(self, path: str, names: Iterable[str]) -> None:
        """Take in the names of the small files of a directory."""
        ordered = sorted(names)
        places = {name: place for place, name in enumerate(ordered)}
        self._directories[path] = _Directory(ordered, places)
        while len(self._directories) > _DIRECTORIES:
            self._directories.popitem(last=False)

    def opened(self, path: str, is_late: bool) -> list[str]:
        """Return the files that will be opened after `path` and were not returned before.

        None, while files are not opened in the order of their names. `is_late`: more of them
        should have been known by now.
        """
        parent, _, name = path.rpartition("/")
        directory = self._directories.get(parent)
        place = -1 if directory is None else directory.places.get(name, -1)
        if directory is None or place < 0:
            return []
        follows, directory.last = place == directory.last + 1, place
        if not follows:
            directory.reach, directory.ahead = 0, place
            return []
        if is_late:
            directory.reach = min(_MOST_AHEAD, max(2, 2 * directory.reach))
        first = max(place, directory.ahead) + 1
        directory.ahead = max(
            directory.ahead, min(place + directory.reach, len(directory.names) - 1)
        )
        return [f"{parent}/{one}" for one in directory.names[first : directory.ahead + 1]]
