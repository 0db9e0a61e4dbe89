"""Many files from one place to another, in the order in which a reader may meet them.

A checkpoint's data is there before its index, and that before the `checkpoint` file that names it;
a SavedModel's saved_model.pb comes last (see `names`). What removes goes the other way round. A
file that cannot be copied stops only those that need it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from queue import SimpleQueue
from threading import Thread
from typing import Any

from pai_runner.errors import PaiError
from pai_runner.storage.failures import describe_error
from pai_runner.storage.lanes import lanes
from pai_runner.storage.local_tree import is_unfinished
from pai_runner.storage.moving import Move, Moving, copy_large, copy_small
from pai_runner.storage.names import Rank, is_pointer, needs, rank_of
from pai_runner.storage.trees import Entry, Tree
from pai_runner.storage.verifying import Digest, md5_of

# Large files at once; each has a thread that waits, and many pieces on their way.
_LARGE_AT_ONCE = 3
# What small files may hold in memory together.
_SMALL_BYTES = 128 * 1024 * 1024
# How long what is under way gets to end when the user wants to stop, in seconds.
_ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Chosen:
    """Which files are meant: those that an `include` fits (if there is one), and no `exclude`.

    Patterns are those of fnmatch, where `*` stands for `/`, too. One without `/` is for the last
    part of a name.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        is_included = not self.include or any(_fits(name, one) for one in self.include)
        return is_included and not any(_fits(name, one) for one in self.exclude)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name if "/" in pattern else name.rpartition("/")[2], pattern)


# ====== What is to be copied ======


def moves_below(source: Tree, target: Tree, into: str, chosen: Chosen) -> list[Move]:
    """Return the moves of all files below `source` to `target`, below its directory `into`.

    `into` is empty or ends with `/`. Raises OSError.
    """
    return [
        Move(source, name, entry, target, f"{into}{name}")
        for name, entry in source.find().items()
        if name in chosen and not (source.is_local and is_unfinished(name))
    ]


def changed_moves(
    moves: Sequence[Move], there: Mapping[str, Entry], by_content: bool
) -> list[Move]:
    """Return those moves whose target is missing or another, in the same order.

    `there` is what the target holds. Files of one length are compared by their MD5s where both
    places tell it, else by time: what was written later than its copy has changed. With
    `by_content` they are compared byte by byte, or by what the stores keep of them. Raises OSError.
    """
    if not by_content:
        return [move for move in moves if _is_changed(move, there.get(move.name))]
    found = [
        # On threads of this list's own a comparison would be one file at a time.
        lanes().submit(_has_other_content, move, there.get(move.name))
        for move in moves
    ]
    return [move for move, one in zip(moves, found, strict=True) if one.result()]


def _is_changed(move: Move, there: Entry | None) -> bool:
    if there is None or there.size != move.entry.size:
        return True
    sums = (md5_of(move.entry.etag), md5_of(there.etag))
    if None not in sums:
        return sums[0] != sums[1]
    return not move.entry.modified_ns or move.entry.modified_ns > there.modified_ns


def _has_other_content(move: Move, there: Entry | None) -> bool:
    if there is None or there.size != move.entry.size:
        return True
    ends = [(move.source, move.source_name, move.entry), (move.target, move.name, there)]
    sums = [tree.checksum(name, entry) for tree, name, entry in ends]
    if None not in sums and sums[0] == sums[1]:
        return False
    # A store's checksum is compared with the other's bytes; without one two files are read.
    for known, (tree, name, entry) in zip(sums, reversed(ends), strict=True):
        if known is not None:
            digest = Digest(known)
            for data in _read(tree, name, entry):
                digest.add(data)
            return not digest.matches()
    pairs = zip(*(_read(*end) for end in ends), strict=True)
    return any(first != second for first, second in pairs)


def _read(tree: Tree, name: str, entry: Entry) -> Iterable[memoryview]:
    step = 8 * 1024 * 1024
    for start in range(0, entry.size, step):
        yield tree.piece(name, entry, start, min(step, entry.size - start))


# ====== Copying ======


@dataclass
class Outcome:
    """What came of a copy. `bytes` were copied, `resumed` of them by an earlier command.

    `verified` counts files by how they were verified, `failures` are texts by a file's name.
    """

    files: int = 0
    bytes: int = 0
    resumed: int = 0
    seconds: float = 0.0
    verified: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


