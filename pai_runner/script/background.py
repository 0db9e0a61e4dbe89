"""Saving in the background: a checkpoint waits on the local disk while it is uploaded.

What waits is done by one thread, in the order in which TensorFlow asked for it: data, index,
`checkpoint`, then the deletion of old checkpoints. Nothing overtakes: whatever else changes a
bucket waits until the queue is empty (`settle`), but for event files, which stand for themselves.
So does the next save, before it writes anything: two saves are on the disk at most. The thread
begins when a save seems complete or is waited for, else it would contend with the save's end.

A file is taken by its name. SavedModels have data and indexes of the same names, always as
`variables/variables.…`: these are uploaded at once, for `saved_model.pb`, which follows, is read by
others as soon as it is there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

from pai_runner.script.stores import Entry, Stores, parent
from pai_runner.storage.attempts import retry_seconds
from pai_runner.storage.checksums import crc64
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.names import final_name, is_data, is_events, is_of_checkpoint
from pai_runner.storage.objects import mapped
from pai_runner.storage.pending import Journal, Operation, Waiting

# saved_model/path_helpers.py.
_OF_SAVED_MODEL = re.compile(r"/variables/variables\.[^/]*$")

# A server that cannot be reached is tried again for so many times PAI_RETRY_SECONDS.
_PATIENCE = 5
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 30.0
# A save seems complete when it has asked for nothing for so long, in seconds.
_PAUSE = 0.2
# The checksum of a larger file is calculated behind, too.
_SMALL = 64 * 1024 * 1024
# How often the end of the process tells how much is left, in seconds.
_PERIOD = 10.0
_MOST_NAMES = 20


class Background:
    """The queue of one process. Where it is not `is_on` it takes nothing, and is always empty.

    `on_change` is called after each upload, on the queue's thread. `is_alone` tells whether no
    other process saves the same checkpoints: one that does would wait for files that wait here.
    """

    def __init__(
        self,
        stores: Stores,
        on_change: Callable[[], None],
        is_on: bool,
        is_alone: Callable[[], bool],
    ) -> None:
        self._stores = stores
        self._on_change = on_change
        self._is_on = is_on
        self._is_alone = is_alone
        # Raises SetupError now, and not when a server is busy.
        self._seconds = _PATIENCE * retry_seconds()
        self._closing = threading.Event()
        self._begin()

    def after_fork(self) -> None:
        """Leave what waits to the parent. A child saves at once: it may end without a word."""
        self._is_on = False
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._is_busy = False  # with the first of the queue
        self._failure: OSError | None = None
        self._is_told = False  # the failure has been raised
        self._waiters = 0  # threads that wait until the queue is empty
        self._journal: Journal | None = None
        self._thread: threading.Thread | None = None
        self._is_ending = False

    # ====== What waits, as this process sees it ======

    def takes(self, path: str) -> bool:
        """Tell whether the file that will be at a clean path is uploaded behind."""
        if not self._is_on or not is_of_checkpoint(path):
            return False
        return _OF_SAVED_MODEL.search(path) is None and self._is_alone()

    def waiting(self, path: str) -> Operation | None:
        """Return what will be done to a clean path last, None when nothing will be."""
        with self._changed:
            return next((one for one in reversed(self._queue) if one.path == path), None)

    def entries(self, directory: str) -> dict[str, Entry | None]:
        """Return the files directly in a directory that wait, by name; None for removed ones."""
        with self._changed:
            found = [one for one in self._queue if parent(one.path) == directory]
        return {one.path.rpartition("/")[2]: entry_of(one) for one in found}

    def open(self, path: str) -> int | None:
        """Return a descriptor that reads the file that waits for a clean path, or None."""
        with self._changed:
            found = self.waiting(path)
            if found is None or found.is_removal or self._journal is None:
                return None
            return os.open(self._journal.file(found), os.O_RDONLY | os.O_CLOEXEC)

    @property
    def is_empty(self) -> bool:
        return not self._queue

    # ====== Queueing ======

    def before_writing(self, path: str) -> None:
        """Wait for the last save where a new one begins at `path`. Raises what it failed with."""
        final = final_name(path)
        if final is not None and self.takes(final) and is_data(final):
            self.settle()

    def folder_of(self, path: str) -> str | None:
        """Return where to write what will be at `path`, so that it need not be copied to wait."""
        final = final_name(path)
        if final is None or not self.takes(final):
            return None
        with self._changed:
            return self._opened().folder

    def upload(self, local: str, path: str, is_open: bool = False) -> None:
        """Have a local file uploaded to a clean path, as it is now. Raises OSError.

        The caller may remove it. `is_open`: it may still be written to.
        """
        with self._changed:
            journal = self._opened()
            file = journal.next_file()
            try:
                _take(local, file, is_open)
                size = os.path.getsize(file)
                crc = _crc64_of(file, size) if size <= _SMALL else None
                operation = journal.add(path, size, crc)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(file)
                raise
            replaced = self._last_of(path)
            self._queue.append(operation)
            if replaced is not None:
                self._queue.remove(replaced)
                journal.end(replaced)
        self._see_to_it()

    def remove(self, path: str) -> None:
        """Have a file of a bucket removed when all that waits is done. Raises OSError."""
        with self._changed:
            self._queue.append(self._opened().add(path, None))
        self._see_to_it()

    def settle(self, path: str = "") -> None:
        """Wait until nothing waits. Raises OSError when something could not be uploaded.

        What has been raised before is tried again first. `path` is what changes then: an event
        file need not wait.
        """
        if self.is_empty or self._is_ending or (path and is_events(path)):
            return
        with self._changed:
            if self._is_told:
                self._failure, self._is_told = None, False
        with self._wanted(), self._changed:
            while self._queue and self._failure is None and not self._is_ending:
                self._changed.wait()
            failure = self._failure
            self._is_told = failure is not None
        if failure is not None:
            raise failure

    @contextmanager
    def _wanted(self) -> Iterator[None]:
        """Have the queue worked off at once."""
        with self._changed:
            self._waiters += 1
        try:
            self._see_to_it()
            yield
        finally:
            with self._changed:
                self._waiters -= 1

    def _opened(self) -> Journal:
        """Return this process's journal, made at first use."""
        if self._journal is None:
            root, name = os.environ.get("PAI_PENDING_DIR", ""), f"{time.time_ns()}-{os.getpid()}"
            if not root:
                root, name = tempfile.gettempdir(), f"pai-{os.getpid()}-pending-{time.time_ns()}"
            self._journal = Journal.create(root, name)
        return self._journal

    def _last_of(self, path: str) -> Operation | None:
        """Return what was queued last, if it is an upload to `path` that has not begun.

        TensorFlow writes the same `checkpoint` file twice in a row.
        """
        if len(self._queue) == self._is_busy:
            return None
        last = self._queue[-1]
        return last if last.path == path and not last.is_removal else None

    # ====== The thread ======

    def _see_to_it(self) -> None:
        """Have the queue worked off: on its thread or, at the end of Python, here and now."""
        with self._changed:
            self._changed.notify_all()
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="pai-background", daemon=True)
            try:
                thread.start()
                self._thread = thread
                return
            except RuntimeError:  # the interpreter is ending
                pass
        while self._do_next():
            pass

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue or self._failure is not None:
                    self._changed.wait()
                while not self._waiters and self._changed.wait(_PAUSE):
                    pass
            while self._do_next():
                pass

    def _do_next(self) -> bool:
        """Do what is first in the queue; tell whether it went well, and there is more."""
        with self._changed:
            if not self._queue or self._failure is not None or self._is_busy:
                return False
            self._is_busy = True
            operation, journal = self._queue[0], self._opened()
        failure = self._try(operation, journal)
        with self._changed:
            self._is_busy = False
            if failure is None:
                self._queue.popleft()
            self._failure = failure
            self._changed.notify_all()
        if failure is None:
            self._on_change()
        return failure is None

    def _try(self, operation: Operation, journal: Journal) -> OSError | None:
        """Do an operation, again and again while the server cannot be reached."""
        began, wait, is_over = time.monotonic(), _FIRST_WAIT, False
        while True:
            try:
                operation = self._with_crc64(operation, journal)
                self._do(operation, journal)
                with self._changed:
                    journal.end(operation)
                return None
            except Exception as error:
                if is_over or failure_of(error) is not Failure.UNAVAILABLE:
                    return _failure(operation, error, journal)
                _say(f"{operation.path}: {describe_error(error)}; it is tried again")
            if self._closing.wait(wait):
                return _failure(operation, TimeoutError("the process is ending"), journal)
            wait = min(2 * wait, _LONGEST_WAIT)
            is_over = time.monotonic() - began > self._seconds  # then this is the last time

    def _with_crc64(self, operation: Operation, journal: Journal) -> Operation:
        if operation.size is None or operation.crc64 is not None:
            return operation
        crc = _crc64_of(journal.file(operation), operation.size)
        with self._changed:
            journal.note_crc64(operation, crc)
        return replace(operation, crc64=crc)

    def _do(self, operation: Operation, journal: Journal) -> None:
        store = self._stores.of(operation.path)
        if not operation.is_removal:
            store.upload(journal.file(operation), operation.path)
            return
        with suppress(FileNotFoundError):  # someone else was quicker
            store.remove(operation.path)

    # ====== The end of the process ======

    def held(self) -> AbstractContextManager[object]:
        """Have other threads wait with what they would queue, but while this one waits itself."""
        return self._changed

    def finish(self) -> list[str]:
        """Wait until nothing waits; return what to tell of what could not be uploaded.

        What failed before is tried once more. After a failure, or Ctrl-C, all later changes of
        buckets go on without waiting for it.
        """
        if self.is_empty or self._is_ending:
            return []
        with self._changed:
            self._failure = None
        try:
            with self._wanted():
                failure = self._wait_and_tell()
        except KeyboardInterrupt:
            failure = InterruptedError(errno.EINTR, "interrupted: it was not uploaded")
        if failure is None:
            return []
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        return [str(failure.strerror), *self.left()]

    def left(self) -> list[str]:
        """Return what to tell of the files that wait, and how their upload is finished."""
        with self._changed:
            waiting = list(self._queue)
            if self._journal is None or not waiting:
                return []
            folder = self._journal.folder
        names = [one.path for one in waiting if not one.is_removal]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines = [f"{Waiting.of(waiting)} in {folder}: {', '.join(names[:_MOST_NAMES])}{more}"]
        job = os.environ.get("PAI_JOB_ID")
        if job:
            lines.append(f"`pai jobs resume-upload {job}` finishes it")
        return lines

    def close(self) -> None:
        """Let no upload be tried again, and remove the folder if nothing waits."""
        self._closing.set()
        with self._changed:
            self._is_ending = True
            journal = self._journal
            if journal is not None and not self._queue:
                self._journal = None
                journal.remove()

    def _wait_and_tell(self) -> OSError | None:
        """Wait until nothing waits, or for a failure, which is returned."""
        with self._changed:
            while self._queue and self._failure is None:
                if not self._changed.wait(_PERIOD):
                    waiting = Waiting.of(list(self._queue))
                    _say(f"{waiting} for the upload")
            return self._failure


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # that nobody listens must not end the uploads
        print(f"pai: {text}", file=sys.stderr, flush=True)


def entry_of(operation: Operation) -> Entry | None:
    """Return what an operation will make of its path; None for nothing."""
    if operation.size is None:
        return None
    return Entry(False, operation.size, operation.time_ns)


def _take(local: str, file: str, is_open: bool) -> None:
    """Make `file` what `local` is now: by a second name for it, or else a copy."""
    if not is_open:
        try:
            os.link(local, file)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
    shutil.copyfile(local, file)


def _crc64_of(file: str, size: int) -> int:
    with mapped(file, 0, size) as content:
        return crc64(content)


def _failure(operation: Operation, error: Exception, journal: Journal) -> OSError:
    """Return an error of the same kind that names the file, and where it waits."""
    what = "not removed" if operation.is_removal else "not uploaded"
    text = f"{operation.path}: {what}: {describe_error(error)}"
    if not operation.is_removal:
        text += f"; it waits in {journal.file(operation)}"
    if isinstance(error, OSError):
        error.strerror = text
        return error
    is_denied = failure_of(error) in (Failure.DENIED, Failure.NO_CREDENTIALS)
    return PermissionError(errno.EACCES, text) if is_denied else OSError(errno.EIO, text)
