"""Failures of the store and of the machine, as a script meets them."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import CREDENTIALS, Faults
from file_systems import FAULTY_BUCKET, MISSING_BUCKET, UNREACHABLE, UNREACHABLE_BUCKET, FileSystems

pytestmark = pytest.mark.tensorflow

FAULTY = f"s3://{FAULTY_BUCKET}"
MISSING = f"s3://{MISSING_BUCKET}"
UNREACHED = f"s3://{UNREACHABLE_BUCKET}"


def write(tf: Any, path: str, content: str = "content") -> None:
    with tf.io.gfile.GFile(path, "w") as stream:
        stream.write(content)


def read(tf: Any, path: str) -> str:
    return str(tf.io.gfile.GFile(path).read())


def error_of(function: Callable[..., Any], *arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


# ====== Access denied ======


def test_access_denied_has_its_error_and_no_secret(tf: Any, faults: Faults) -> None:
    faults.refused = {"GET", "HEAD", "PUT", "DELETE"}
    gfile = tf.io.gfile
    calls: list[Callable[[], Any]] = [
        lambda: gfile.exists(f"{FAULTY}/x"),
        lambda: gfile.stat(f"{FAULTY}/x"),
        lambda: read(tf, f"{FAULTY}/x"),
        lambda: write(tf, f"{FAULTY}/x"),
        lambda: gfile.glob(f"{FAULTY}/*"),
        lambda: gfile.remove(f"{FAULTY}/x"),
        lambda: tf.io.read_file(f"{FAULTY}/x"),
        lambda: list(tf.data.TFRecordDataset(f"{FAULTY}/x")),
        lambda: tf.train.Checkpoint(value=tf.Variable(1)).write(f"{FAULTY}/ck"),
    ]
    for call in calls:
        error = error_of(call)
        assert isinstance(error, tf.errors.PermissionDeniedError)
        assert "***" in str(error) or "Forbidden" in str(error)
        assert not any(secret in str(error) for secret in CREDENTIALS.values())
    assert gfile.isdir(f"{FAULTY}/x") is False, "TensorFlow's isdir knows no errors"


def test_an_upload_that_is_refused_leaves_nothing_behind(tf: Any, faults: Faults) -> None:
    before = _staged()
    faults.refused = {"PUT"}
    assert isinstance(error_of(write, tf, f"{FAULTY}/file"), tf.errors.PermissionDeniedError)
    assert tf.io.gfile.exists(f"{FAULTY}/file") is False
    assert _staged() == before
    faults.mend()
    write(tf, f"{FAULTY}/file", "second try")
    assert read(tf, f"{FAULTY}/file") == "second try"


def test_a_rename_that_fails_can_be_repeated(tf: Any, faults: Faults) -> None:
    temporary = f"{FAULTY}/pointer.tmp{'a' * 32}"
    write(tf, temporary)
    faults.refused = {"PUT"}
    error = error_of(tf.io.gfile.rename, temporary, f"{FAULTY}/pointer")
    assert isinstance(error, tf.errors.PermissionDeniedError)
    faults.mend()
    tf.io.gfile.rename(temporary, f"{FAULTY}/pointer")
    assert faults.objects["/faulty/pointer"] == b"content"


def test_a_checkpoint_that_fails_half_way_is_no_checkpoint(tf: Any, faults: Faults) -> None:
    checkpoint = tf.train.Checkpoint(value=tf.Variable(np.zeros(100, "f")))
    checkpoint.save(f"{FAULTY}/run/ck")
    faults.refused = {"PUT"}
    with pytest.raises(tf.errors.PermissionDeniedError):
        checkpoint.save(f"{FAULTY}/run/ck")
    faults.mend()
    assert sorted(key for key in faults.objects if "/run/" in key) == [
        "/faulty/run/checkpoint",
        "/faulty/run/ck-1.data-00000-of-00001",
        "/faulty/run/ck-1.index",
    ]
    assert tf.train.latest_checkpoint(f"{FAULTY}/run") == f"{FAULTY}/run/ck-1"


# ====== Server and network ======


@pytest.mark.slow
def test_a_server_error_is_tried_again_then_unavailable(tf: Any, faults: Faults) -> None:
    faults.broken = {"PUT"}
    faults.requests.clear()
    error = error_of(write, tf, f"{FAULTY}/file")
    assert isinstance(error, tf.errors.UnavailableError)
    assert faults.requests.count("PUT /faulty/file") == 3


def test_a_missing_bucket(tf: Any) -> None:
    assert tf.io.gfile.exists(f"{MISSING}/x") is False
    assert isinstance(error_of(read, tf, f"{MISSING}/x"), tf.errors.NotFoundError)
    error = error_of(write, tf, f"{MISSING}/x")
    assert isinstance(error, tf.errors.NotFoundError)
    assert "there is no bucket `no-such-bucket`" in str(error)


@pytest.mark.slow
def test_a_server_that_is_not_there(tf: Any) -> None:
    gfile = tf.io.gfile
    calls: list[Callable[[], Any]] = [
        lambda: gfile.exists(f"{UNREACHED}/x"),
        lambda: read(tf, f"{UNREACHED}/x"),
        lambda: write(tf, f"{UNREACHED}/x"),
        lambda: gfile.glob(f"{UNREACHED}/x/*"),
    ]
    for call in calls:
        began = time.monotonic()
        error = error_of(call)
        assert isinstance(error, tf.errors.UnavailableError)
        assert "127.0.0.1:9" in str(error)
        assert UNREACHABLE["key"] not in str(error)
        assert time.monotonic() - began < 30


def test_a_read_that_breaks_is_repeated(tf: Any, faults: Faults) -> None:
    faults.objects["/faulty/data"] = b"0123456789" * 1000
    faults.cut_reads = 2
    assert read(tf, f"{FAULTY}/data") == "0123456789" * 1000


def test_a_copy_that_cannot_read_on_publishes_nothing(
    tf: Any, faults: Faults, file_systems: FileSystems, tmp_path: Path
) -> None:
    faults.objects["/faulty/data"] = os.urandom(100_000)
    target = file_systems.new_folder("memory", tmp_path) + "/copy"
    faults.cut_reads = 1000
    assert isinstance(
        error_of(tf.io.gfile.copy, f"{FAULTY}/data", target), tf.errors.UnavailableError
    )
    assert tf.io.gfile.exists(target) is False


@pytest.mark.parametrize("size", [10, 8_000_000], ids=["shorter", "of the same length"])
def test_an_object_that_is_replaced_under_a_reader_is_an_error(
    tf: Any, faults: Faults, size: int
) -> None:
    faults.objects["/faulty/data"] = b"x" * 8_000_000
    stream = tf.io.gfile.GFile(f"{FAULTY}/data", "rb")
    assert stream.read(1000) == b"x" * 1000
    faults.objects["/faulty/data"] = b"y" * size
    error = error_of(stream.read)
    assert isinstance(error, tf.errors.FailedPreconditionError)
    assert "faulty/data: it was changed meanwhile" in str(error)


# ====== The local disk ======


def test_no_space_for_a_staged_file(tf: Any, faults: Faults) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    stream = tf.io.gfile.GFile(f"{FAULTY}/big", "wb")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        error = error_of(lambda: [stream.write(b"x" * 300_000) for _ in range(20)])
        with pytest.raises(tf.errors.OpError):
            stream.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, tf.errors.OutOfRangeError)  # EFBIG; ENOSPC would be exhausted
    assert "big" in str(error)
    assert "/faulty/big" not in faults.objects
    assert tf.io.gfile.exists(f"{FAULTY}/big") is False


def _staged() -> list[str]:
    """Return the names of this process's staged files."""
    names = os.listdir(tempfile.gettempdir())
    return sorted(name for name in names if name.startswith(f"pai-{os.getpid()}-"))
