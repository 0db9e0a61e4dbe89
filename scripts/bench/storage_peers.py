"""What other clients do with the same objects; see `storage_work` for tasks and results.

Each is used as its documentation says for large transfers, with parts of 8 MiB where it lets one
choose, and as many requests at once as it takes.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage_task import Result, Task, Watch, folder_digest

_PART = 8 << 20
_AT_ONCE = 16
# What s3fs's readers ask for at a time: TensorFlow's own buffer size.
_READ = 256 * 1024


# ====== awscrt ======


class _CRT:
    """awscrt's S3 client for one server."""

    def __init__(self, task: Task) -> None:
        from awscrt.auth import AwsCredentialsProvider
        from awscrt.s3 import S3Client, S3RequestTlsMode, create_default_s3_signing_config

        region = task.options["region"]
        keys = AwsCredentialsProvider.new_static(task.options["key"], task.options["secret"])
        self._host = task.options["endpoint_url"].partition("://")[2]
        self._client = S3Client(
            region=region,
            tls_mode=S3RequestTlsMode.DISABLED,
            signing_config=create_default_s3_signing_config(
                region=region, credential_provider=keys
            ),
            part_size=_PART,
        )

    def get(self, bucket: str, key: str, **options: Any) -> Any:
        """Begin a download; return its future."""
        from awscrt.s3 import S3RequestType

        return self._request(S3RequestType.GET_OBJECT, bucket, key, {}, None, options)

    def put(self, bucket: str, key: str, size: int, body: Any = None, **options: Any) -> Any:
        """Begin an upload; return its future."""
        from awscrt.s3 import S3RequestType

        headers = {"Content-Length": str(size)}
        return self._request(S3RequestType.PUT_OBJECT, bucket, key, headers, body, options)

    def _request(
        self, kind: Any, bucket: str, key: str, headers: dict[str, str], body: Any, options: Any
    ) -> Any:
        from awscrt.http import HttpHeaders, HttpRequest

        named = HttpHeaders([("Host", self._host), *headers.items()])
        method = kind.name.partition("_")[0]
        request = HttpRequest(method, f"/{bucket}/{key}", named, body)
        return self._client.make_request(type=kind, request=request, **options).finished_future


def awscrt_get(task: Task) -> Result:
    """Download an object to memory."""
    client = _CRT(task)
    received = 0
    with Watch() as watch:
        content = bytearray(task.bytes)

        def keep(chunk: bytes, offset: int, **_: Any) -> None:
            nonlocal received
            content[offset : offset + len(chunk)] = chunk
            received += len(chunk)

        client.get(task.bucket, task.key, on_body=keep).result()
    return watch.result(received)


def awscrt_put_file(task: Task) -> Result:
    """Upload a local file."""
    client = _CRT(task)
    with Watch() as watch:
        client.put(
            task.bucket, task.key, os.path.getsize(task.folder), send_filepath=task.folder
        ).result()
    return watch.result(os.path.getsize(task.folder))


def awscrt_put_memory(task: Task) -> Result:
    """Upload what lies in memory."""
    client = _CRT(task)
    with open(task.folder, "rb") as file:
        content = io.BytesIO(file.read())
    size = os.path.getsize(task.folder)
    with Watch() as watch:
        client.put(task.bucket, task.key, size, content).result()
    return watch.result(size)


def awscrt_get_many(task: Task) -> Result:
    """Download a directory; its start is measured, too."""
    os.makedirs(task.folder)
    with Watch() as watch:
        client = _CRT(task)
        turns = threading.BoundedSemaphore(128)
        futures = []
        for key in _listed(_boto3(task), task):
            turns.acquire()
            path = os.path.join(task.folder, key.rpartition("/")[2])
            future = client.get(task.bucket, key, recv_filepath=path)
            future.add_done_callback(lambda _: turns.release())
            futures.append(future)
        for future in futures:
            future.result()
    return watch.result(task.bytes, **folder_digest(task.folder))


# ====== boto3 ======


def _boto3(task: Task) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=task.options["endpoint_url"],
        region_name=task.options["region"],
        aws_access_key_id=task.options["key"],
        aws_secret_access_key=task.options["secret"],
        config=Config(max_pool_connections=2 * _AT_ONCE),
    )


