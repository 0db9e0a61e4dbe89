"""A directory in a bucket of S3: see `trees`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pai_runner.storage.bucket_tree import BucketTree
from pai_runner.storage.objects import Part, part_size
from pai_runner.storage.trees import Entry, StoreTree
from pai_runner.storage.uploads import ParallelUpload
from pai_runner.storage.verifying import ETAG, MD5, PARTS, Checksum, md5_of, parts_of

# Larger objects are copied in parts of so many bytes.
COPIED_AT_ONCE = 256 * 1024 * 1024
_HEADS_AT_ONCE = 8


class S3Tree(BucketTree):
    """A directory in a bucket of S3, or of a server that speaks as it does."""

    def ask(self, method: str, **options: Any) -> Any:
        """Return the answer to a request about the bucket. Raises OSError."""
        return self.call("call_s3", method, Bucket=self.bucket, **options)

    def _has_below(self) -> bool:
        # Not `objects`, whose own client takes time to make: nothing is read yet.
        page = self.ask("list_objects_v2", Prefix=f"{self.key()}/", MaxKeys=1)
        return bool(page.get("Contents"))

    # ====== Verified copies ======

    def checksum(self, name: str, entry: Entry) -> Checksum | None:
        parts = parts_of(entry.etag)
        # What is read, later, has to be of the version that `entry` is.
        head = self.ask("head_object", Key=self.key(name), **({"PartNumber": 1} if parts else {}))
        # The ETags of encrypted objects are no MD5s, unless the key is Amazon's own.
        if "kms" in head.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in head:
            return None
        if not parts:
            return md5_of(entry.etag)
        part = int(head["ContentLength"])
        if not part or -(-entry.size // part) != parts:
            return None
        return Checksum(PARTS, entry.etag, part)

    def is_uneven(self, name: str, entry: Entry) -> bool:
        key = self.key(name)
        # Not the lanes: this may be work of one of them.
        with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
            numbers = range(1, parts_of(entry.etag) + 1)
            sizes = list(pool.map(lambda number: self._size_of_part(key, number), numbers))
        return len(set(sizes[:-1])) > 1

    def _size_of_part(self, key: str, number: int) -> int:
        return int(self.ask("head_object", Key=key, PartNumber=number)["ContentLength"])

    def written_by(self, has_checksums: bool) -> str | None:
        return "CRC32C" if has_checksums else MD5

    def copy(self, source: StoreTree, source_name: str, entry: Entry, name: str) -> str:
        bucket, _, key = source.path(source_name).partition("/")
        origin = {
            "CopySource": {"Bucket": bucket, "Key": key},
            "CopySourceIfMatch": f'"{entry.etag}"',
        }
        if entry.size > COPIED_AT_ONCE:
            self._copy_in_parts(origin, entry, name)
            return self.check_size(name, entry)
        answer = self.ask("copy_object", Key=self.key(name), **origin)
        etag = answer["CopyObjectResult"]["ETag"].strip('"')
        if md5_of(entry.etag) and etag == entry.etag:
            return MD5
        self.check_size(name, entry)
        return ETAG

    def _copy_in_parts(self, origin: dict[str, Any], entry: Entry, name: str) -> None:
        upload = self.objects.upload(self.path(name))
        parallel = ParallelUpload(upload)
        part = part_size(entry.size, COPIED_AT_ONCE)

        def copy(number: int, start: int) -> None:
            end = min(start + part, entry.size)
            result = self.ask(
                "upload_part_copy",
                Key=self.key(name),
                UploadId=upload.id,
                PartNumber=number,
                CopySourceRange=f"bytes={start}-{end - 1}",
                **origin,
            )["CopyPartResult"]
            etag = result["ETag"].strip('"')
            upload.parts[number] = Part(etag, end - start, result.get("ChecksumCRC32C", ""))

        try:
            for number, start in enumerate(range(0, entry.size, part), 1):
                parallel.add(partial(copy, number, start))
            parallel.wait()
            upload.complete()
        except BaseException:
            parallel.abort()
            raise

    # ====== Removing ======

    def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        objects = [{"Key": key} for key in keys]
        answer = self.ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
        errors = answer.get("Errors", ())
        return {one["Key"]: f"{one.get('Code')}: {one.get('Message')}" for one in errors}

    def _delete_alone(self, key: str) -> None:
        self.ask("delete_object", Key=key)

    # ====== Uploads in parts ======

    def uploads(self) -> Iterator[tuple[str, str, int]]:
        prefix = self.key_prefix
        markers: dict[str, str] = {}
        while True:
            page = self.ask("list_multipart_uploads", Prefix=prefix, **markers)
            for one in page.get("Uploads", ()):
                if one["Key"].startswith(prefix):
                    began = int(one["Initiated"].timestamp() * 10**9)
                    yield one["Key"][len(prefix) :], one["UploadId"], began
            if not page.get("IsTruncated"):
                return
            names = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
            markers = {name: page[told] for name, told in names.items()}
