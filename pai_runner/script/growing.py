"""Large files that are uploaded while TensorFlow still writes them."""

from __future__ import annotations

from functools import partial

from pai_runner.script.passing import PassingFile
from pai_runner.script.stores import Store
from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART, PartUpload
from pai_runner.storage.uploads import PARTS_AT_ONCE, ParallelUpload, send_part

# A store takes 10,000 parts an object, and nobody knows yet how long this one will be: after every
# so many parts they are twice as long, which makes 8 TiB at most.
_PARTS_OF_ONE_SIZE = 1000
# How much of a passing file may be on its way, in bytes, when its parts are long.
_MOST_PASSING = 256 * 1024 * 1024


class Growing:
    """An object that is sent in parts while the local file that it will be grows.

    What was sent of the file must not change any more. Nothing is visible before `complete`. One
    thread at a time uses it, and `complete` or `abort` must be called.
    """

    def __init__(
        self, store: Store, path: str, local: str, passing: PassingFile | None = None
    ) -> None:
        """`path` is what the object will be; its store must know uploads in parts.

        What was sent of a `passing` file is let go of.
        """
        self.path = path
        self._store = store
        self._local = local
        self._passing = passing
        self._begun = lanes().submit(store.begin_upload, path)
        self._parts: _Parts | None = None
        self._number = 0
        self._given = 0  # bytes that the lanes have sent, or will send
        self.error: OSError | None = None

    def grow(self, size: int, may_wait: bool) -> None:
        """Begin to send what is whole of the first `size` bytes, as much as goes without waiting.

        With `may_wait` it is all. A failure ends the sending, and is raised by `complete`.
        """
        if self.error is not None or not (may_wait or self._begun.done()):
            return
        try:
            parts = self._opened()
            while self._given + self._length() <= size and (may_wait or not parts.is_full):
                self._send(parts, self._length())
        except OSError as error:
            self.error = error

    def complete(self, size: int) -> None:
        """Send the rest of `size` bytes and make the object.

        Raises OSError, which may be that of an earlier part; the upload is given up then.
        """
        try:
            if self.error is not None:
                raise self.error
            parts = self._opened()
            while self._given < size:
                self._send(parts, min(self._length(), size - self._given))
            parts.wait()
            try:
                parts.upload.complete()
            finally:
                self._store.forget(self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give the upload up, and with it what was sent. What cannot be removed is logged."""
        if self._begun.cancel() or self._begun.exception() is not None:
            return
        self._opened().abort()

    def _opened(self) -> _Parts:
        """Return the upload, when it has begun. Raises OSError."""
        if self._parts is None:
            upload = self._begun.result()
            assert upload is not None, f"{self.path}: its store knows no parts"
            self._parts = _Parts(upload)
        return self._parts

    def _length(self) -> int:
        """Return how long the next part is, unless it is the last."""
        return int(PART * 2 ** (self._number // _PARTS_OF_ONE_SIZE))

    def _send(self, parts: _Parts, count: int) -> None:
        if self._passing is not None:
            parts.at_once = max(2, min(PARTS_AT_ONCE, _MOST_PASSING // count))
        parts.add(partial(self._send_piece, parts.upload, self._number + 1, self._given, count))
        self._number += 1
        self._given += count

    def _send_piece(self, upload: PartUpload, number: int, start: int, count: int) -> None:
        try:
            send_part(upload, self._local, number, start, count)
        except OSError as error:
            # Its frames would keep in memory what was to be sent.
            raise error.with_traceback(None) from None
        if self._passing is not None:
            self._passing.let_go(start, count)


class _Parts(ParallelUpload):
    @property
    def is_full(self) -> bool:
        """Tell whether `add` would wait."""
        return len(self._sending) >= self.at_once and not self._sending[0].done()
