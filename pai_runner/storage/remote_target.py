"""Files of stores that are being written: see `moving.Sink`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from pai_runner.storage.copy_journal import CopyJournal
from pai_runner.storage.failures import describe_error
from pai_runner.storage.objects import Part, PartUpload
from pai_runner.storage.trees import Entry, StoreTree

logger = logging.getLogger(__name__)


class UploadSink:
    """The parts of an object. `about` tells the source's version, and how long parts are."""

    def __init__(
        self,
        target: StoreTree,
        name: str,
        read: Callable[[int, int], memoryview],
        journal: CopyJournal,
        about: dict[str, object],
    ) -> None:
        self._target = target
        self._read = read
        self._journal = journal
        path, objects = target.path(name), target.objects
        before = journal.about.get("upload")
        # Without a part nothing tells which checksums the upload takes, and nothing is lost.
        if before and journal.pieces and about.items() <= journal.about.items():
            parts = {number: Part(*noted) for number, noted in journal.pieces.items()}
            self._upload: PartUpload = objects.resume(path, before, parts)
        else:
            if before:
                _abort(objects.resume(path, before, {}))
            self._upload = objects.upload(path)
            journal.begin(**about, upload=self._upload.id)
        self.resumed = set(self._upload.parts)

    def put(self, number: int, start: int, count: int) -> memoryview:
        data = self._read(start, count)
        self._upload.send(number, data)
        part = self._upload.parts[number]
        self._journal.add(number, [part.etag, part.size, part.checksum])
        return data

    def held(self, number: int, start: int, count: int) -> None:
        return None

    def take(self, data: memoryview) -> None:
        pass

    def finish(self) -> str | None:
        self._upload.complete()
        return self._target.written_by(all(one.checksum for one in self._upload.parts.values()))

    def abandon(self) -> None:
        _abort(self._upload)

    def leave(self) -> None:
        pass


def _abort(upload: PartUpload) -> None:
    try:
        upload.abort()
    except OSError as error:
        # What ended the upload is the error that counts.
        logger.warning("an upload in parts is left over: %s", describe_error(error))


class StreamSink:
    """A file of a store that knows no parts: it is written from its beginning to its end."""

    def __init__(
        self, target: StoreTree, name: str, read: Callable[[int, int], memoryview], entry: Entry
    ) -> None:
        self.resumed: set[int] = set()
        self._target = target
        self._name = name
        self._read = read
        self._entry = entry
        self._file = target.open_to_write(name)

    def put(self, number: int, start: int, count: int) -> memoryview:
        return self._read(start, count)

    def held(self, number: int, start: int, count: int) -> None:
        return None

    def take(self, data: memoryview) -> None:
        self._target.guarded(partial(self._file.write, data))

    def finish(self) -> str:
        self._target.guarded(self._file.close)
        return self._target.check_size(self._name, self._entry)

    def abandon(self) -> None:
        from fsspec.spec import AbstractBufferedFile

        with suppress(AttributeError, NotImplementedError):  # few can
            self._file.discard()
        if isinstance(self._file, AbstractBufferedFile):
            self._file.closed = True  # else it would be published when it is collected

    leave = abandon
