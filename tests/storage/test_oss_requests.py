"""The oss:// filesystem: credentials, servers that fail, secrets, threads and forks."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_server import fault_server
from oss_content import BLOCK, KB, UGLY, content
from oss_server import KEY_ID, OTHER_KEY_ID, OTHER_SECRET, SECRET, OSSServer
from support import fork

from pai_runner.errors import SetupError
from pai_runner.storage import oss_client
from pai_runner.storage.failures import Failure, failure_of
from pai_runner.storage.filesystems import check_directory, filesystem
from pai_runner.storage.oss import OSSFileSystem, open_oss

# ====== Signatures and credentials ======


@pytest.fixture(autouse=True)
def _no_region_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSS_REGION", raising=False)


@pytest.mark.parametrize(("region", "version"), [(None, "V1"), ("cn-hangzhou", "V4")])
def test_signatures(server: OSSServer, bucket: str, region: str | None, version: str) -> None:
    fs = OSSFileSystem(endpoint=server.url, key=KEY_ID, secret=SECRET, region=region)
    began = len(server.requests())
    for name in UGLY:
        fs.pipe_file(f"{bucket}/{name}", b"1")
    with fs.open(f"{bucket}/long", "wb", block_size=BLOCK) as stream:
        stream.write(content(3 * BLOCK))
    assert len(fs.find(bucket)) == len(UGLY) + 1
    fs.rm([f"{bucket}/a b", f"{bucket}/h#1"])
    assert {one.signature for one in server.requests()[began:]} == {version}


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("https://oss-cn-beijing-internal.aliyuncs.com", "cn-beijing"),
        ("oss-us-west-1.aliyuncs.com", "us-west-1"),
        ("oss-cn-hangzhou.aliyuncs.com:443", "cn-hangzhou"),
        ("oss-accelerate.aliyuncs.com", None),
        ("oss-accelerate-overseas.aliyuncs.com", None),
        ("http://127.0.0.1:1", None),
        ("oss.example.com", None),
    ],
)
def test_the_region_of_an_endpoint(
    endpoint: str, region: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is known, the signature is of version 4."""
    fs = OSSFileSystem(endpoint=endpoint, key=KEY_ID, secret=SECRET)
    assert fs.client("b/k").region == region
    monkeypatch.setenv("OSS_REGION", "cn-shanghai")
    fs = OSSFileSystem(endpoint=endpoint, key=KEY_ID, secret=SECRET)
    assert fs.client("b/k").region == (region or "cn-shanghai")


def test_wrong_credentials(server: OSSServer, bucket: str) -> None:
    wrong = {
        "InvalidAccessKeyId": {"access_key_id": "LTAInobodyknows"},
        "SignatureDoesNotMatch": {"access_key_secret": "another-secret-value"},
    }
    for code, options in wrong.items():
        fs = open_oss({**server.options, **options})
        with pytest.raises(PermissionError, match=f"{bucket}/x: 403 {code}.*request") as caught:
            fs.cat_file(f"{bucket}/x")
        assert failure_of(caught.value) is Failure.DENIED
        assert not any(value in str(caught.value) for value in options.values())
        with pytest.raises(PermissionError):
            fs.exists(f"{bucket}/x")


def role_options(server: OSSServer, bucket: str) -> dict[str, str]:
    return {
        **server.options,
        "role_arn": "acs:ram::1234567890123456:role/worker",
        "role_session": "pai-test",
        "role_buckets": bucket,
    }


@pytest.fixture
def sts(server: OSSServer, monkeypatch: pytest.MonkeyPatch) -> OSSServer:
    monkeypatch.setenv("PAI_STS_ENDPOINT", server.sts_url)
    return server


def test_an_expired_token_is_renewed(sts: OSSServer, bucket: str) -> None:
    fs = open_oss(role_options(sts, bucket))
    fs.pipe_file(f"{bucket}/x", content(100))
    actions = {
        "read": lambda: fs.cat_file(f"{bucket}/x", 0, 10),
        "head": lambda: fs.info(f"{bucket}/x"),
        "list": lambda: fs.ls(bucket),
        "write": lambda: fs.pipe_file(f"{bucket}/y", b"1"),
        "copy": lambda: fs.cp_file(f"{bucket}/x", f"{bucket}/z"),
        "remove": lambda: fs.rm_file(f"{bucket}/y"),
    }
    for action in actions.values():
        sts.set(expire_tokens=True)
        action()
    with fs.open(f"{bucket}/long", "wb", block_size=BLOCK) as stream:
        for number in range(5):
            sts.set(expire_tokens=True)
            stream.write(content(2 * BLOCK, seed=number))
        sts.set(expire_tokens=True)
    expected = b"".join(content(2 * BLOCK, seed=number) for number in range(5))
    assert sts.read(bucket, "long") == expected
    sts.set(bare_heads=True, expire_tokens=True)
    assert fs.info(f"{bucket}/x")["size"] == 100


