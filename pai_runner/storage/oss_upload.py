"""Writing objects to OSS: in one request, or in parts that become the object together."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, TypeVar

import oss2
from fsspec.spec import AbstractBufferedFile

from pai_runner.storage.attempts import READ_SECONDS, SLOW_SECONDS
from pai_runner.storage.checksums import crc64, crc64_of_parts, md5_base64
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.objects import Bytes, Part
from pai_runner.storage.oss_client import Client, body_for, check_crc
from pai_runner.storage.uploads import ParallelUpload

_T = TypeVar("_T")

BLOCK = 8 * 1024 * 1024
# OSS takes 10,000 parts of at least 100 KB: help.aliyun.com/document_detail/31993.html.
SHORTEST_PART = 100 * 1024
_MOST_PARTS = 10_000
# How many parts of one object are sent at once, and so are in memory.
_PARTS_AT_ONCE = 4
FORBID_OVERWRITE = {"x-oss-forbid-overwrite": "true"}


@dataclass(frozen=True)
class Place:
    """An object: its bucket, its key, and the client that reaches it."""

    client: Client
    bucket: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.bucket}/{self.key}"

    def call(self, action: Callable[[Any], _T], seconds: float = READ_SECONDS) -> _T:
        """Return what `action` returns for the object's bucket: see `Client.call`."""
        return self.client.call(self.bucket, self.path, action, seconds)

    def put(self, data: Bytes, create: bool = False) -> str:
        """Write the object in one request and return its ETag.

        Raises OSError; with `create` FileExistsError where there is an object.
        """
        crc = crc64(data)
        may_be_done = False
        # Without it what was damaged on its way would be there before its CRC64 is compared.
        headers = {"Content-MD5": md5_base64(data), **(FORBID_OVERWRITE if create else {})}

        def put(bucket: Any) -> str:
            nonlocal may_be_done
            try:
                made = bucket.put_object(self.key, body_for(data), headers=headers)
                check_crc(crc, made.crc)
                return str(made.etag)
            except oss2.exceptions.OssError as error:
                if error.code != "FileAlreadyExists" or not may_be_done:
                    may_be_done |= error.status != 403
                    raise
                # The answer to an earlier attempt was lost: the object says if it was made.
                found = bucket.head_object(self.key)
                if (found.content_length, found.server_crc) != (memoryview(data).nbytes, crc):
                    raise
                return str(found.etag)

        return self.call(put)


class Parts:
    """An object that is written in parts, one request each: `objects.PartUpload` on OSS.

    After any failure `abort` must be called; it needs no right to list uploads or parts.
    """

    def __init__(self, place: Place, id: str, parts: Mapping[int, Part] | None = None) -> None:
        self.id = id
        self.parts: dict[int, Part] = dict(parts or {})
        self._place = place

    @classmethod
    def begin(cls, place: Place) -> Parts:
        """Begin an upload. Raises OSError."""
        begun = place.call(lambda bucket: bucket.init_multipart_upload(place.key))
        return cls(place, begun.upload_id)

    def send(self, number: int, data: Bytes) -> None:
        """Send part `number`. Raises OSError."""
        crc = crc64(data)

        def send(bucket: Any) -> str:
            sent = bucket.upload_part(self._place.key, self.id, number, body_for(data))
            check_crc(crc, sent.crc)
            return str(sent.etag)

        self.parts[number] = Part(self._place.call(send), memoryview(data).nbytes, str(crc))

    def copy(self, number: int, source: Place, start: int, end: int, etag: str) -> None:
        """Make part `number` of the bytes from `start` to `end` of another object, by the server.

        Raises OSError.
        """
        key = self._place.key
        headers = {"x-oss-copy-source-if-match": etag}
        copied = self._place.call(
            lambda bucket: bucket.upload_part_copy(
                source.bucket, source.key, (start, end - 1), key, self.id, number, headers
            ),
            SLOW_SECONDS,
        )
        self.parts[number] = Part(copied.etag, end - start)

    def complete(self, create: bool = False, crc: int | None = None) -> str:
        """Make the object of its parts, whose CRC64 is `crc` if it is known; return its ETag.

        Raises OSError.
        """
        key = self._place.key
        headers = FORBID_OVERWRITE if create else {}
        ordered = [(number, self.parts[number]) for number in sorted(self.parts)]
        parts = [oss2.models.PartInfo(number, part.etag) for number, part in ordered]
        expected = crc if crc is not None else _crc_of([part for _, part in ordered])
        try:
            done = self._place.call(
                lambda bucket: bucket.complete_multipart_upload(
                    key, self.id, parts, headers=headers
                ),
                SLOW_SECONDS,
            )
            etag, found = done.etag, done.crc
        except RefusedError as error:
            # The answer to a first attempt was lost: the object says if it was made.
            if error.code != "NoSuchUpload":
                raise
            try:
                head = self._place.call(lambda bucket: bucket.head_object(key))
            except FileNotFoundError:
                raise error from None
            etag, found = head.etag, head.server_crc
            if found != expected:
                raise
        if None not in (expected, found) and found != expected:
            text = f"the CRC64 is {found}, and should be {expected}"
            raise OSError(errno.EIO, f"{self._place.path}: damaged on its way: {text}")
        return str(etag)

    def abort(self) -> None:
        """Give the upload up; one that is gone already is no error. Raises OSError."""
        try:
            self._place.call(lambda bucket: bucket.abort_multipart_upload(self._place.key, self.id))
        except RefusedError as error:
            if error.code != "NoSuchUpload":
                raise


def _crc_of(parts: Sequence[Part]) -> int | None:
    if not all(part.checksum for part in parts):
        return None
    return crc64_of_parts((int(part.checksum), part.size) for part in parts)


