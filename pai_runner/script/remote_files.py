"""Opens the files of a store for reading, with one request each."""

from __future__ import annotations

import errno
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from pai_runner.script.blocks import Budget, read_ahead_bytes
from pai_runner.script.readers import Offer, RemoteReader
from pai_runner.script.siblings import MOST_FORETOLD, Siblings
from pai_runner.script.stores import Store
from pai_runner.storage.lanes import lanes
from pai_runner.storage.names import Rank, is_checkpoint_part, is_pointer, rank_of
from pai_runner.storage.objects import Described

# The first request asks for this much: most small files are whole then.
HEAD = 256 * 1024
# How many files that TensorFlow opens several times while it loads something are kept.
_MOST_KEPT = 64
# What was read before it was asked for counts as read now for so many seconds.
_AHEAD_SECONDS = 10.0


@dataclass(frozen=True)
class _Begun:
    """A file and its first bytes."""

    described: Described
    head: bytearray
    read_at: float


class RemoteFiles:
    """Opens files. All share one memory budget.

    Small files that are opened in the order of their directory's listing are read before they
    are opened, several at once.
    """

    def __init__(self) -> None:
        """Raises SetupError where the budget is set wrongly."""
        self._budget = Budget(read_ahead_bytes())
        self._lock = threading.Lock()
        self._siblings = Siblings()
        self._kept: OrderedDict[str, _Begun] = OrderedDict()
        self._coming: dict[str, Future[_Begun]] = {}

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._budget.after_fork()
        self._coming = {}

    def listed(self, path: str, names: Iterable[str]) -> None:
        """Take in the names of a directory's files that one request reads."""
        with self._lock:
            self._siblings.listed(path, names)

    def open(self, store: Store, path: str, offer: Offer) -> RemoteReader:
        """Open the file at a clean path. Raises FileNotFoundError, OSError."""
        begun = self._known(store, path) or self._foreseen(store, path) or _begin(store, path)
        described = begun.described
        if not described.size > len(begun.head) and _is_kept(path):
            self._keep(path, begun)

        def fetch(start: int, into: memoryview) -> None:
            count, _ = store.read_into(path, start, into, described.etag or None)
            if count != len(into):
                raise OSError(errno.ESTALE, f"{path}: it was changed meanwhile")

        is_stream = not is_checkpoint_part(path)
        return RemoteReader(described.size, begun.head, fetch, self._budget, offer, is_stream)

    def _known(self, store: Store, path: str) -> _Begun | None:
        """Return a file that was read before, if it is known to be the same still."""
        with self._lock:
            kept = self._kept.get(path)
        if kept is None or not kept.described.etag:
            return None
        return kept if store.known_etag(path) == kept.described.etag else None

    def _keep(self, path: str, begun: _Begun) -> None:
        with self._lock:
            self._kept[path] = begun
            self._kept.move_to_end(path)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def _foreseen(self, store: Store, path: str) -> _Begun | None:
        """Return a file that was read in advance, and begin to read those that follow it."""
        with self._lock:
            coming = self._coming.pop(path, None)
            is_late = coming is None or not coming.done()
            for other in self._siblings.opened(path, is_late):
                self._coming[other] = lanes().submit(_begin, store, other)
            while len(self._coming) > MOST_FORETOLD:  # those that nobody opens
                self._coming.pop(next(iter(self._coming))).cancel()
        if coming is None:
            return None
        try:
            begun = coming.result()
        except OSError:  # it is asked again, and may be there now
            return None
        oldest = max(time.monotonic() - _AHEAD_SECONDS, store.changed_at(path))
        return begun if begun.read_at > oldest else None


def _begin(store: Store, path: str) -> _Begun:
    head = bytearray(HEAD)
    read_at = time.monotonic()
    count, described = store.read_into(path, 0, memoryview(head))
    store.note(path, described, read_at)
    return _Begun(described, head[:count], read_at)


def _is_kept(path: str) -> bool:
    """Tell whether a file is read several times at once, and written once."""
    return rank_of(path) in (Rank.INDEX, Rank.ENTRY) and not is_pointer(path)
