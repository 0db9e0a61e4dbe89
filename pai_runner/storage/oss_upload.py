"""Writing objects to OSS: in one request, or in parts that become the object together."""

from __future__ import annotations

import errno
import io
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import oss2
from fsspec.spec import AbstractBufferedFile

from pai_runner.storage.oss_client import (
    SLOW_SECONDS,
    Client,
    RefusedError,
    check_crc,
    crc64,
)

logger = logging.getLogger(__name__)

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

    def put(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Write the object in one request. Raises OSError."""
        crc = crc64(data)
        may_be_done = False

        def put(bucket: Any) -> None:
            nonlocal may_be_done
            try:
                check_crc(crc, bucket.put_object(self.key, data, headers=headers).crc)
            except oss2.exceptions.OssError as error:
                if error.code != "FileAlreadyExists" or not may_be_done:
                    may_be_done |= error.status != 403
                    raise
                # The answer to an earlier attempt was lost: the object says if it was made.
                found = bucket.head_object(self.key)
                if (found.content_length, found.server_crc) != (len(data), crc):
                    raise

        self.client.call(self.bucket, self.path, put)


class Upload:
    """An object that is written in parts. Nothing of it is visible before `complete`.

    After any failure `abort` must be called; it needs no right to list uploads or parts.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._sending: deque[Future[None]] = deque()
        self._parts: dict[int, Any] = {}
        self.count = 0
        begun = self._call(lambda bucket: bucket.init_multipart_upload(place.key))
        self._id: str = begun.upload_id

    def add(self, data: bytes) -> None:
        """Send the next part; wait where too many are on their way. Raises OSError."""
        self._start(self._send, data)

    def copy(self, source: Place, start: int, end: int, etag: str) -> None:
        """Add the bytes from `start` to `end` of another object, copied by the server."""
        self._start(self._copy, source, start, end, etag)

    def complete(self, headers: Mapping[str, str], crc: int | None = None) -> None:
        """Make the object of its parts, whose CRC64 is `crc` if it is known. Raises OSError."""
        while self._sending:
            self._sending.popleft().result()
        parts = [self._parts[number] for number in sorted(self._parts)]
        expected = crc if crc is not None else oss2.utils.calc_obj_crc_from_parts(parts)
        key = self._place.key

        def complete(bucket: Any) -> int | None:
            done = bucket.complete_multipart_upload(key, self._id, parts, headers=headers)
            found: int | None = done.crc
            return found

        try:
            found = self._call(complete, SLOW_SECONDS)
        except RefusedError as error:
            # The answer to a first attempt was lost: the object says if it was made.
            if error.code != "NoSuchUpload":
                raise
            found = self._call(lambda bucket: bucket.head_object(key)).server_crc
            if found != expected:
                raise
        if None not in (expected, found) and found != expected:
            text = f"the CRC64 is {found}, and should be {expected}"
            raise OSError(errno.EIO, f"{self._place.path}: damaged on its way: {text}")

    def abort(self) -> None:
        """Give the upload up, and with it the parts that were sent."""
        for part in self._sending:
            part.cancel()
        wait(self._sending)  # a part that arrives after the end of its upload would stay
        try:
            self._call(lambda bucket: bucket.abort_multipart_upload(self._place.key, self._id))
        except OSError as error:
            # What ended the upload is the error that counts.
            if not (isinstance(error, RefusedError) and error.code == "NoSuchUpload"):
                logger.warning("an upload in parts is left over: %s", error.strerror)

    def _start(self, work: Any, *arguments: Any) -> None:
        if len(self._sending) >= _PARTS_AT_ONCE:
            self._sending.popleft().result()
        self.count += 1
        self._sending.append(self._place.client.submit(work, self.count, *arguments))

    def _send(self, number: int, data: bytes) -> None:
        crc = crc64(data)

        def send(bucket: Any) -> Any:
            sent = bucket.upload_part(self._place.key, self._id, number, data)
            check_crc(crc, sent.crc)
            return sent.etag

        etag = self._call(send)
        self._parts[number] = oss2.models.PartInfo(number, etag, size=len(data), part_crc=crc)

    def _copy(self, number: int, source: Place, start: int, end: int, etag: str) -> None:
        key = self._place.key
        headers = {"x-oss-copy-source-if-match": etag}
        copied = self._call(
            lambda bucket: bucket.upload_part_copy(
                source.bucket, source.key, (start, end - 1), key, self._id, number, headers
            ),
            SLOW_SECONDS,
        )
        self._parts[number] = oss2.models.PartInfo(number, copied.etag, size=end - start)

    def _call(self, action: Any, *seconds: float) -> Any:
        place = self._place
        return place.client.call(place.bucket, place.path, action, *seconds)


def put_stream(
    place: Place,
    stream: BinaryIO,
    size: int,
    headers: Mapping[str, str],
    sent: Callable[[int], object] = lambda count: None,
) -> None:
    """Write the `size` bytes of a stream to an object, in parts where they are many.

    `sent(count)` is called as bytes are on their way. Raises OSError; the object then is as it
    was.
    """
    if size < 2 * BLOCK:
        data = stream.read()
        place.put(data, headers)
        sent(len(data))
        return
    block = max(BLOCK, -(-size // _MOST_PARTS))
    upload = Upload(place)
    try:
        while data := stream.read(block):
            upload.add(data)
            sent(len(data))
        upload.complete(headers)
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
        upload.complete({}, crc)
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
        self._headers = FORBID_OVERWRITE if mode == "xb" else {}
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
            self._upload.add(data[start : min(start + step, stop)])
        self.offset += stop
        self.buffer = io.BytesIO()
        self.buffer.write(data[stop:])

    def commit(self) -> None:
        """Publish the file. Raises OSError."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            try:
                upload.complete(self._headers)
            except BaseException:
                upload.abort()
                raise
        elif self._content is not None:
            content, self._content = self._content, None
            put_stream(self._place, io.BytesIO(content), len(content), self._headers)

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
