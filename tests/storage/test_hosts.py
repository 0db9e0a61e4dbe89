"""Which hosts of a command are spoken to, and that nothing is sent to the wrong ones."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metadata_world
import pytest
import requests
from moto_server import S3Server
from sts_app import served
from support import ROOT
from werkzeug.serving import make_ssl_devcert

from pai_runner.errors import ExitCode, SetupError
from pai_runner.storage.aiohttp_connections import guarded_aiobotocore
from pai_runner.storage.connections import guarded_session
from pai_runner.storage.hosts import (
    check_endpoint,
    refuse_metadata,
)


def refusal(text: str, allowed: str = "") -> SetupError:
    with pytest.raises(SetupError) as caught:
        check_endpoint(text, "-DossHost", {"PAI_ALLOWED_HOSTS": allowed})
    assert caught.value.exit_code == ExitCode.SETUP
    assert caught.value.hint
    return caught.value


# ====== Names ======


@pytest.mark.parametrize(
    ("text", "allowed", "endpoint"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", "", "https://oss-cn-hangzhou.aliyuncs.com"),
        ("HTTPS://OSS-cn-x.AliyunCS.com", "", "https://oss-cn-x.aliyuncs.com"),
        ("oss-cn-x-internal.aliyuncs.com:8443", "", "https://oss-cn-x-internal.aliyuncs.com:8443"),
        ("oss.aliyun-inc.com", "", "https://oss.aliyun-inc.com"),
        ("s3.eu-west-1.amazonaws.com", "", "https://s3.eu-west-1.amazonaws.com"),
        ("s3.cn-north-1.amazonaws.com.cn", "", "https://s3.cn-north-1.amazonaws.com.cn"),
        ("127.0.0.1:9000", "127.0.0.1", "https://127.0.0.1:9000"),
        ("http://127.0.0.1:9000", "http://127.0.0.1", "http://127.0.0.1:9000"),
        ("127.0.0.1:9000", "http://127.0.0.1", "https://127.0.0.1:9000"),
        ("store.local:9000", " other , store.local:9000 ,", "https://store.local:9000"),
        ("a.b.example.com", "*.example.com", "https://a.b.example.com"),
        ("http://a.example.com", "http://*.example.com", "http://a.example.com"),
        ("http://oss.aliyuncs.com", "http://oss.aliyuncs.com", "http://oss.aliyuncs.com"),
        ("https://[::1]:9000", "[::1]", "https://[::1]:9000"),
    ],
)
def test_allowed_hosts(text: str, allowed: str, endpoint: str) -> None:
    assert check_endpoint(text, "-DossHost", {"PAI_ALLOWED_HOSTS": allowed}) == endpoint


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("evil-aliyuncs.com", ""),
        ("aliyuncs.com", ""),
        ("aliyuncs.com.evil.org", ""),
        ("oss.aliyuncs.com.cn", ""),
        ("127.0.0.1", ""),
        ("localhost", "127.0.0.1"),
        ("127.0.0.1:9001", "127.0.0.1:9000"),
        ("127.0.0.1", "127.0.0.1:9000"),
        ("example.com", "*.example.com"),
        ("evilexample.com", "*.example.com"),
    ],
)
def test_other_hosts_are_refused_with_what_to_set(text: str, allowed: str) -> None:
    error = refusal(text, allowed)
    assert error.message.startswith(f"-DossHost: the host `{text}` is not one of *.aliyuncs.com")
    assert error.hint is not None
    assert error.hint.endswith(f"set PAI_ALLOWED_HOSTS={text}")
    assert check_endpoint(text, "-DossHost", {"PAI_ALLOWED_HOSTS": text}) == f"https://{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.aliyuncs.com@evil.org",
        "user:password@x.aliyuncs.com",
        "evil.org#.aliyuncs.com",
        "evil.org/.aliyuncs.com",
        "evil.org?.aliyuncs.com",
        "evil.org\\.aliyuncs.com",
        "x.aliyuncs.com.",
        "x..aliyuncs.com",
        ".aliyuncs.com",
        "*.aliyuncs.com",
        "x.aliyuncs.com/path",
        " x.aliyuncs.com",
        "x.aliyuncs.com\n",
        "x\r\nHost: y.aliyuncs.com",
        "x\0.aliyuncs.com",
        "x.\u0430liyuncs.com",  # a Cyrillic a
        "x.aliyunc\u017f.com",  # a long s, which is an s when case is ignored
        "x\u3002aliyuncs.com",  # an ideographic full stop
        "x.aliyuncs.com:",
        "x.aliyuncs.com:99999",
        "x.aliyuncs.com:80:80",
        "ftp://x.aliyuncs.com",
        "http:x.aliyuncs.com",
        "//x.aliyuncs.com",
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    error = refusal(text)
    assert error.message.startswith("-DossHost: `")
    assert error.message.endswith("is not a host")
    assert error.message.isascii()
    assert error.message.isprintable()
    assert "password" not in error.message


def test_plain_http_only_where_it_is_listed() -> None:
    for text, allowed in (
        ("http://oss.aliyuncs.com", ""),
        ("http://oss.aliyuncs.com", "oss.aliyuncs.com"),
        ("http://oss.aliyuncs.com", "https://oss.aliyuncs.com"),
    ):
        error = refusal(text, allowed)
        assert "plain http://" in error.message
        assert error.hint == "leave out http://, or set PAI_ALLOWED_HOSTS=http://oss.aliyuncs.com"
    assert refusal("http://127.0.0.1:1").hint == (
        "if you trust it with your credentials, set PAI_ALLOWED_HOSTS=http://127.0.0.1:1"
    )


def test_a_wrong_entry_in_the_list_is_said() -> None:
    error = refusal("oss.aliyuncs.com", "127.0.0.1, http://x/y")
    assert error.message == "PAI_ALLOWED_HOSTS: `http://x/y` is not a host"


# ====== Addresses ======

METADATA = [
    "169.254.169.254",
    "169.254.0.1",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "100.100.100.200",
    "1684301000",
    "0x646464c8",
    "0144.0144.0144.0310",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0:0:0:0:0:0254]",
    "[fe80::1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:6464:64c8]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
]


@pytest.mark.parametrize("host", METADATA)
def test_metadata_is_refused_in_every_spelling_even_when_listed(host: str) -> None:
    text = "address of a metadata service or a link-local one"
    with pytest.raises(SetupError, match=text):
        refuse_metadata(host)
    error = refusal(host, f"http://{host}")
    assert error.message.startswith(f"-DossHost: `{host.lower()}` is ")
    assert text in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "nowhere.invalid"])
def test_other_addresses_are_not_refused(host: str) -> None:
    refuse_metadata(host)


# ====== Connections ======

Requests = list[dict[str, Any]]


@pytest.fixture
def seen() -> Requests:
    """The requests that the server of `url` saw."""
    return []


@pytest.fixture
def url(seen: Requests) -> Iterator[str]:
    """A server that sends everybody elsewhere on itself."""

    def application(environment: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append({**environment})
        target = f"http://localhost:{environment['SERVER_PORT']}/elsewhere"
        headers = [("Location", target), ("Content-Length", "0"), ("x-amz-bucket-region", "here")]
        start_response("307 Temporary Redirect", headers)
        return [b""]

    with served(application) as address:
        yield address


def test_a_redirect_is_an_answer(url: str, seen: Requests) -> None:
    session = guarded_session(2)
    answer = session.request("PUT", f"{url}/key", data=b"x", headers={"Authorization": "OSS k:s"})
    assert answer.status_code == 307
    assert session.get(url, allow_redirects=True).status_code == 307
    assert [one["PATH_INFO"] for one in seen] == ["/key", "/"]


def test_oss2_follows_no_redirect(url: str, seen: Requests) -> None:
    import oss2

    session = oss2.Session()
    session.session = guarded_session(2)
    bucket = oss2.Bucket(oss2.Auth("key", "secret"), url, "bucket", session=session)
    with pytest.raises(oss2.exceptions.ServerError) as caught:
        bucket.get_object("key")
    assert caught.value.status == 307
    assert [one["PATH_INFO"] for one in seen] == ["/bucket/key"]


def test_a_netrc_takes_no_signatures_place(
    url: str, seen: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    guarded_session(1).get(url, headers={"Authorization": "OSS key:signature"})
    assert seen[0]["HTTP_AUTHORIZATION"] == "OSS key:signature"


def test_the_proxy_of_the_environment_is_used(
    url: str, seen: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert guarded_session(1).get("http://oss.aliyuncs.com/key").status_code == 307
    assert seen[0]["HTTP_HOST"] == "oss.aliyuncs.com"


def test_a_dead_server_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(requests.ConnectionError):
            guarded_session(1).get(f"http://127.0.0.1:{unused.getsockname()[1]}/")


def test_certificates_are_checked(tmp_path: Path) -> None:
    certificate, key = make_ssl_devcert(str(tmp_path / "localhost"), host="localhost")

    def application(environment: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with served(application, (certificate, key)) as url:
        address = url.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(requests.exceptions.SSLError):
            guarded_session(1).get(address)
        assert guarded_session(1).get(address, verify=certificate).text == "ok"


def test_s3fs_works_with_the_same_care(s3_server: S3Server, s3_location: str) -> None:
    fs = s3fs_at(s3_server.url.replace("127.0.0.1", "localhost"), s3_server.options)
    fs.pipe_file(f"{s3_location}x", b"content")
    assert fs.cat_file(f"{s3_location}x") == b"content"


def test_s3fs_follows_no_redirect(url: str, seen: Requests, s3_server: S3Server) -> None:
    fs = s3fs_at(url, {**s3_server.options, "token": "session-token"})
    with pytest.raises(OSError, match="Temporary Redirect"):
        fs.cat_file("bucket/key")
    assert {one["PATH_INFO"] for one in seen} == {"/bucket/key"}
    assert {one["HTTP_X_AMZ_SECURITY_TOKEN"] for one in seen} == {"session-token"}


def s3fs_at(endpoint: str, options: dict[str, str]) -> Any:
    import s3fs

    return s3fs.S3FileSystem(
        endpoint_url=endpoint,
        key=options["key"],
        secret=options["secret"],
        token=options.get("token"),
        client_kwargs={"region_name": "us-east-1"},
        config_kwargs={**guarded_aiobotocore(), "retries": {"total_max_attempts": 1}},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


# ====== A name that leads to the metadata service ======

THERE = """
import socket, sys, threading
from pai_runner.errors import SetupError
from pai_runner.storage.aiohttp_connections import guarded_aiobotocore
from pai_runner.storage.connections import guarded_session
from pai_runner.storage.hosts import refuse_metadata

