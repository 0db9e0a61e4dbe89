"""Whole local files on their way into objects, several parts at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial

from pai_runner.storage.lanes import lanes
from pai_runner.storage.objects import PART, Objects, PartUpload, mapped, part_size
from pai_runner.storage.plain_objects import PlainObjects

logger = logging.getLogger(__name__)

# How many parts of one object are on their way at once.
PARTS_AT_ONCE = 16


class ParallelUpload:
    """An object whose parts are sent at most `at_once` at a time, by the lanes or by `submit`.

    `sent` says how many of the first parts are. One thread uses it. After any failure `abort` must
    be called.
    """

    def __init__(
        self,
        upload: PartUpload,
        at_once: int = PARTS_AT_ONCE,
        submit: Callable[[Callable[[], None]], Future[None]] | None = None,
    ) -> None:
        self.upload = upload
        self.at_once = at_once
        self.sent = 0
        self._submit = submit or lanes().submit
        self._sending: deque[Future[None]] = deque()

    def add(self, send: Callable[[], None]) -> None:
        """Do `send` on a lane; wait where too many are on their way. Raises OSError."""
        if len(self._sending) >= self.at_once:
            self.wait_for_first()
        self._sending.append(self._submit(send))

    def wait_for_first(self) -> None:
        """Wait until the first part that is on its way is sent. Raises OSError."""
        self._sending[0].result()
        # Not before: an interrupted wait must not forget a part.
        self._sending.popleft()
        self.sent += 1

    def wait(self) -> None:
        """Wait until all parts are sent. Raises OSError."""
        while self._sending:
            self.wait_for_first()

    def abort(self) -> None:
        """Give the upload up, and with it the parts that were sent."""
        for one in self._sending:
            one.cancel()
        wait(self._sending)  # a part that arrives after the end of its upload would stay
        try:
            self.upload.abort()
        except OSError as error:
            # What ended the upload is the error that counts.
            logger.warning("an upload in parts is left over: %s", error.strerror)


def upload_file(
    objects: Objects,
    path: str,
    local: str,
    size: int,
    sent: Callable[[int], object] = lambda count: None,
) -> str:
    """Write the first `size` bytes of a local file to an object, and return its ETag.

    The object appears whole or, on an error, stays as it was. `sent(count)` is called, on any
    thread, as bytes have arrived. Raises OSError.
    """
    if isinstance(objects, PlainObjects):
        etag = objects.put_file(path, local)
        sent(size)
        return etag
    if size < 2 * PART:
        with mapped(local, 0, size) as content:
            etag = objects.put(path, content)
        sent(size)
        return etag
    parallel = ParallelUpload(objects.upload(path))
    try:
        part = part_size(size)
        for number, start in enumerate(range(0, size, part), 1):
            count = min(part, size - start)
            parallel.add(partial(send_part, parallel.upload, local, number, start, count, sent))
        parallel.wait()
        return parallel.upload.complete()
    except BaseException:
        parallel.abort()
        raise


def send_part(
    upload: PartUpload,
    local: str,
    number: int,
    start: int,
    count: int,
    sent: Callable[[int], object] = lambda count: None,
) -> None:
    """Send a piece of a local file as part `number` of an upload. Raises OSError."""
    with mapped(local, start, count) as content:
        upload.send(number, content)
    sent(count)