class Upload(ParallelUpload):
    """An object that is written in parts, several at once.

    After any failure `abort` must be called.
    """

    def __init__(self, place: Place) -> None:
        self._parts = Parts.begin(place)
        # Not the lanes: who writes may be on one.
        super().__init__(self._parts, _PARTS_AT_ONCE, place.client.submit)
        self.count = 0

    def send(self, data: bytes) -> None:
        """Send the next part; wait where too many are on their way. Raises OSError."""
        self.count += 1
        self.add(partial(self._parts.send, self.count, data))

    def copy(self, source: Place, start: int, end: int, etag: str) -> None:
        """Add the bytes from `start` to `end` of another object, copied by the server."""
        self.count += 1
        self.add(partial(self._parts.copy, self.count, source, start, end, etag))

    def complete(self, create: bool, crc: int | None = None) -> None:
        """Make the object of its parts, whose CRC64 is `crc` if it is known. Raises OSError."""
        self.wait()
        self._parts.complete(create, crc)


def put_stream(
    place: Place,
    stream: BinaryIO,
    size: int,
    create: bool,
    sent: Callable[[int], object] = lambda count: None,
) -> None:
    """Write the `size` bytes of a stream to an object, in parts where they are many.

    `sent(count)` is called as bytes are on their way. Raises OSError; the object then is as it
    was.
    """
    if size < 2 * BLOCK:
        data = stream.read()
        place.put(data, create)
        sent(len(data))
        return
    block = max(BLOCK, -(-size // _MOST_PARTS))
    upload = Upload(place)
    try:
        while data := stream.read(block):
            upload.send(data)
            sent(len(data))
        upload.complete(create)
    except BaseException:
        upload.abort()
        raise


def copy_in_parts(
    source: Place, target: Place, size: int, etag: str, part: int, crc: int | None
) -> None:
    """Copy an object on the server, `part` bytes at a time. Raises OSError."""
    upload = Upload(target)
    try:
        add_copies(upload, source, size, etag, part)
        upload.complete(False, crc)
    except BaseException:
        upload.abort()
        raise


def add_copies(upload: Upload, source: Place, size: int, etag: str, part: int) -> None:
    """Add an object to an upload, in parts that are about equal: none is too short."""
    count = max(1, -(-size // part))
    ends = [size * number // count for number in range(count + 1)]
    for start, end in pairwise(ends):
        upload.copy(source, start, end, etag)


class OSSFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open object, as fsspec's files are.

    Writing: a short file is one request when it is closed, a longer one is sent in parts of
    `block_size` bytes. It appears when it is closed (in a transaction: when that ends).
    `discard`, and an error inside `with`, leave the object as it was.

    Reading: the object must stay the one that was opened, else a read raises OSError (ESTALE).
    """

    DEFAULT_BLOCK_SIZE = BLOCK
    blocksize: int
    buffer: io.BytesIO

    def __init__(self, fs: Any, path: str, mode: str = "rb", **options: Any) -> None:
        self._upload: Upload | None = None
        self._content: bytes | None = None
        self._must_create = mode == "xb"
        self._place: Place = fs.place(path)
        try:
            super().__init__(fs, path, mode, **options)
            if mode == "rb":
                self._refuse_directory()
                return
            self.blocksize = max(self.blocksize, SHORTEST_PART)
            if mode == "ab":
                self._take_up()
        except BaseException:
            self.discard()  # else it would be published when it is collected
            raise

    def _refuse_directory(self) -> None:
        if self._details is not None and self._details["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, f"{self.path}: is a directory")

    def _take_up(self) -> None:
        """Begin with what the object holds already."""
        try:
            before = self.fs.info(self.path)
        except FileNotFoundError:
            return
        size, etag = before["size"], before["ETag"]
        self.loc = size
        if size < self.blocksize:
            self.buffer.write(self.fs.read_range(self.path, 0, size, etag))
            return
        self.offset = size
        self._upload = Upload(self._place)
        add_copies(self._upload, self._place, size, etag, self.fs.copy_part)

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_range(self.path, start, end, self.details["ETag"])
        return data

    def _upload_chunk(self, final: bool = False) -> bool:
        """Send what is buffered; what is shorter than a part stays until the file is closed."""
        try:
            if final and self._upload is None:
                self._content = self.buffer.getvalue()
            else:
                self._send_parts(final)
            if final and self.autocommit:
                self.commit()
        except BaseException:
            self.discard()
            raise
        return False  # the buffer is seen to here

    def _send_parts(self, final: bool) -> None:
        if self._upload is None:
            self._upload = Upload(self._place)
        # How long the file will be is not known: growing parts make their number suffice.
        step = self.blocksize * (1 + self._upload.count // 1000)
        if self.buffer.tell() < step and not final:
            return
        data = self.buffer.getvalue()
        stop = len(data) if final else len(data) - len(data) % step
        for start in range(0, stop, step):
            self._upload.send(data[start : min(start + step, stop)])
        self.offset += stop
        self.buffer = io.BytesIO()
        self.buffer.write(data[stop:])

    def commit(self) -> None:
        """Publish the file. Raises OSError."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            try:
                upload.complete(self._must_create)
            except BaseException:
                upload.abort()
                raise
        elif self._content is not None:
            content, self._content = self._content, None
            put_stream(self._place, io.BytesIO(content), len(content), self._must_create)

    def discard(self) -> None:
        """Forget what was written: the object stays as it was."""
        self.closed = True
        self._content = None
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.abort()

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is not None and self.mode != "rb":
            self.discard()
        self.close()
