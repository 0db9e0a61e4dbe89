"""Files that TensorFlow writes: staged on the local disk, uploaded when they are whole."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from pai_runner.script.staging import Staged, Staging
from pai_runner.script.stores import Store, Stores
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.names import is_temporary


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
    ) -> None:
        self._stores = stores
        self._staging = staging
        self.on_change = on_change
        self._upload_seconds = upload_seconds

    @property
    def are_open(self) -> bool:
        return any(staged.writers for staged in self._staging.files())

    def open(self, path: str, append: bool) -> tuple[Staged, int]:
        """Return the staged file for a clean path, and a new descriptor that appends to it."""
        with self._staging.lock:
            staged = self._staging.file(path)
            if staged is not None:
                return staged, staged.open(truncate=not append)
        # Made now: a process that is ending can start no thread for its connections.
        _ = self._stores.of(path).fs
        staged = Staged(path)
        try:
            if append:
                self._fetch(staged)
        except BaseException:
            staged.unlink()
            raise
        with self._staging.lock:
            other = self._staging.file(path)  # another thread opened it meanwhile
            if other is None:
                self._staging.add(staged)
            else:
                staged.unlink()
            opened = other or staged
            return opened, opened.open(truncate=not append)

    def sync(self, staged: Staged) -> None:
        """Upload what is written so far, when it is time.

        A failure is only reported: the same bytes go with the next upload, and the last one, at
        close, must succeed.
        """
        if is_temporary(staged.path) or not staged.is_due(self._upload_seconds):
            return
        try:
            self._upload(staged)
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

    def publish(self, local: str, path: str) -> None:
        """Upload a local file to a clean path."""
        self._stores.of(path).upload(local, path)
        self.on_change()

    def drain(self) -> list[str]:
        """Upload all that is written so far; return one line for each file that could not be.

        A file is tried once, and a server that does not answer once: the process is ending.
        """
        failures = []
        unreachable: dict[Store, Exception] = {}
        for staged in self._staging.files():
            if staged.is_failed or staged.is_lost or is_temporary(staged.path):
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
            self._staging.discard(staged)

    def _finish(self, staged: Staged) -> None:
        if is_temporary(staged.path):
            return
        self._upload(staged)
        self._release(staged)

    def _release(self, staged: Staged) -> None:
        if staged.writers == 0:
            self._staging.discard(staged)

    def _upload(self, staged: Staged) -> None:
        with staged.uploading:
            if staged.is_detached or staged.is_uploaded:
                return
            size = staged.begin_upload()
            self.publish(staged.local, staged.path)
            staged.end_upload(size)

    def _fetch(self, staged: Staged) -> None:
        try:
            self._stores.of(staged.path).download(staged.path, staged.local)
        except FileNotFoundError:
            return  # appending to a file that does not exist makes it
        staged.end_upload(staged.size)


def report(path: str, error: BaseException, consequence: str) -> None:
    """Say on standard error what no status can carry."""
    print(f"pai: {path}: not uploaded: {describe_error(error)}; {consequence}", file=sys.stderr)
