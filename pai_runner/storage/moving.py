"""One file on its way from one tree to another: whole, or in pieces that move at once.

What is being copied is never visible half: an object appears when its upload is complete, a local
file when it is renamed. A large copy that is interrupted leaves a journal, and the next copy of the
same file to the same place goes on with it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from pai_runner.storage.copy_journal import CopyJournal
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.lanes import lanes
from pai_runner.storage.local_target import FileSink, write_small
from pai_runner.storage.local_tree import LocalTree
from pai_runner.storage.names import Rank, has_plain_parts, rank_of
from pai_runner.storage.objects import PART, part_size
from pai_runner.storage.remote_target import StreamSink, UploadSink
from pai_runner.storage.s3_tree import COPIED_AT_ONCE
from pai_runner.storage.trees import Entry, StoreTree, Tree, changed
from pai_runner.storage.verifying import ETAG, PARTS, SIZE, Digest, has, md5_of

# So much of one large file is on its way, and may be in memory, at once; but two pieces at least.
_BYTES_AT_ONCE = 128 * 1024 * 1024


class Stopped(Exception):
    """The copy was told to end."""


@dataclass(frozen=True)
class Move:
    """A file to be copied: `entry` is what it was when it was listed."""

    source: Tree
    source_name: str
    entry: Entry
    target: Tree
    name: str

    @property
    def rank(self) -> Rank:
        return rank_of(self.name)

    @property
    def is_on_server(self) -> bool:
        """Whether the store copies the file itself, and no byte comes here."""
        target = self.target
        return isinstance(target, StoreTree) and target.copies and self.source.store is target.store

    @property
    def is_large(self) -> bool:
        """Whether it moves in pieces."""
        return self.entry.size >= (COPIED_AT_ONCE if self.is_on_server else 2 * PART)

    def __str__(self) -> str:
        return f"{self.source.shown(self.source_name)} -> {self.target.shown(self.name)}"


@dataclass
class Moving:
    """What the moves of one command share. `sent(count)` is called, on any thread, as bytes move.

    `resumed` counts the bytes that an earlier command had copied.
    """

    sent: Callable[[int], object] = lambda count: None
    stopping: threading.Event = field(default_factory=threading.Event)
    resumed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_resumed(self, count: int) -> None:
        """Count bytes of a file that is there now, and that an earlier command had copied."""
        with self._lock:
            self.resumed += count


def copy_small(move: Move, moving: Moving) -> str:
    """Copy a file in one piece; return how it was verified. Raises OSError, Stopped.

    To be done on a lane.
    """
    if moving.stopping.is_set():
        raise Stopped
    _check_name(move)
    if move.is_on_server:
        method = _copied_on_server(move)
    else:
        data = move.source.piece(move.source_name, move.entry, 0, move.entry.size)
        found = None if move.source.is_local else _verified_small(move, data)
        method = found or SIZE
        if isinstance(move.target, LocalTree):
            write_small(move.target.path(move.name), data, move.entry.modified_ns)
        elif isinstance(move.target, StoreTree):
            move.target.put(move.name, data)
            stored = move.target.written_by(False) or move.target.check_size(move.name, move.entry)
            method = found or stored
    moving.sent(move.entry.size)
    return method


def copy_large(move: Move, moving: Moving) -> str:
    """Copy a file in pieces; return how it was verified. Raises OSError, Stopped.

    To be done on a thread of its own: it waits for work on the lanes.
    """
    _check_name(move)
    if move.is_on_server:
        method = _copied_on_server(move)
        moving.sent(move.entry.size)
        return method
    journal = CopyJournal(
        _identity(move.source, move.source_name), _identity(move.target, move.name)
    )
    try:
        try:
            return _Pieces(move, moving, journal).copy()
        except RefusedError as error:
            if error.code != "NoSuchUpload":
                raise
            # Somebody has given up the upload that was to be gone on with.
            journal.begin()
            return _Pieces(move, moving, journal).copy()
    finally:
        journal.close()


def _identity(tree: Tree, name: str) -> str:
    server = tree.server if isinstance(tree, StoreTree) else ""
    return tree.shown(name) + (f"?{server}" if server else "")


def _check_name(move: Move) -> None:
    """Refuse what could become a file somewhere else, or none. Raises OSError."""
    if isinstance(move.target, LocalTree):
        if not has_plain_parts(move.name) or "\0" in move.name:
            text = "it cannot be a local file: its name has an empty part, `.`, `..` or a zero byte"
            raise OSError(errno.EINVAL, text)
        if os.path.isdir(move.target.path(move.name)):
            text = f"{move.target.shown(move.name)}: there is a folder of this name"
            raise IsADirectoryError(errno.EISDIR, text)
    try:
        move.name.encode()
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "its name is not UTF-8") from None


def _copied_on_server(move: Move) -> str:
    source, target = move.source, move.target
    assert isinstance(source, StoreTree)
    assert isinstance(target, StoreTree)
    return target.copy(source, move.source_name, move.entry, move.name)


# ====== Verifying what was read ======


def _verified_small(move: Move, data: memoryview) -> str:
    quick = md5_of(move.entry.etag)
    if quick is not None and has(quick, lambda digest: digest.add(data)):
        return quick.method
    if not move.entry.etag:
        return SIZE
    # The ETag is no MD5 of the content, or the content is damaged: the store knows more.
    checksum = move.source.checksum(move.source_name, move.entry)
    digest = None if checksum is None else Digest(checksum)
    if digest is not None:
        digest.add(data)
    return _verdict(move, digest)


def _verdict(move: Move, digest: Digest | None) -> str:
    """Return how a file was verified that has been read. Raises OSError where it is damaged."""
    if digest is None:
        return ETAG if move.entry.etag else SIZE
    if digest.matches():
        return digest.checksum.method
    source, name = move.source, move.source_name
    if digest.checksum.method == PARTS and source.is_uneven(name, move.entry):
        return ETAG
    text = f"damaged on its way: its {digest.checksum.method} is another"
    raise MismatchError(errno.EIO, f"{source.shown(name)}: {text}")


class MismatchError(OSError):
    """What has arrived is not what the store has sent."""


# ====== Pieces ======


class Sink(Protocol):
    """Where the pieces of a file go."""

    resumed: set[int]
    """The pieces that are there already."""

    def put(self, number: int, start: int, count: int) -> memoryview:
        """Bring a piece there, and return its bytes. Several threads do it at once."""

    def held(self, number: int, start: int, count: int) -> memoryview | None:
        """Return the bytes of a piece that is there already, where they can be had."""

    def take(self, data: memoryview) -> None:
        """Take note of the bytes of a piece; these calls come in order."""

    def finish(self) -> str | None:
        """Make the file visible; return how its sending was verified. Raises OSError."""

    def abandon(self) -> None:
        """Give up what is there."""

    def leave(self) -> None:
        """Leave what is there for the next command."""


class _Pieces:
    """The copy of one file, piece by piece."""

    def __init__(self, move: Move, moving: Moving, journal: CopyJournal) -> None:
        self._move = move
        self._moving = moving
        self._journal = journal
        self._part = part_size(move.entry.size)
        self._sink = self._open_sink()
        self._digest: Digest | None = None

    def _open_sink(self) -> Sink:
        move = self._move
        about = {**move.entry._asdict(), "part": self._part}
        if isinstance(move.target, LocalTree):
            return FileSink(move.target, move.name, self._read_into, self._journal, about)
        assert isinstance(move.target, StoreTree)
        if move.target.objects.has_parts:
            return UploadSink(move.target, move.name, self._read, self._journal, about)
        return StreamSink(move.target, move.name, self._read, move.entry)

    def _read(self, start: int, count: int) -> memoryview:
        return self._move.source.piece(self._move.source_name, self._move.entry, start, count)

    def _read_into(self, start: int, into: memoryview) -> None:
        self._move.source.read_into(self._move.source_name, self._move.entry, start, into)

    def copy(self) -> str:
        """Copy the file; return how it was verified. Raises OSError, Stopped."""
        waiting: deque[Future[memoryview | None]] = deque()
        try:
            self._begin_digest()
            self._move_all(waiting)
            method = None if self._move.source.is_local else _verdict(self._move, self._digest)
            self._check_source()
            sent = self._sink.finish()
            self._journal.end()
            self._moving.note_resumed(self._resumed_bytes())
            return method or sent or SIZE
        except BaseException as error:
            self._end(waiting, error)
            raise

    def _resumed_bytes(self) -> int:
        starts = ((number - 1) * self._part for number in self._sink.resumed)
        return sum(min(self._part, self._move.entry.size - start) for start in starts)

    def _begin_digest(self) -> None:
        """Find out what the content is to be compared with, where all of it will be seen here."""
        move, sink = self._move, self._sink
        is_seen = isinstance(sink, FileSink) or not sink.resumed
        if is_seen and not move.source.is_local and move.entry.etag:
            checksum = move.source.checksum(move.source_name, move.entry)
            self._digest = None if checksum is None else Digest(checksum)

    def _move_all(self, waiting: deque[Future[memoryview | None]]) -> None:
        size = self._move.entry.size
        at_once = max(2, _BYTES_AT_ONCE // self._part)
        for number, start in enumerate(range(0, size, self._part), 1):
            if len(waiting) >= at_once:
                self._take(waiting.popleft())
            count = min(self._part, size - start)
            waiting.append(lanes().submit(self._piece, number, start, count))
        while waiting:
            self._take(waiting.popleft())

    def _piece(self, number: int, start: int, count: int) -> memoryview | None:
        if self._moving.stopping.is_set():
            raise Stopped
        if number in self._sink.resumed:
            data = self._sink.held(number, start, count)
        else:
            data = self._sink.put(number, start, count)
        self._moving.sent(count)
        return data

    def _take(self, piece: Future[memoryview | None]) -> None:
        data = piece.result()
        if data is not None:
            self._sink.take(data)
            if self._digest is not None:
                self._digest.add(data)

    def _check_source(self) -> None:
        """Check that a local source is what it was before anything is published."""
        move = self._move
        if move.source.is_local and move.source.entry(move.source_name) != move.entry:
            raise changed(move.source.shown(move.source_name))

    def _end(self, waiting: deque[Future[memoryview | None]], error: BaseException) -> None:
        for one in waiting:
            one.cancel()
        wait(waiting)  # a part that arrives after the end of its upload would stay
        is_useless = isinstance(error, MismatchError) or (
            isinstance(error, OSError) and error.errno == errno.ESTALE
        )
        if is_useless or not self._journal.is_kept:
            self._sink.abandon()
            self._journal.end()
        else:
            self._sink.leave()
