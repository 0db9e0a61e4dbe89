"""Filesystems by protocol, the check of a location, and what failures mean."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_server import CREDENTIALS, Faults, fault_server
from moto_server import S3Server
from support import ROOT

from pai_runner.errors import ExitCode, SetupError
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.filesystems import check_directory, filesystem


@pytest.fixture
def faults() -> Iterator[Faults]:
    with fault_server() as made:
        yield made


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any AWS settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def refusal(protocol: str, options: dict[str, str], location: str) -> SetupError:
    with pytest.raises(SetupError) as caught:
        check_directory(filesystem(protocol, options), location)
    assert caught.value.exit_code == ExitCode.SETUP
    assert caught.value.hint
    return caught.value


# ====== Making one ======


def test_s3_reads_and_writes(s3_server: S3Server, s3_location: str) -> None:
    fs = filesystem("s3", s3_server.options)
    fs.pipe_file(f"{s3_location}x", b"content")
    assert fs.cat_file(f"{s3_location}x") == b"content"
    assert filesystem("s3a", s3_server.options).exists(s3_location.replace("s3:", "s3a:") + "x")


def test_s3_sees_at_once_what_another_writes(s3_server: S3Server, s3_location: str) -> None:
    fs, other = filesystem("s3", s3_server.options), filesystem("s3", s3_server.options)
    assert fs is not other
    other.pipe_file(f"{s3_location}1", b"")
    assert len(fs.ls(s3_location)) == 1
    other.pipe_file(f"{s3_location}2", b"")
    assert len(fs.ls(s3_location)) == 2
    assert fs.exists(f"{s3_location}2")


def test_s3_takes_the_usual_settings(
    s3_server: S3Server, s3_location: str, no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.options["secret"])
    check_directory(filesystem("s3", {}), s3_location)


def test_s3_takes_a_profile(
    s3_server: S3Server, s3_location: str, no_settings: None, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        f"[other]\naws_access_key_id = {s3_server.options['key']}\n"
        f"aws_secret_access_key = {s3_server.options['secret']}\n",
        encoding="utf-8",
    )
    options = {"endpoint_url": s3_server.url, "profile": "other"}
    check_directory(filesystem("s3", options), s3_location)
    missing = refusal("s3", {**options, "profile": "nobody"}, s3_location)
    assert "nobody" in missing.message


def test_s3_works_without_credentials_when_told(
    s3_server: S3Server, s3_location: str, no_settings: None
) -> None:
    check_directory(filesystem("s3", {"endpoint_url": s3_server.url, "anon": "true"}), s3_location)


def test_memory_and_local_files(tmp_path: Path) -> None:
    fs = filesystem("memory", {})
    fs.pipe_file("memory://x/y", b"1")
    assert filesystem("memory", {}).cat_file("memory://x/y") == b"1"
    assert filesystem("file", {}).ls(str(tmp_path)) == []


def test_oss_needs_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSS_ENDPOINT", raising=False)
    with pytest.raises(SetupError, match="oss:// has no host") as caught:
        filesystem("oss", {})
    assert "OSS_ENDPOINT" in str(caught.value.hint)


def test_an_unknown_protocol_lists_those_that_are_known() -> None:
    with pytest.raises(
        SetupError, match=r"memry:// is not a protocol; did you mean memory://\?"
    ) as e:
        filesystem("memry", {})
    assert {"s3", "s3a", "oss", "memory", "hdfs"} <= set(str(e.value.hint)[17:].split(", "))


def test_a_known_protocol_without_its_package_names_the_package() -> None:
    with pytest.raises(SetupError, match="abfs:// needs a package") as caught:
        filesystem("abfs", {})
    assert "adlfs" in str(caught.value.hint)


def test_options_that_a_filesystem_does_not_take() -> None:
    with pytest.raises(SetupError, match="reference:// cannot be opened") as caught:
        filesystem("reference", {"colour": "red"})
    assert "colour" in str(caught.value.hint)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = (
        "import sys, pai_runner.storage.filesystems;"
        "print([name for name in ('fsspec', 's3fs', 'botocore', 'aiohttp') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


# ====== Checking a location ======


def test_a_directory_that_is_not_there_yet_is_fine(s3_server: S3Server, s3_location: str) -> None:
    with s3_server.counted() as counts:
        check_directory(filesystem("s3", s3_server.options), s3_location)
    assert counts == {"GET": 1}
    check_directory(filesystem("memory", {}), "memory://nothing/here/")


def test_a_bucket_that_is_missing(s3_server: S3Server) -> None:
    error = refusal("s3", s3_server.options, "s3://no-such-bucket/dir/")
    assert "s3://no-such-bucket/dir/: there is no bucket `no-such-bucket`" in error.message


def test_access_that_is_denied(faults: Faults) -> None:
    faults.refused = {"GET"}
    error = refusal("s3", faults.options, "s3://b/dir/")
    assert "s3://b/dir/: access denied" in error.message
    assert not any(secret in f"{error} {error.hint}" for secret in CREDENTIALS.values())
    assert "***" in error.message


def test_credentials_that_are_missing(s3_server: S3Server, no_settings: None) -> None:
    error = refusal("s3", {"endpoint_url": s3_server.url}, "s3://b/dir/")
    assert "no credentials" in error.message
    assert "AWS_ACCESS_KEY_ID" in str(error.hint)


@pytest.mark.slow
def test_a_server_that_refuses_connections() -> None:
    began = time.monotonic()
    error = refusal("s3", {"endpoint_url": "http://127.0.0.1:9", **CREDENTIALS}, "s3://b/")
    assert "the server does not answer" in error.message
    assert "127.0.0.1:9" in error.message
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_server_that_never_answers() -> None:
    """It accepts connections and says nothing, as a hung one does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        error = refusal("s3", {"endpoint_url": url, **CREDENTIALS}, "s3://b/")
        assert time.monotonic() - began < 60
    assert "the server does not answer" in error.message


# ====== Failures ======


class HTTPClientError(Exception):
    """As botocore names its own."""


class ReadTimeout(HTTPClientError):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), Failure.MISSING),
        (PermissionError("x"), Failure.DENIED),
        (OSError(errno.EBUSY, "Slow Down"), Failure.UNAVAILABLE),
        (OSError(errno.EREMOTEIO, "x"), Failure.UNAVAILABLE),
        (ConnectionResetError("x"), Failure.UNAVAILABLE),
        (TimeoutError("x"), Failure.UNAVAILABLE),
        (ReadTimeout("x"), Failure.UNAVAILABLE),
        (OSError(errno.ENOSPC, "x"), Failure.OTHER),
        (ValueError("x"), Failure.OTHER),
    ],
)
def test_kinds_of_failure(error: Exception, kind: Failure) -> None:
    assert failure_of(error) is kind


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(2, "No such file"), "No such file"),
        (ValueError("two\n  lines"), "two lines"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("https://h/x?X-Amz-Signature=abcdef0123&a=b"), None),
    ],
)
def test_descriptions(error: Any, text: str | None) -> None:
    described = describe_error(error)
    assert described == text if text else "abcdef0123" not in described