def boto3_get(task: Task) -> Result:
    """Download an object to a local file, ranges at once."""
    from boto3.s3.transfer import TransferConfig

    client = _boto3(task)
    config = TransferConfig(multipart_chunksize=_PART, max_concurrency=_AT_ONCE)
    with Watch() as watch:
        client.download_file(task.bucket, task.key, task.folder, Config=config)
    return watch.result(os.path.getsize(task.folder))


def boto3_get_many(task: Task) -> Result:
    """Download a directory by threads; its start is measured, too."""
    os.makedirs(task.folder)
    with Watch() as watch:
        client = _boto3(task)

        def get(key: str) -> None:
            body = client.get_object(Bucket=task.bucket, Key=key)["Body"]
            with open(os.path.join(task.folder, key.rpartition("/")[2]), "wb") as file:
                file.write(body.read())

        with ThreadPoolExecutor(2 * _AT_ONCE) as pool:
            list(pool.map(get, _listed(client, task)))
    return watch.result(task.bytes, **folder_digest(task.folder))


def _listed(client: Any, task: Task) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=task.bucket, Prefix=task.key)
    return [one["Key"] for page in pages for one in page["Contents"]]


# ====== s3fs ======


def _s3fs(task: Task) -> Any:
    from s3fs import S3FileSystem

    return S3FileSystem(
        key=task.options["key"],
        secret=task.options["secret"],
        endpoint_url=task.options["endpoint_url"],
        client_kwargs={"region_name": task.options["region"]},
        skip_instance_cache=True,
    )


def s3fs_read(task: Task) -> Result:
    """Read an object from beginning to end through its file, with its default read-ahead."""
    fs = _s3fs(task)
    count = 0
    with Watch() as watch, fs.open(task.path, "rb") as file:
        while block := file.read(_READ):
            count += len(block)
    return watch.result(count)


def s3fs_put(task: Task) -> Result:
    """Upload a local file."""
    fs = _s3fs(task)
    with Watch() as watch:
        fs.put_file(task.folder, task.path)
    return watch.result(os.path.getsize(task.folder))


def s3fs_get_many(task: Task) -> Result:
    """Download a directory; its start is measured, too."""
    with Watch() as watch:
        _s3fs(task).get(task.path, task.folder, recursive=True)
    return watch.result(task.bytes, **folder_digest(task.folder))


# ====== oss2 ======


def _oss2(task: Task) -> Any:
    import oss2

    keys = oss2.Auth(task.options["access_key_id"], task.options["access_key_secret"])
    session = oss2.Session(pool_size=2 * _AT_ONCE)
    return oss2.Bucket(keys, task.options["host"], task.bucket, session=session)


def oss2_get(task: Task) -> Result:
    """Download an object to a local file by oss2's resumable transfer."""
    import oss2

    bucket = _oss2(task)
    store = oss2.ResumableDownloadStore(root=tempfile.mkdtemp())
    with Watch() as watch:
        oss2.resumable_download(
            bucket,
            task.key,
            task.folder,
            multiget_threshold=_PART,
            part_size=_PART,
            num_threads=_AT_ONCE,
            store=store,
        )
    return watch.result(os.path.getsize(task.folder))


def oss2_put(task: Task) -> Result:
    """Upload a local file by oss2's resumable transfer."""
    import oss2

    bucket = _oss2(task)
    store = oss2.ResumableStore(root=tempfile.mkdtemp())
    with Watch() as watch:
        oss2.resumable_upload(
            bucket,
            task.key,
            task.folder,
            multipart_threshold=_PART,
            part_size=_PART,
            num_threads=_AT_ONCE,
            store=store,
        )
    return watch.result(os.path.getsize(task.folder))


def oss2_get_many(task: Task) -> Result:
    """Download a directory by threads; its start is measured, too."""
    os.makedirs(task.folder)
    with Watch() as watch:
        import oss2

        bucket = _oss2(task)

        def get(key: str) -> None:
            path = os.path.join(task.folder, key.rpartition("/")[2])
            bucket.get_object_to_file(key, path)

        keys = [one.key for one in oss2.ObjectIteratorV2(bucket, prefix=task.key, max_keys=1000)]
        with ThreadPoolExecutor(2 * _AT_ONCE) as pool:
            list(pool.map(get, keys))
    return watch.result(task.bytes, **folder_digest(task.folder))