def test_a_token_is_for_the_buckets_of_the_job(sts: OSSServer, bucket: str) -> None:
    second = sts.make_bucket(f"{bucket}-2")
    fs = open_oss(role_options(sts, bucket))
    assert not fs.exists(f"{bucket}/x")
    with pytest.raises(PermissionError, match="AccessDenied"):
        fs.ls(second)


def test_a_denied_path_costs_no_token(sts: OSSServer, bucket: str) -> None:
    """Nor where the server does not say why it refuses."""
    second = sts.make_bucket(f"{bucket}-2")
    fs = open_oss(role_options(sts, bucket))
    assert not fs.exists(f"{bucket}/x")
    asked = len(sts.calls_of_sts())
    for is_bare in (False, True):
        sts.set(bare_heads=is_bare)
        for _ in range(10):
            with pytest.raises(PermissionError, match="AccessDenied"):
                fs.exists(f"{second}/x")
    assert len(sts.calls_of_sts()) == asked


def test_a_stale_token_makes_nothing(sts: OSSServer, bucket: str) -> None:
    """A file that is there when the write is repeated is another's, though it is the same."""
    fs = open_oss(role_options(sts, bucket))
    fs.pipe_file(f"{bucket}/x", b"1")
    sts.set(expire_tokens=True)
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/x", b"1", mode="create")


def test_users_of_their_own(server: OSSServer, bucket: str) -> None:
    """Two filesystems of one bucket keep their credentials apart."""
    second = {"access_key_id": OTHER_KEY_ID, "access_key_secret": OTHER_SECRET}
    began = len(server.requests())
    first, second_fs = open_oss(server.options), open_oss({**server.options, **second})
    first.pipe_file(f"{bucket}/x", b"1")
    second_fs.pipe_file(f"{bucket}/y", b"1")
    first.cat_file(f"{bucket}/y")
    users = [one.access_key_id for one in server.requests()[began:]]
    assert users == [KEY_ID, OTHER_KEY_ID, KEY_ID]


class TwoUsers(OSSFileSystem):
    """What is below `…/theirs/` is reached with another's credentials."""

    def client(self, path: str) -> oss_client.Client:
        mine = super().client(path)
        if not path.partition("/")[2].startswith("theirs/"):
            return mine
        if not hasattr(self, "_theirs"):
            second = OSSFileSystem(endpoint=self._endpoint, key=OTHER_KEY_ID, secret=OTHER_SECRET)
            self._theirs = second.client(path)
        return self._theirs


def test_no_request_goes_round_the_client(server: OSSServer, bucket: str, tmp_path: Path) -> None:
    fs = TwoUsers(endpoint=server.url, key=KEY_ID, secret=SECRET)
    here = f"{bucket}/theirs"
    (tmp_path / "x").write_bytes(b"1")
    began = len(server.requests())
    fs.pipe_file(f"{here}/d/x", content(3 * BLOCK))
    fs.put_file(str(tmp_path / "x"), f"{here}/y")
    fs.get_file(f"{here}/d/x", str(tmp_path / "z"))
    fs.cp_file(f"{here}/y", f"{here}/z")
    with fs.open(f"{here}/long", "wb", block_size=BLOCK) as stream:
        stream.write(content(3 * BLOCK))
    fs.cat_file(f"{here}/y"), fs.cat_ranges([f"{here}/y"], 0, 1), fs.info(f"{here}/y")
    fs.exists(f"{here}/nothing"), fs.ls(f"{here}/d"), fs.find(f"{here}/d"), fs.sign(f"{here}/y")
    fs.rm([f"{here}/y", f"{here}/z"])
    fs.rm_file(f"{here}/long")
    assert {one.access_key_id for one in server.requests()[began:]} == {OTHER_KEY_ID}
    fs.cp_file(f"{here}/d/x", f"{bucket}/mine")
    assert server.read(bucket, "mine") == content(3 * BLOCK)


# ====== A server that fails ======