received = []
listener = socket.create_server(("100.100.100.200", 0))
port = listener.getsockname()[1]
def listen():
    for _ in range(2):  # of the two sessions below; s3fs does not even connect
        connection, _ = listener.accept()
        received.append(connection.recv(1000))
    listener.close()
listening = threading.Thread(target=listen)
listening.start()

def refused(attempt, *errors):
    try:
        attempt()
    except errors as error:
        assert "100.100.100.200, the address of a metadata service" in str(error), error
    else:
        raise AssertionError("not refused")

refused(lambda: refuse_metadata("store.test"), SetupError)
for scheme in ("http", "https"):
    refused(lambda: guarded_session(1).get(f"{scheme}://store.test:{port}/"), SetupError)

import botocore.exceptions, s3fs
fs = s3fs.S3FileSystem(
    endpoint_url=f"http://store.test:{port}", key="key", secret="secret",
    client_kwargs={"region_name": "us-east-1"},
    config_kwargs={**guarded_aiobotocore(), "retries": {"total_max_attempts": 1}},
)
fs.retries = 1
refused(lambda: fs.cat_file("bucket/key"), SetupError, botocore.exceptions.HTTPClientError)
listening.join()
assert b"".join(received) == b"", received
print(len(received), "connections, nothing sent")
"""


@pytest.mark.slow
@pytest.mark.skipif(not metadata_world.available(), reason="needs a network namespace")
def test_nothing_is_sent_to_a_name_that_leads_to_metadata(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = metadata_world.run_there(THERE, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 connections, nothing sent"