class Copier:
    """Copies files. `sent(count)` is called, on any thread, as bytes move; `copied(move)` when
    a file is there, on the thread that runs it.
    """

    def __init__(
        self,
        moves: Sequence[Move],
        sent: Callable[[int], object] = lambda count: None,
        copied: Callable[[Move], object] = lambda move: None,
    ) -> None:
        self.outcome = Outcome()
        self._moves = moves
        self._moving = Moving(sent)
        self._copied = copied
        self._failed: list[str] = []
        self._ended: SimpleQueue[tuple[Move, Future[str]]] = SimpleQueue()
        self._running: dict[Future[str], Move] = {}

    def run(self) -> Outcome:
        """Copy all files; what fails is in the outcome. Raises what a signal handler raises."""
        began = time.monotonic()
        try:
            for rank in Rank:
                self._copy_rank([move for move in self._moves if move.rank is rank])
        finally:
            self.outcome.resumed = self._moving.resumed
            self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def stop(self) -> None:
        """End what is under way soon, so that a later copy can go on with it."""
        self._moving.stopping.set()
        for tree in {tree for move in self._moves for tree in (move.source, move.target)}:
            tree.close()
        for one in list(self._running):
            one.cancel()
        wait(list(self._running), _ENDING_SECONDS)

    def _copy_rank(self, moves: Sequence[Move]) -> None:
        ready = [move for move in moves if not self._lacks(move)]
        large = deque(move for move in ready if move.is_large)
        small = deque(move for move in ready if not move.is_large)
        held = 0
        while large or small or self._running:
            while large and sum(move.is_large for move in self._running.values()) < _LARGE_AT_ONCE:
                self._start_large(large.popleft())
            while small and (not held or held + _memory(small[0]) <= _SMALL_BYTES):
                if len(self._running) >= 2 * lanes().limit:
                    break
                move = small.popleft()
                held += _memory(move)
                self._note(move, lanes().submit(copy_small, move, self._moving))
            move, ended = self._ended.get()
            held -= 0 if move.is_large else _memory(move)
            self._finish(move, ended)

    def _start_large(self, move: Move) -> None:
        future: Future[str] = Future()
        Thread(target=_do, args=(future, move, self._moving), daemon=True).start()
        self._note(move, future)

    def _note(self, move: Move, future: Future[str]) -> None:
        self._running[future] = move
        future.add_done_callback(lambda ended: self._ended.put((move, ended)))

    def _finish(self, move: Move, ended: Future[str]) -> None:
        del self._running[ended]
        try:
            method = ended.result()
        except (OSError, PaiError) as error:
            self._fail(move, describe_error(error))
            return
        self.outcome.files += 1
        self.outcome.bytes += move.entry.size
        self.outcome.verified[method] += 1
        self._copied(move)

    def _fail(self, move: Move, text: str) -> None:
        self.outcome.failures[move.source.shown(move.source_name)] = text
        self._failed.append(move.name)

    def _lacks(self, move: Move) -> bool:
        """Tell whether something that the file needs has failed; then it fails as well."""
        if not self._failed or move.rank is Rank.CONTENT:
            return False
        content = b""
        if is_pointer(move.name) or move.rank is Rank.LATEST:
            try:
                content = bytes(move.source.piece(move.source_name, move.entry, 0, move.entry.size))
            except (OSError, PaiError) as error:
                self._fail(move, describe_error(error))
                return True
        needed = needs(move.name, content)
        for name in self._failed:
            if name.startswith(needed):
                text = f"not copied: it needs {name}, which could not be copied"
                self._fail(move, text)
                return True
        return False


def _memory(move: Move) -> int:
    """Return how many bytes a small file takes of this process's memory."""
    return 0 if move.is_on_server else move.entry.size


def _do(future: Future[str], move: Move, moving: Moving) -> None:
    try:
        future.set_result(copy_large(move, moving))
    except BaseException as error:
        future.set_exception(error)


# ====== Removing ======


def remove_in_order(tree: Tree, names: Iterable[str]) -> dict[str, str]:
    """Remove files, what names others first; return why, for those that stay.

    What the files of a rank that could not be removed stand for is left alone. Raises OSError.
    """
    by_rank: dict[Rank, list[str]] = {rank: [] for rank in reversed(Rank)}
    for name in names:
        by_rank[rank_of(name)].append(name)
    failures: dict[str, str] = {}
    for ranked in by_rank.values():
        failures.update(tree.remove(ranked))
        if failures:
            break
    return failures


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for machines."""
    return {
        "files": outcome.files,
        "bytes": outcome.bytes,
        "resumed_bytes": outcome.resumed,
        "seconds": round(outcome.seconds, 3),
        "verified": dict(outcome.verified),
        "failures": outcome.failures,
    }
