"""The benchmark of storage: its object server keeps the rules, and what it measures is right."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import boto3
import oss2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support import ROOT

BENCH = ROOT / "scripts" / "bench"
sys.path.append(str(BENCH))

from object_server import ObjectServer, object_server  # noqa: E402

LATENCY_MS, CONNECTION_MB = 30, 40
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server(LATENCY_MS, CONNECTION_MB) as served:
        yield served


@pytest.fixture
def bucket(server: ObjectServer) -> str:
    name = f"bucket-{next(_numbers)}"
    server.make_bucket(name)
    return name


def s3(server: ObjectServer, pace: str = "fast") -> Any:
    options = server.options("s3", pace)
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name=options["region"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def oss(server: ObjectServer, bucket: str) -> Any:
    options = server.options("oss")
    keys = oss2.Auth(options["access_key_id"], options["access_key_secret"])
    return oss2.Bucket(keys, options["host"], bucket)


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    answer = error.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


# ====== As S3 ======


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=2-4", b"234"), ("bytes=7-99", b"789"), ("bytes=-3", b"789"), ("bytes=8-", b"89")],
)
def test_ranges_are_cut_at_the_end(
    server: ObjectServer, bucket: str, asked: str, expected: bytes
) -> None:
    client = s3(server)
    client.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    answer = client.get_object(Bucket=bucket, Key="k", Range=asked)
    assert answer["Body"].read() == expected
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"].endswith("/10")


def test_a_range_behind_the_end_is_refused(server: ObjectServer, bucket: str) -> None:
    client = s3(server)
    client.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=bucket, Key="k", Range="bytes=10-12")
    assert refusal(error) == (416, "InvalidRange")


def test_conditions(server: ObjectServer, bucket: str) -> None:
    client = s3(server)
    etag = client.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    assert refusal(error) == (412, "PreconditionFailed")
    assert client.get_object(Bucket=bucket, Key="k", IfMatch=etag)["Body"].read() == b"first"
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag)
    assert refusal(error)[0] == 304
    client.put_object(Bucket=bucket, Key="k", Body=b"second")
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert refusal(error) == (412, "PreconditionFailed")


def test_what_is_missing(server: ObjectServer, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3(server).get_object(Bucket=bucket, Key="missing")
    assert refusal(error) == (404, "NoSuchKey")
    with pytest.raises(ClientError) as error:
        s3(server).list_objects_v2(Bucket="missing")
    assert refusal(error) == (404, "NoSuchBucket")


def test_a_multipart_upload_verifies_its_parts(server: ObjectServer, bucket: str) -> None:
    client = s3(server)
    begun = client.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm="CRC32C")
    assert begun["ChecksumAlgorithm"] == "CRC32C"
    upload = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"]}
    with pytest.raises(ClientError) as error:
        client.upload_part(**upload, PartNumber=1, Body=b"123456789", ChecksumCRC32C="AAAAAA==")
    assert refusal(error) == (400, "BadDigest")
    # The check value of CRC-32C.
    right = base64.b64encode(0xE3069283.to_bytes(4, "big")).decode()
    first = client.upload_part(**upload, PartNumber=1, Body=b"123456789", ChecksumCRC32C=right)
    second = client.upload_part(**upload, PartNumber=2, Body=b"abc")
    parts = [
        {"PartNumber": number, "ETag": part["ETag"]}
        for number, part in enumerate((first, second), 1)
    ]
    with pytest.raises(ClientError) as error:
        client.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": [parts[0], {**parts[1], "ETag": '"other"'}]}
        )
    assert refusal(error) == (400, "InvalidPart")
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"123456789abc"
    assert client.get_object(Bucket=bucket, Key="k", Range="bytes=8-9")["Body"].read() == b"9a"


def test_an_aborted_upload_is_gone(server: ObjectServer, bucket: str) -> None:
    client = s3(server)
    number = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    listed = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [one["UploadId"] for one in listed] == [number]
    client.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=number)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        client.upload_part(Bucket=bucket, Key="k", UploadId=number, PartNumber=1, Body=b"x")
    assert refusal(error) == (404, "NoSuchUpload")


def test_another_md5_is_refused(server: ObjectServer, bucket: str) -> None:
    digest = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(ClientError) as error:
        s3(server).put_object(Bucket=bucket, Key="k", Body=b"body", ContentMD5=digest)
    assert refusal(error) == (400, "BadDigest")


def test_lists_have_pages_and_common_prefixes(server: ObjectServer, bucket: str) -> None:
    client = s3(server)
    names = [f"d/{number:02d} ä" for number in range(7)] + ["d/below/1", "d/below/2", "e"]
    for name in names:
        client.put_object(Bucket=bucket, Key=name, Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, MaxKeys=3)
    assert [one["Key"] for page in pages for one in page["Contents"]] == sorted(names)
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="d/", Delimiter="/", MaxKeys=2
    )
    found = [page.get("Contents", []) + page.get("CommonPrefixes", []) for page in pages]
    assert [len(page) for page in found] == [2, 2, 2, 2]
    prefixes = [one["Prefix"] for page in found for one in page if "Prefix" in one]
    assert prefixes == ["d/below/"]


def test_copies_and_deletes(server: ObjectServer, bucket: str) -> None:
    client = s3(server)  # it verifies the checksum that it sent
    client.put_object(Bucket=bucket, Key="a & b", Body=b"body")
    client.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "a & b"})
    assert client.get_object(Bucket=bucket, Key="c")["Body"].read() == b"body"
    names = [{"Key": "a & b"}, {"Key": "missing"}]
    client.delete_objects(Bucket=bucket, Delete={"Objects": names})
    client.delete_object(Bucket=bucket, Key="c")
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


# ====== As OSS ======


def test_both_dialects_see_the_same_objects(server: ObjectServer, bucket: str) -> None:
    content = os.urandom(300_000)
    s3(server).put_object(Bucket=bucket, Key="k", Body=content)
    assert oss(server, bucket).get_object("k").read() == content  # its CRC64 is checked
    oss(server, bucket).put_object("other", content[:10])
    assert s3(server).get_object(Bucket=bucket, Key="other")["Body"].read() == content[:10]


def test_ranges_of_oss(server: ObjectServer, bucket: str) -> None:
    there = oss(server, bucket)
    there.put_object("k", b"0123456789")
    assert there.get_object("k", byte_range=(7, 8)).read() == b"78"
    assert there.get_object("k", byte_range=(7, 99)).read() == b"0123456789"
    standard = {"x-oss-range-behavior": "standard"}
    assert there.get_object("k", byte_range=(7, 99), headers=standard).read() == b"789"
    with pytest.raises(oss2.exceptions.ServerError) as error:
        there.get_object("k", byte_range=(10, 11), headers=standard)
    assert error.value.status == 416


def test_oss_refuses_to_overwrite_when_asked(server: ObjectServer, bucket: str) -> None:
    there = oss(server, bucket)
    there.put_object("k", b"first")
    with pytest.raises(oss2.exceptions.ServerError) as error:
        there.put_object("k", b"second", headers={"x-oss-forbid-overwrite": "true"})
    assert (error.value.status, error.value.code) == (409, "FileAlreadyExists")


def test_resumable_transfers_of_oss(server: ObjectServer, bucket: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1_000_000))
    store = oss2.ResumableStore(root=str(tmp_path / "up"))
    sizes = {"part_size": 150_000, "num_threads": 3}
    there = oss(server, bucket)
    oss2.resumable_upload(there, "k", str(source), store, multipart_threshold=1, **sizes)
    whole = oss2.utils.Crc64()
    whole.update(source.read_bytes())
    assert there.head_object("k").server_crc == whole.crc
    downloads = oss2.ResumableDownloadStore(root=str(tmp_path / "down"))
    oss2.resumable_download(there, "k", str(target), multiget_threshold=1, store=downloads, **sizes)
    assert target.read_bytes() == source.read_bytes()
    assert server.digests(bucket, "") == {"k": hashlib.sha256(source.read_bytes()).hexdigest()}


def test_lists_and_deletes_of_oss(server: ObjectServer, bucket: str) -> None:
    there = oss(server, bucket)
    names = [f"d/{number}" for number in range(5)]
    for name in names:
        there.put_object(name, b"x")
    assert [one.key for one in oss2.ObjectIteratorV2(there, "d/", max_keys=2)] == names
    there.batch_delete_objects(names[:4])
    assert [one.key for one in oss2.ObjectIteratorV2(there, "d/")] == names[4:]


# ====== The network that it plays ======


def test_requests_wait_and_connections_are_paced(server: ObjectServer, bucket: str) -> None:
    size = 4_000_000
    client = s3(server, "latency")
    start = time.monotonic()
    client.put_object(Bucket=bucket, Key="k", Body=bytes(size))
    sent = time.monotonic()
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == bytes(size)
    least = LATENCY_MS / 1000 + size / (CONNECTION_MB * 1e6)
    # What the kernel has buffered of the last piece does not wait.
    assert sent - start > 0.9 * least
    assert time.monotonic() - sent > 0.9 * least


def test_requests_are_counted(server: ObjectServer, bucket: str) -> None:
    client = s3(server, "latency")
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    server.reset()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.head_object(Bucket=bucket, Key="k"), range(8)))
    assert server.counts() == ({"HEAD": 8}, 4)
    server.delete(bucket, "")
    assert server.counts() == ({"HEAD": 8}, 4)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


# ====== The benchmark ======


@pytest.mark.slow
def test_another_content_ends_the_run(server: ObjectServer, tmp_path: Path) -> None:
    # By its path: there is a directory of tests of the same name.
    spec = spec_from_file_location("bench_storage", BENCH / "storage.py")
    assert spec is not None
    assert spec.loader is not None
    storage = module_from_spec(spec)
    sys.modules[spec.name] = storage  # dataclasses look there
    spec.loader.exec_module(storage)
    server.make_bucket(storage.BUCKET)
    for directory, content in {"a": b"one", "b": b"one", "c": b"two"}.items():
        s3(server).put_object(Bucket=storage.BUCKET, Key=f"{directory}/file", Body=content)

    folder = {"folder": f"{tmp_path}/{storage.FRESH}", "options": server.options("s3")}
    contenders = [
        storage.Contender(
            name, "boto3_get_many", {"path": f"s3://{storage.BUCKET}/{name}/", **folder}
        )
        for name in "abc"
    ]
    case = storage.Case("copies", tuple(contenders), ())
    with pytest.raises(storage.Wrong, match="copies, c: another content"):
        list(storage.Bench(server, str(tmp_path), 1).run(case, None))


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCH / "storage.py"), "--size-mb", "3", "--files", "50"]
    command += ["--rounds", "1", "--protocol", "oss", "--server", "fast", "--json", str(report)]
    ran = subprocess.run(
        [*command, "--only", "tfrecord", "stage", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr  # it checks what was read
    found = json.loads(report.read_text())
    assert (found["size_mb"], found["files"], found["rounds"]) == (3, 50, 1)
    rows = {row["work"]: row for row in found["rows"]}
    assert list(rows) == [
        "TFRecordDataset, default buffer",
        "memory of TFRecordDataset",
        "50 files of 100 kB staged in",
    ]
    for row in rows.values():
        assert (row["protocol"], row["server"]) == ("oss", "fast")
        assert all(value > 0 for value in row["values"].values())
        assert row["work"] in ran.stdout
    staged = rows["50 files of 100 kB staged in"]
    ratio = staged["values"]["ours"] / staged["values"]["oss2"]
    [goal] = staged["goals"]
    assert goal["goal"] == "at least 0.8 of oss2"
    assert goal["figure"] == pytest.approx(ratio, abs=0.001)
    assert goal["met"] is (goal["figure"] >= 0.8)
    met = [goal["met"] for row in found["rows"] for goal in row["goals"]]
    assert found["goals"] == {"met": sum(met), "missed": len(met) - sum(met)}
    assert not list(tmp_path.glob("bench-*"))
