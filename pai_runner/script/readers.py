"""Open files that TensorFlow reads from, at any offset and from any thread."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Protocol

from pai_runner.script.blocks import Block, Budget
from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART

# A read of so much goes straight to where TensorFlow wants it; of a shorter one the block that it
# lies in is kept.
_DIRECT = 1024 * 1024
# How short the ranges are into which a long read is cut, and the blocks that are fetched ahead.
_SHORTEST = 1024 * 1024
_RANGES = 16
# How far ahead of who reads it one file may be.
_FIRST_WINDOW = 2 * 1024 * 1024
_LONGEST_WINDOW = 16 * PART
# What is fetched around a short read elsewhere, and how many such blocks are kept.
_AROUND = 256 * 1024
_KEPT = 4
# Who begins with a read of this much wants all of it.
_BULK = 128 * 1024

_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view.restype = ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE

# Fills memory with the bytes of the file from a start.
Fetch = Callable[[int, memoryview], None]
# Tells the compiled part which bytes of the file it may copy by itself: address, start, size.
Offer = Callable[[int, int, int], object]


class Reader(Protocol):
    """An open file."""

    def read_into(self, address: int, offset: int, count: int) -> int:
        """Put up to `count` bytes from `offset` at `address`.

        Return how many: fewer than `count` only at the end of the file.
        """

    def after_fork(self) -> None: ...

    def close(self) -> None: ...


class RemoteReader:
    """A file of `size` bytes that `fetch` reads.

    Who reads on where the last read ended is given blocks that are fetched ahead, more and longer
    ones each time that he had to wait. Who reads elsewhere gets what he asks for: a long read is
    cut into ranges that are fetched at once, straight into his memory.

    `head` are the first bytes, which came with the answer to the first request. `is_stream`: who
    begins to read it will most likely read it all.
    """

    def __init__(
        self,
        size: int,
        head: bytes | bytearray,
        fetch: Fetch,
        budget: Budget,
        offer: Offer,
        is_stream: bool,
    ) -> None:
        self._size = size
        self._fetch = fetch
        self._budget = budget
        self._offer = offer
        self._is_stream = is_stream
        self._lock = threading.Lock()
        self._blocks: list[Block] = []
        self._offered: Block | None = None
        self._next = 0
        self._window = 0
        if head:
            first = self._new_block(0, len(head), is_needed=True)
            assert first is not None
            first.fill(head)

    def read_into(self, address: int, offset: int, count: int) -> int:
        end = min(offset + count, self._size)
        if offset >= end:
            return 0
        blocks: list[Block] = []
        direct: list[Future[None]] = []  # none may write there any more when this returns
        try:
            with self._lock:
                is_on = self._reads_on(offset, end)
                blocks, gaps = self._cover(offset, end, is_on)
                self._start(gaps, address - offset, direct)
                if is_on:
                    self._look_ahead(end)
            is_late = bool(gaps) or not all(block.coming.done() for block in blocks)
            _copy(blocks, offset, end, address)
        finally:
            _finish(direct)
            with self._lock:
                for block in blocks:
                    block.users -= 1
        for one in direct:
            one.result()
        with self._lock:
            if is_on and is_late:
                self._window = min(_LONGEST_WINDOW, 2 * self._window)
            self._offer_what_is_at(end)
            self._drop_what_is_behind(offset)
        return end - offset

    def after_fork(self) -> None:
        """Forget what the parent's threads are fetching."""
        self._lock = threading.Lock()
        self._blocks = [block for block in self._blocks if block.is_there]
        for block in self._blocks:
            block.after_fork()

    def close(self) -> None:
        with self._lock:
            self._offer(0, 0, 0)
            for block in self._blocks:
                block.give_back(self._budget)
            self._blocks = []

    # ====== What to fetch ======

    def _reads_on(self, offset: int, end: int) -> bool:
        """Tell whether this read follows the last one, and note where the next would begin."""
        before, self._next = self._next, end
        if before == 0 and offset == 0:
            is_on = self._is_stream and end - offset >= _BULK
        else:
            # Reads from the block on offer were not seen here.
            offered = self._offered
            start = before if offered is None else min(before, offered.start)
            stop = before if offered is None else max(before, offered.end)
            is_on = start <= offset <= stop + _AROUND
        # Who reads much at once will do so again: as much is fetched while he works on it.
        least = min(_LONGEST_WINDOW, max(_FIRST_WINDOW, end - offset))
        self._window = max(self._window, least) if is_on else 0
        return is_on

    def _cover(
        self, offset: int, end: int, is_on: bool
    ) -> tuple[list[Block], list[tuple[int, int]]]:
        """Return the blocks that hold a range, to be used, and the long gaps between them."""
        blocks: list[Block] = []
        gaps: list[tuple[int, int]] = []
        while offset < end:
            block = self._block_at(offset)
            if block is None:
                later = [one.start for one in self._blocks if offset < one.start < end]
                stop = min(later, default=end)
                if stop - offset >= _DIRECT:
                    gaps.append((offset, stop))
                    offset = stop
                    continue
                block = self._fetch_around(offset, is_on)
            block.users += 1
            blocks.append(block)
            offset = block.end
        return blocks, gaps

    def _block_at(self, offset: int) -> Block | None:
        for block in self._blocks:
            if block.start <= offset < block.end and (block.is_there or not block.coming.done()):
                return block
        return None

    def _fetch_around(self, offset: int, is_on: bool) -> Block:
        start = offset if is_on else offset // _AROUND * _AROUND
        size = self._block_size() if is_on else _AROUND
        block = self._fetch_block(start, min(start + size, self._size), is_needed=False)
        if block is None:  # the budget is spent: as little as is good for anything
            shorter = min(size, _SHORTEST)
            block = self._fetch_block(start, min(start + shorter, self._size), is_needed=True)
        assert block is not None
        return block

    def _look_ahead(self, position: int) -> None:
        """Fetch what the next reads will ask for, as far as the window and the budget reach."""
        stop = min(position + self._window, self._size)
        while position < stop:
            block = self._block_at(position) or self._fetch_block(
                position, min(position + self._block_size(), self._size), is_needed=False
            )
            if block is None:
                return
            position = block.end

    def _block_size(self) -> int:
        return min(PART, max(_SHORTEST, self._window // 4))

    def _fetch_block(self, start: int, end: int, is_needed: bool) -> Block | None:
        block = self._new_block(start, end, is_needed)
        if block is not None:
            block.fetch_with(self._fetch)
        return block

    def _new_block(self, start: int, end: int, is_needed: bool) -> Block | None:
        memory = self._budget.take(end - start, is_needed)
        if memory is None:
            return None
        block = Block(start, end, memory)
        self._blocks.append(block)
        return block

    def _start(
        self, gaps: Sequence[tuple[int, int]], base: int, started: list[Future[None]]
    ) -> None:
        """Begin to fetch long gaps to where they belong: `base` is where the file would begin."""
        for start, end in gaps:
            size = min(PART, max(_SHORTEST, -(-(end - start) // _RANGES)))
            for first in range(start, end, size):
                into = _view(base + first, min(size, end - first), _WRITABLE)
                started.append(lanes().submit(self._fetch, first, into))

    # ====== What to keep ======

    def _offer_what_is_at(self, offset: int) -> None:
        """Let the compiled part serve the next reads, if what they ask for is there."""
        block = self._block_at(offset)
        if block is not None and block is not self._offered and block.is_there:
            self._offer(block.address, block.start, block.end - block.start)
            self._offered = block

    def _drop_what_is_behind(self, offset: int) -> None:
        is_stream = self._window > 0
        last = len(self._blocks) - _KEPT
        for number, block in enumerate(list(self._blocks)):
            is_behind = block.end <= offset if is_stream else number < last
            if is_behind and not block.users and block is not self._offered:
                self._blocks.remove(block)
                block.give_back(self._budget)


def _copy(blocks: Sequence[Block], offset: int, end: int, address: int) -> None:
    """Copy what the blocks hold of a range to where it belongs, as they come."""
    for block in blocks:
        block.coming.result()
        start, stop = max(block.start, offset), min(block.end, end)
        block.copy(start, address + start - offset, stop - start)


def _finish(fetches: Sequence[Future[None]]) -> None:
    """Wait until no fetch writes to memory any more; after a failure, begin no more of them."""
    try:
        wait(fetches, return_when=FIRST_EXCEPTION)
    finally:
        for one in fetches:
            one.cancel()
        wait(fetches)


class LocalReader:
    """A file of this process that is not uploaded yet."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_into(self, address: int, offset: int, count: int) -> int:
        done = 0
        while done < count:
            with _view(address + done, count - done, _WRITABLE) as into:
                got = os.preadv(self._descriptor, [into], offset + done)
            if not got:
                break
            done += got
        return done

    def after_fork(self) -> None:
        """A descriptor is the child's too."""

    def close(self) -> None:
        os.close(self._descriptor)
