"""Large files that are uploaded while TensorFlow still writes them."""

from __future__ import annotations

from functools import partial

from pai_runner.script.passing import RING, PassingFile
from pai_runner.script.stores import Store
from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART, PartUpload
from pai_runner.storage.uploads import PARTS_AT_ONCE, ParallelUpload, send_part

# A store takes 10,000 parts an object, and nobody knows yet how long this one will be: after every
# so many parts they are twice as long, which makes 7 TiB at most. Each begins at a multiple of its
# length.
_PARTS_OF_ONE_SIZE = 1024
# Of a passing file several must fit into memory, which makes 489 GiB at most.
_LONGEST_PASSING = RING // 3


class Growing:
    """An object that is sent in parts while the local file that it will be grows.

    What was sent of the file must not change any more. Nothing is visible before `complete`. One
    thread at a time uses it, and `complete` or `abort` must be called.
    """

    def __init__(
        self, store: Store, path: str, local: str, passing: PassingFile | None = None
    ) -> None:
        """`path` is what the object will be; its store must know uploads in parts.

        Of a `passing` file what was sent may be gone.
        """
        self.path = path
        self._store = store
        self._local = local
        self._passing = passing
        self._begun = lanes().submit(store.begin_upload, path)
        self._parts: _Parts | None = None
        self._ends = [0]  # of the parts that the lanes have sent, or will send
        self.error: OSError | None = None

    def grow(self, size: int, may_wait: bool) -> None:
        """Begin to send what is whole of the first `size` bytes, as much as goes without waiting.

        With `may_wait` it is all. A failure ends the sending, and is raised by `complete`.
        """
        if self.error is not None or not (may_wait or self._begun.done()):
            return
        try:
            parts = self._opened()
            while self._ends[-1] + self._length() <= size and (may_wait or not parts.is_full):
                self._send(parts, self._length())
        except OSError as error:
            self.error = error

    def wait_until_sent(self, count: int) -> int:
        """Wait until the first `count` bytes are sent; return how many are.

        They must be given to the lanes already. Raises OSError, as `complete` will.
        """
        try:
            if self.error is not None:
                raise self.error
            parts = self._opened()
            while self._ends[parts.sent] < count or parts.is_first_sent:
                parts.wait_for_first()
            return self._ends[parts.sent]
        except OSError as error:
            self.error = error
            raise

    def complete(self, size: int) -> None:
        """Send the rest of `size` bytes and make the object.

        Raises OSError, which may be that of an earlier part; the upload is given up then.
        """
        try:
            if self.error is not None:
                raise self.error
            parts = self._opened()
            while self._ends[-1] < size:
                self._send(parts, min(self._length(), size - self._ends[-1]))
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
        length = int(PART * 2 ** ((len(self._ends) - 1) // _PARTS_OF_ONE_SIZE))
        return length if self._passing is None else min(length, _LONGEST_PASSING)

    def _send(self, parts: _Parts, count: int) -> None:
        if self._passing is not None:
            parts.at_once = min(PARTS_AT_ONCE, RING // count - 1)
        number, start = len(self._ends), self._ends[-1]
        parts.add(partial(self._send_piece, parts.upload, number, start, count))
        self._ends.append(start + count)

    def _send_piece(self, upload: PartUpload, number: int, start: int, count: int) -> None:
        try:
            if self._passing is not None:
                upload.send(number, self._passing.part(start, count))
            else:
                send_part(upload, self._local, number, start, count)
        except OSError as error:
            # Its frames would keep in memory what was to be sent.
            raise error.with_traceback(None) from None


class _Parts(ParallelUpload):
    @property
    def is_full(self) -> bool:
        """Tell whether `add` would wait."""
        return len(self._sending) >= self.at_once and not self._sending[0].done()

    @property
    def is_first_sent(self) -> bool:
        """Tell whether `wait_for_first` would not wait."""
        return bool(self._sending) and self._sending[0].done()
