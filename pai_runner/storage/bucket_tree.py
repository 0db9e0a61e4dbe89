"""A directory in a bucket, of whatever kind of store: see `trees`."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from pai_runner.storage.trees import StoreTree

# The keys that XML 1.0 carries as they are: a carriage return would arrive as a line feed.
_FIT_FOR_XML = re.compile(r"[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


class BucketTree(StoreTree):
    """A directory in a bucket: the beginning that keys share."""

    _has_buckets = True
    _removed_at_once = 1000

    @property
    def bucket(self) -> str:
        return self.base.partition("/")[0]

    def key(self, name: str = "") -> str:
        return self.path(name).partition("/")[2]

    @property
    def key_prefix(self) -> str:
        """How the keys below begin: empty, or with a final `/`."""
        return f"{self.key()}/" if self.key() else ""

    def _remove_page(self, names: Sequence[str]) -> dict[str, str]:
        keys = {self.key(name) if name else f"{self.key()}/": name for name in names}
        fit = [key for key in keys if _FIT_FOR_XML.fullmatch(key)]
        failures = self._delete(fit) if fit else {}
        for key in keys:
            if not _FIT_FOR_XML.fullmatch(key):
                self._delete_alone(key)
        return {keys[key]: text for key, text in failures.items()}

    @abstractmethod
    def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects by one request; return why, for those that stay. Raises OSError."""

    @abstractmethod
    def _delete_alone(self, key: str) -> None:
        """Delete an object whose key no XML can tell. Raises OSError."""

    def remove_directories(self, names: Iterable[str]) -> None:
        """Do nothing: in a bucket a directory goes with its last file."""

    def remove_empty(self) -> None:
        """Do nothing, as `remove_directories`."""

    @abstractmethod
    def uploads(self) -> Iterator[tuple[str, str, int]]:
        """Yield the uploads below that have not ended: name, id, when they began in ns.

        Raises OSError; a role often may not list them.
        """
