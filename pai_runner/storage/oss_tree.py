"""A directory in a bucket of OSS: see `trees`."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

from pai_runner.storage.bucket_tree import BucketTree
from pai_runner.storage.trees import Entry, StoreTree
from pai_runner.storage.verifying import CRC64, Checksum


class OSSTree(BucketTree):
    """A directory in a bucket of OSS."""

    def ask(self, action: Any) -> Any:
        """Return what `action` returns for the `oss2.Bucket`. Raises OSError."""
        client = self.fs.client(self.base)
        return client.call(self.bucket, self.base, action)

    def checksum(self, name: str, entry: Entry) -> Checksum | None:
        crc = self.call("info", self.path(name))["CRC64"]
        return None if crc is None else Checksum(CRC64, str(crc))

    def written_by(self, has_checksums: bool) -> str | None:
        return CRC64

    def copy(self, source: StoreTree, source_name: str, entry: Entry, name: str) -> str:
        self.call("cp_file", source.path(source_name), self.path(name))
        crcs = [
            self.call("info", path)["CRC64"] for path in (source.path(source_name), self.path(name))
        ]
        if None in crcs:
            return self.check_size(name, entry)
        if crcs[0] != crcs[1]:
            text = f"{self.shown(name)}: the CRC64 is {crcs[1]}, and should be {crcs[0]}"
            raise OSError(errno.EIO, text)
        return CRC64

    def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        answer = self.ask(methodcaller("batch_delete_objects", keys))
        left = set(keys).difference(answer.deleted_keys)
        return dict.fromkeys(left, "the server does not delete it")

    def _delete_alone(self, key: str) -> None:
        self.ask(methodcaller("delete_object", key))

    def uploads(self) -> Iterator[tuple[str, str, int]]:
        prefix = self.key_prefix
        markers = {"key_marker": "", "upload_id_marker": ""}
        while True:
            page = self.ask(partial(_page_of_uploads, prefix=prefix, **markers))
            for one in page.upload_list:
                if one.key.startswith(prefix):
                    yield one.key[len(prefix) :], one.upload_id, one.initiation_date * 10**9
            if not page.is_truncated:
                return
            markers = {
                "key_marker": page.next_key_marker,
                "upload_id_marker": page.next_upload_id_marker,
            }


def _page_of_uploads(bucket: Any, **options: str) -> Any:
    return bucket.list_multipart_uploads(**options)
