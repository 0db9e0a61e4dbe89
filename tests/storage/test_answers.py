"""What is made of answers that real servers and proxies give, and doubles do not."""

from __future__ import annotations

import errno
import threading
from base64 import b64encode
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from oss_server import OSSServer
from telling_server import Telling, answer, telling_server

from pai_runner.storage.attempts import Attempts
from pai_runner.storage.failures import RefusedError
from pai_runner.storage.objects import Objects, Part, mapped, open_objects

DATA = b"0123456789"
OBJECT = {"ETag": '"tag"', "x_oss_hash_crc64ecma": ""}
WHOLE = {**OBJECT, "Content_Range": "bytes 0-9/10"}
KEYS = {
    "s3": {"key": "telling-key", "secret": "telling-secret", "region": "r"},
    "oss": {"access_key_id": "telling-key", "access_key_secret": "telling-secret"},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telling]:
    monkeypatch.setenv("PAI_ALLOWED_HOSTS", "http://127.0.0.1")
    with telling_server() as telling:
        yield telling


@pytest.fixture(params=["s3", "oss"])
def objects(request: pytest.FixtureRequest, server: Telling) -> Objects:
    return opened(request.param, server)


def opened(kind: str, server: Telling, **options: str) -> Objects:
    place = {"s3": "endpoint_url", "oss": "host"}[kind]
    return open_objects(kind, {place: server.url, **KEYS[kind], **options})


def read(objects: Objects, key: str = "x", **options: Any) -> bytes:
    into = bytearray(20)
    count, _ = objects.read_into(f"bucket/{key}", 0, memoryview(into), **options)
    return bytes(into[:count])


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return answer(
        "206 Partial Content", body, Content_Length="", Transfer_Encoding="chunked", **WHOLE
    )


# ====== Reading ======


def test_chunks_that_break_off_are_asked_for_again(server: Telling, objects: Objects) -> None:
    server.tell(chunked(DATA[:4]), chunked(DATA, b""))
    assert read(objects) == DATA
    assert len(server.asked) == 2


@pytest.mark.parametrize("told", ["bytes 5-9/10", "bytes 0-9/*", ""])
def test_another_range_is_not_taken(server: Telling, objects: Objects, told: str) -> None:
    wrong = answer("206 Partial Content", DATA, **{**WHOLE, "Content_Range": told})
    server.tell(wrong, wrong, wrong)
    with pytest.raises(OSError, match="damaged on its way: bytes from 0 on were asked"):
        read(objects)


def test_the_whole_is_taken_where_ranges_are_not_known(server: Telling, objects: Objects) -> None:
    server.tell(answer("200 OK", DATA, **OBJECT))
    into = bytearray(20)
    count, described = objects.read_into("bucket/x", 7, memoryview(into))
    assert (bytes(into[:count]), described.size) == (DATA[7:], 10)


def test_another_version_is_refused_though_the_server_gives_it(
    server: Telling, objects: Objects
) -> None:
    server.tell(answer("206 Partial Content", DATA, **WHOLE))
    with pytest.raises(OSError, match="it was changed meanwhile") as caught:
        read(objects, etag="other")
    assert caught.value.errno == errno.ESTALE


def test_an_object_of_unknown_size_is_not_an_empty_one(server: Telling) -> None:
    server.tell(*[answer("200 OK", DATA, Content_Length="", **OBJECT)] * 3)
    with pytest.raises(OSError, match="does not tell how long the object is"):
        read(opened("s3", server))


# ====== Refusals ======


def test_a_body_that_came_too_slowly_is_sent_again(server: Telling, objects: Objects) -> None:
    body = b"<Error><Code>RequestTimeout</Code><Message>slow</Message></Error>"
    server.tell(answer("400 Bad Request", body), answer("200 OK", **OBJECT))
    assert objects.put("bucket/x", DATA) == "tag"
    sums = [asked.headers["Content-MD5"] for asked in server.asked]
    assert sums == [b64encode(md5(DATA).digest()).decode()] * 2


