"""Files that TensorFlow writes: staged on the local disk, uploaded when they are whole.

Large ones are sent while they are written, in parts that nobody sees before the whole is there.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable

from pai_runner.errors import SetupError
from pai_runner.script.background import Background
from pai_runner.script.growing import Growing
from pai_runner.script.passing import RING, UNLIMITED, PassingFile, can_pass
from pai_runner.script.staging import Staged, Staging
from pai_runner.script.stores import Store, Stores
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.names import (
    final_name,
    is_bundle_data,
    is_temporary,
    is_temporary_directory,
)
from pai_runner.storage.objects import PART

# From this size on a file is sent in parts: before, one request is better.
_LARGE = 2 * PART
# Who writes more than passes through memory waits until so much of it is free.
_ROOM = 4 * PART

# How many tasks the job has: set by whoever starts them.
_TASKS = "PAI_TASKS"
# TensorFlow's own variable, which names the tasks of a cluster by their jobs.
_CLUSTER = "TF_CONFIG"
# Those of the jobs that save.
_SAVING_JOBS = ("chief", "master", "worker", "ps")


class Writers:
    """Opens, uploads and gives up staged files.

    `on_change` is called after each upload; a file that is still being written is uploaded at
    most every `upload_seconds`.
    """

    def __init__(
        self,
        stores: Stores,
        staging: Staging,
        on_change: Callable[[], None],
        upload_seconds: float,
        background: Background,
    ) -> None:
        self._stores = stores
        self._staging = staging
        self.on_change = on_change
        self._upload_seconds = upload_seconds
        self._background = background

    @property
    def are_open(self) -> bool:
        return any(staged.writers for staged in self._staging.files())

    # ====== Names ======

    def is_temporary(self, path: str) -> bool:
        """Tell whether a file stays local until it is renamed."""
        return is_temporary(path, is_alone())

    def is_temporary_directory(self, path: str) -> bool:
        """Tell whether nothing below a directory is ever uploaded."""
        return is_temporary_directory(path) and is_alone()

    # ====== Writing ======

    def open(self, path: str, append: bool) -> tuple[Staged, int]:
        """Return the staged file for a clean path, and a new descriptor that appends to it."""
        staged = self._staging.file(path)
        while staged is not None:
            descriptor = self._reopen(staged, path, append)
            if descriptor is not None:
                return staged, descriptor
            staged = self._staging.file(path)
        # Made now: a process that is ending can start no thread for its connections.
        _ = self._stores.of(path).objects
        staged = self._stage(path, append)
        try:
            if append:
                self._fetch(staged)
            descriptor = staged.open(truncate=not append)
        except BaseException:
            staged.unlink()
            raise
        with self._staging.lock:
            if self._staging.file(path) is None:
                self._staging.add(staged)
                return staged, descriptor
        os.close(descriptor)
        staged.unlink()
        return self.open(path, append)  # another thread opened it meanwhile

    def _stage(self, path: str, append: bool) -> Staged:
        folder = self._background.folder_of(path)
        if folder is None and not append and self._passes(path):
            return Staged(path, passing=PassingFile(path.rpartition("/")[2][-200:]))
        staged = Staged(path, folder)
        # What is uploaded behind waits for what was saved before.
        staged.may_grow = folder is None
        return staged

    def _passes(self, path: str) -> bool:
        """Tell whether a file is only ever appended to, then renamed: it needs no disk."""
        return is_bundle_data(path) and can_pass() and self._stores.of(path).objects.has_parts

    def _reopen(self, staged: Staged, path: str, append: bool) -> int | None:
        """Return a new descriptor of a staged file, or None if it is not at `path` any more."""
        with staged.uploading:
            if not append:
                _give_up_parts(staged)
            if staged.passing is not None:
                if not append:
                    self._staging.discard(staged)  # its writers write on, for nobody
                elif staged.writers:
                    raise OSError(errno.EBUSY, "it is being written")
                else:
                    staged.passing.keep()
            with self._staging.lock:
                if self._staging.file(path) is not staged:
                    return None
                return staged.open(truncate=not append)

    def grow(self, staged: Staged) -> None:
        """Send what is whole of a large file that is being written, as far as goes without waiting.

        The rest goes when the file has grown again, or at its end.
        """
        if not staged.uploading.acquire(blocking=False):
            return
        try:
            if staged.may_grow and not staged.is_failed and not staged.is_detached:
                self._send_ahead(staged, may_wait=False)
        finally:
            staged.uploading.release()

    def make_room(self, staged: Staged) -> int:
        """Wait until a passing file of which all memory is used can be written on.

        Returns up to which of its bytes. Raises OSError: then it is lost.
        """
        passing = staged.passing
        assert passing is not None
        with staged.uploading:
            if staged.is_detached:  # it is written for nobody
                return UNLIMITED
            try:
                growing = self._send_ahead(staged, may_wait=True)
                if growing is None or not passing.write_over():
                    passing.keep()
                    return UNLIMITED
                return growing.wait_until_sent(passing.size - RING + _ROOM) + RING
            except OSError:
                staged.is_failed = True
                raise

    def _send_ahead(self, staged: Staged, may_wait: bool) -> Growing | None:
        """Send what is whole of a file; return what sends it, if it can be sent before its end."""
        size = staged.size
        path = final_name(staged.path, is_alone())
        if path is None or size < _LARGE:
            return None
        if staged.growing is None and staged.has_holes:  # its beginning is elsewhere
            return None
        store = self._stores.of(path)
        if staged.growing is None and store.objects.has_parts:
            staged.growing = Growing(store, path, staged.local, staged.passing)
        # A file that was renamed otherwise than foretold is sent again, as a whole.
        if staged.growing is None or staged.growing.path != path:
            return None
        staged.growing.grow(size, may_wait)
        return staged.growing

    def sync(self, staged: Staged) -> None:
        """Upload what is written so far, when it is time.

        A failure is only reported: the same bytes go with the next upload, and the last one, at
        close, must succeed.
        """
        if staged.passing is None:
            staged.may_grow = False  # what is sent ahead would go again with the next upload
        if self.is_temporary(staged.path):
            return
        try:
            with staged.uploading:
                if not staged.is_detached and staged.is_due(self._upload_seconds):
                    self._bring_up(staged)
        except Exception as error:
            report(staged.path, error, "it will be tried again")

    def close(self, staged: Staged) -> None:
        """Upload a file that is written. Raises what the upload raised; the file is lost then."""
        staged.writers -= 1
        try:
            if staged.is_failed:
                raise OSError(errno.EIO, "an earlier write failed; nothing was uploaded")
            self._finish(staged)
        except BaseException:
            self._release(staged)
            raise

    def drop(self, staged: Staged, publish: bool) -> None:
        """Give up a writer that was not closed.

        `publish`: it has all its content, as in `GFile(path, "w").write(text)`. A local file
        would be written then, and so it is uploaded, now or, failing that, at the end of the
        process. Half of a failed operation is not.
        """
        staged.writers -= 1
        if not publish or staged.is_failed:
            self._release(staged)
            return
        try:
            self._finish(staged)
        except Exception as error:
            report(staged.path, error, "it will be tried again at the end")

    def publish(self, staged: Staged, path: str) -> None:
        """Upload what is written of a staged file to a clean path, which may be another's."""
        with staged.uploading:
            if staged.is_detached:  # another thread removed it
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._publish(staged, path)

    def discard(self, staged: Staged) -> None:
        """Forget a staged file, after any upload of it, and what was sent of it."""
        with staged.uploading:
            _give_up_parts(staged)
            self._staging.discard(staged)

    # ====== The end of the process ======

    def drain(self) -> list[str]:
        """Upload all that is written so far; return one line for each file that could not be.

        A file is tried once, and a server that does not answer once: the process is ending.
        """
        failures = []
        unreachable: dict[Store, Exception] = {}
        for staged in self._staging.files():
            if staged.is_failed or staged.is_lost or self.is_temporary(staged.path):
                continue
            store = self._stores.of(staged.path)
            try:
                if store in unreachable:
                    raise unreachable[store]
                self._upload(staged)
            except Exception as error:
                staged.is_lost = True
                failures.append(f"{staged.path}: not uploaded: {describe_error(error)}")
                if failure_of(error) is Failure.UNAVAILABLE:
                    unreachable[store] = error
        return failures

    def give_up(self) -> None:
        """Forget all staged files."""
        for staged in self._staging.files():
            self.discard(staged)

    def _finish(self, staged: Staged) -> None:
        if self.is_temporary(staged.path):
            return
        self._upload(staged)
        self._release(staged)

    def _release(self, staged: Staged) -> None:
        with staged.uploading:
            if staged.writers == 0:  # nobody opened it while it was uploaded
                _give_up_parts(staged)
                self._staging.discard(staged)

    def _upload(self, staged: Staged) -> None:
        with staged.uploading:
            if not staged.is_detached:
                self._bring_up(staged)

    def _bring_up(self, staged: Staged) -> None:
        """Upload a file if anything is new in it; `uploading` is held."""
        if staged.is_uploaded:
            return
        size = staged.begin_upload()
        self._publish(staged, staged.path)
        staged.end_upload(size)

    def _publish(self, staged: Staged, path: str) -> None:
        """Upload a staged file, of which parts may be there, now or behind; `uploading` is held."""
        if staged.has_holes:
            self._complete_passing(staged, path)
            return
        if self._background.takes(path):
            _give_up_parts(staged)
            self._background.upload(staged.local, path, is_open=staged.writers > 0)
            return
        self._background.settle(path)
        if not self._completed(staged, path):
            self._stores.of(path).upload(staged.local, path)
        self.on_change()

    def _complete_passing(self, staged: Staged, path: str) -> None:
        """Make the object of a passing file, of which nobody has all but its store.

        Raises OSError: then it is lost, but where it could still become what was foretold.
        """
        growing = staged.growing
        if growing is not None and growing.path != path:
            raise OSError(errno.EINVAL, f"it can only become {growing.path}: parts of it are sent")
        self._background.settle(path)
        try:
            if growing is None or staged.is_failed:
                raise OSError(errno.EIO, "an earlier write failed; nothing was uploaded")
            staged.growing = None
            growing.complete(staged.size)
        except OSError:
            _give_up_parts(staged)
            self._staging.discard(staged)
            raise
        self.on_change()

    def _completed(self, staged: Staged, path: str) -> bool:
        """Make the object of the parts that were sent, if there are any for it."""
        growing = staged.growing
        if growing is None or growing.path != path:
            return False
        staged.growing = None
        try:
            growing.complete(staged.size)
        except OSError as error:
            report(path, error, "it will be tried again as a whole")
            return False
        return True

    def _fetch(self, staged: Staged) -> None:
        try:
            self._stores.of(staged.path).download(staged.path, staged.local)
        except FileNotFoundError:
            return  # appending to a file that does not exist makes it
        staged.end_upload(staged.size)


def _give_up_parts(staged: Staged) -> None:
    """Forget what was sent of a file while it was written; `uploading` is held."""
    growing, staged.growing = staged.growing, None
    if growing is not None:
        growing.abort()


def is_alone() -> bool:
    """Tell whether this process is the only one of its job that saves checkpoints.

    Looked up at each use: scripts set TF_CONFIG when they run. Raises SetupError.
    """
    tasks = os.environ.get(_TASKS) or "1"
    if not tasks.isdecimal():
        raise SetupError(f"{_TASKS}={tasks} is not a number", "give how many tasks the job has")
    try:
        cluster = json.loads(os.environ.get(_CLUSTER) or "{}").get("cluster") or {}
        saving = sum(len(cluster.get(job, ())) for job in _SAVING_JOBS)
    except (AttributeError, TypeError, ValueError):
        saving = 0  # it is for TensorFlow to say what is wrong with it
    return max(int(tasks), saving) <= 1


def report(path: str, error: BaseException, consequence: str) -> None:
    """Say on standard error what no status can carry."""
    print(f"pai: {path}: not uploaded: {describe_error(error)}; {consequence}", file=sys.stderr)