@pytest.mark.slow
def test_failures_that_pass(
    fs: OSSFileSystem, server: OSSServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = [
        lambda: fs.pipe_file(f"{bucket}/x", content(100)),
        lambda: fs.cat_file(f"{bucket}/x"),
        lambda: fs.ls(bucket),
        lambda: fs.rm_file(f"{bucket}/x"),
    ]
    for action in actions:
        server.set(fail=1)
        action()
    server.set(fail=1000)
    for seconds, count in (("0.1", 3), ("2", 4)):
        monkeypatch.setenv("PAI_RETRY_SECONDS", seconds)
        tried = r"503 ServiceUnav.* attempts in \d+ s\)"
        with server.counted() as counts, pytest.raises(OSError, match=tried) as caught:
            fs.cat_file(f"{bucket}/x")
        assert counts == {"GET": count}
    assert caught.value.errno == errno.EBUSY
    assert failure_of(caught.value) is Failure.UNAVAILABLE


@pytest.mark.slow
def test_no_server() -> None:
    fs = OSSFileSystem(endpoint="http://127.0.0.1:9", key=KEY_ID, secret=SECRET)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 does not answer") as caught:
        fs.cat_file("bucket/x")
    assert failure_of(caught.value) is Failure.UNAVAILABLE


def test_a_redirect_is_not_followed(fs: OSSFileSystem, server: OSSServer, bucket: str) -> None:
    with fault_server() as elsewhere:
        server.set(redirect=elsewhere.options["endpoint_url"])
        for action in (fs.cat_file, fs.info, fs.ls):
            with pytest.raises(OSError, match="redirects elsewhere"):
                action(f"{bucket}/x")
        with pytest.raises(OSError, match="redirects elsewhere"):
            fs.pipe_file(f"{bucket}/x", b"1")
        assert elsewhere.requests == []


def test_hosts_that_are_refused(server: OSSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAI_ALLOWED_HOSTS")
    with pytest.raises(SetupError, match=r"127\.0\.0\.1"):
        open_oss(server.options)
    fs = OSSFileSystem(endpoint="http://169.254.169.254", key=KEY_ID, secret=SECRET)
    with pytest.raises(SetupError, match="metadata"):
        fs.ls("bucket")


def test_the_users_own_endpoint(
    server: OSSServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trusted as it is; and plain fsspec finds endpoint and keys, too."""
    monkeypatch.delenv("PAI_ALLOWED_HOSTS")
    monkeypatch.setenv("OSS_ENDPOINT", server.url)
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", SECRET)
    open_oss({}).pipe_file(f"{bucket}/x", b"1")
    assert OSSFileSystem().cat_file(f"{bucket}/x") == b"1"
    monkeypatch.setenv("OSS_ENDPOINT", "oss-cn-hangzhou.aliyuncs.com/")
    assert open_oss({}).client("b/k").endpoint == "https://oss-cn-hangzhou.aliyuncs.com"


def test_checks_of_a_location(server: OSSServer, bucket: str) -> None:
    fs = filesystem("oss", server.options)
    with server.counted() as counts:
        check_directory(fs, f"oss://{bucket}/dir/")
    assert counts == {"GET": 1}
    with pytest.raises(SetupError, match="there is no bucket `no-such-bucket`"):
        check_directory(fs, "oss://no-such-bucket/dir/")
    denied = filesystem("oss", {**server.options, "access_key_secret": "another-secret"})
    with pytest.raises(SetupError, match="access denied"):
        check_directory(denied, f"oss://{bucket}/dir/")


# ====== Secrets, threads, forks ======


def test_secrets_are_not_shown(server: OSSServer) -> None:
    made = [
        OSSFileSystem(endpoint=server.url, key=KEY_ID, secret=SECRET, token="a-security-token"),
        OSSFileSystem(server.url, KEY_ID, SECRET, "a-security-token"),
        open_oss(server.options),
    ]
    for fs in made:
        shown = [repr(fs), fs.to_json(), str(fs.to_dict()), str(fs.storage_options)]
        shown += [str(fs.storage_args), repr(fs.client("b/k")), fs._fs_token]
        for secret in (KEY_ID, SECRET, "a-security-token"):
            assert not any(secret in text for text in shown)
        assert json.loads(fs.to_json())["protocol"] == "oss"
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(fs)
    assert OSSFileSystem._cache == {}


def test_threads(fs: OSSFileSystem, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/x", content(10 * KB))

    def read(seed: int) -> bool:
        start = random.Random(seed).randrange(9 * KB)
        return fs.cat_file(f"{bucket}/x", start, start + KB) == content(10 * KB)[start:][:KB]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(80)))


def test_a_forked_child_makes_connections_of_its_own(fs: OSSFileSystem, bucket: str) -> None:
    with fs.open(f"{bucket}/x", "wb", block_size=BLOCK) as stream:
        stream.write(content(3 * BLOCK))
    child = fork()
    if child == 0:
        try:
            with fs.open(f"{bucket}/child", "wb", block_size=BLOCK) as stream:
                stream.write(fs.cat_file(f"{bucket}/x"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert fs.cat_file(f"{bucket}/child") == content(3 * BLOCK)


def test_writes_at_the_end_of_the_process(server: OSSServer, bucket: str) -> None:
    """Then no thread can be started: the parts are sent one after the other."""
    import subprocess
    import sys

    program = (
        "import atexit, sys\n"
        "from pai_runner.storage.oss import OSSFileSystem\n"
        f"fs = OSSFileSystem(endpoint='{server.url}', key='{KEY_ID}', secret='{SECRET}')\n"
        "def write():\n"
        f"    with fs.open('{bucket}/x', 'wb', block_size=1) as stream:\n"
        f"        stream.write(bytes({5 * BLOCK}))\n"
        "atexit.register(write)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert server.keys(bucket) == {"x": 5 * BLOCK}