def test_another_region_is_learned_by_requests_that_are_made_at_once(server: Telling) -> None:
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>there</Region></Error>"
    refused = answer("400 Bad Request", body)
    whole = answer("206 Partial Content", DATA, **WHOLE)
    server.tell(refused, refused, whole, whole, together=2)
    objects, found = opened("s3", server), []
    objects.prepare("bucket/x")
    readers = [threading.Thread(target=lambda: found.append(read(objects))) for _ in range(2)]
    for one in readers:
        one.start()
    for one in readers:
        one.join()
    assert found == [DATA, DATA]
    scopes = [asked.headers["Authorization"].split("/")[2] for asked in server.asked]
    assert scopes == ["r", "r", "there", "there"]


def test_waits_can_be_as_many_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = threading.Event()
    closing.set()
    attempts = Attempts(closing)
    assert not any(attempts.may_repeat(503) for _ in range(1200))
    assert "1200 attempts" in str(attempts)


# ====== Where to, and as whom ======


def test_nobody_needs_keys_for_what_is_public(
    server: Telling, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    server.tell(answer("206 Partial Content", DATA, **WHOLE))
    assert read(open_objects("s3", {"endpoint_url": server.url, "anon": "true"})) == DATA
    assert "Authorization" not in server.asked[0].headers


def test_dots_of_a_key_are_no_directories(server: Telling) -> None:
    server.tell(answer("206 Partial Content", DATA, **WHOLE))
    read(opened("s3", server), "a/../b/./c..d/..")
    assert server.asked[0].line.split()[1] == "/bucket/a/%2E%2E/b/%2E/c..d/%2E%2E"


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_is_told_who_asks(
    server: Telling, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"{scheme}me:p%40ss-word@127.0.0.1:{server.port}")
    monkeypatch.setenv("PAI_ALLOWED_HOSTS", "http://store.test")
    server.tell(answer("206 Partial Content", DATA, **WHOLE))
    options = {"endpoint_url": "http://store.test", **KEYS["s3"]}
    assert read(open_objects("s3", options)) == DATA
    assert server.asked[0].line.startswith("GET http://store.test/bucket/x ")
    assert server.asked[0].headers["Proxy-Authorization"] == (
        f"Basic {b64encode(b'me:p@ss-word').decode()}"
    )


# ====== Uploads ======


@pytest.mark.parametrize("there", [b"", b"older"])
def test_an_upload_that_is_gone_on_oss(
    server: Telling, oss_server: OSSServer, there: bytes
) -> None:
    objects = open_objects("oss", oss_server.options)
    path = f"{oss_server.make_bucket(f'answers-{len(there)}')}/x"
    if there:
        objects.put(path, there)
    upload = objects.upload(path)
    upload.send(1, b"newer")
    objects.resume(path, upload.id, {}).abort()
    with pytest.raises(RefusedError) as caught:
        upload.complete()
    assert caught.value.code == "NoSuchUpload"


PART = Part(md5(b"newer").hexdigest(), 5, "iQuJ6w==")


@pytest.mark.parametrize(
    ("there", "is_it"),
    [
        (answer("404 Not Found"), False),
        (answer("200 OK", ETag='"0123456789abcdef0123456789abcdef-1"'), False),
        (answer("200 OK", ETag='"of-a-kms-key"', x_amz_checksum_crc32c="AAAAAA==-1"), False),
        (answer("200 OK", ETag=f'"{md5(md5(b"newer").digest()).hexdigest()}-1"'), True),
        (answer("200 OK", ETag='"of-a-kms-key"', x_amz_checksum_crc32c="7HUXBw==-1"), True),
    ],
)
def test_an_upload_that_is_gone_on_s3(server: Telling, there: bytes, is_it: bool) -> None:
    """It was completed, by an attempt whose answer was lost, if the object has its checksums."""
    gone = b"<Error><Code>NoSuchUpload</Code></Error>"
    server.tell(answer("404 Not Found", gone), there)
    upload = opened("s3", server).resume("bucket/x", "id", {1: PART})
    if is_it:
        upload.complete()
    else:
        with pytest.raises(RefusedError, match="NoSuchUpload"):
            upload.complete()
    assert server.asked[1].headers["x-amz-checksum-mode"] == "ENABLED"


def test_a_file_that_was_shortened_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with (
        pytest.raises(OSError, match="it was shortened") as caught,
        mapped(str(tmp_path / "x"), 0, 11),
    ):
        pass
    assert caught.value.errno == errno.ESTALE
