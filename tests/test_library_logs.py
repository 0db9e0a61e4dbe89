"""What libraries log at DEBUG, with real requests: nothing secret is in what is printed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto_server import S3Server
from oss_server import OSSServer, oss_server
from support import ROOT

from pai_runner.library_logs import redact_library_logs
from pai_runner.secret import remember

# Every request is made with its own secrets, and none of them is made known to `redact`: what
# hides them is the form in which the libraries print them.
SCRIPT = """
import json, logging, sys
settings = json.load(sys.stdin)
if settings["redact"]:
    from pai_runner.library_logs import redact_library_logs
    redact_library_logs()
    redact_library_logs()
logging.basicConfig(level=logging.DEBUG)

def sts(url, secret):
    from alibabacloud_credentials.provider import RamRoleArnCredentialsProvider
    made = RamRoleArnCredentialsProvider(
        access_key_id=settings["id"], access_key_secret=secret, sts_endpoint=url,
        role_arn="acs:ram::1234567890123456:role/pai", role_session_name="pai-1",
    ).get_credentials()
    return made.get_access_key_id(), made.get_access_key_secret(), made.get_security_token()

class Given:
    def __init__(self, values): self.values = values
    def get_credentials(self):
        import oss2
        return oss2.credentials.Credentials(*self.values)

def with_oss2(session):
    import oss2
    for auth in (oss2.StsAuth(*session), oss2.ProviderAuthV4(Given(session))):
        bucket = oss2.Bucket(auth, settings["oss"], "logs", region="cn-hangzhou")
        bucket.put_object("key", b"content")
        bucket.get_object("key").read()
        logging.getLogger("oss2").debug(bucket.sign_url("GET", "key", 60))
        try:
            bucket.get_object("missing")
        except oss2.exceptions.NoSuchKey as error:
            logging.getLogger("oss2").exception(error)

def with_s3fs():
    import s3fs
    fs = s3fs.S3FileSystem(
        endpoint_url=settings["s3"], key=settings["s3_id"], secret=settings["s3_secret"],
        token=settings["s3_token"], skip_instance_cache=True,
        client_kwargs={"region_name": "us-east-1"},
    )
    fs.pipe_file("logs/key", b"content")
    fs.ls("logs")
    logging.getLogger("botocore").info(fs.sign("logs/key"))

session = sts(settings["sts"], settings["secret"])
with_oss2(session)
with_s3fs()
for url, secret in ((settings["sts"], "not-the-secret-value"), ("http://127.0.0.1:1", "any")):
    try:
        sts(url, secret)
    except Exception:
        pass
json.dump(session, open(settings["out"], "w"))
"""


@pytest.fixture
def oss(tmp_path: Path) -> Iterator[OSSServer]:
    with oss_server(tmp_path / "requests") as server:
        server.make_bucket("logs")
        yield server


def logged(oss: OSSServer, s3: S3Server, folder: Path, redact: bool) -> tuple[str, dict[str, str]]:
    """Return all that the script printed, and the secrets that must not be in it."""
    secrets = {
        "id": oss.options["access_key_id"],
        "secret": oss.options["access_key_secret"],
        "s3_id": "AKIAIOSFODNN7EXAMPLE",
        "s3_secret": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "s3_token": "FwoGZXIvYXdzEBYaD" + "a/+9" * 30 + "==",
    }
    out = folder / f"session-{redact}"
    places = {"oss": oss.url, "sts": oss.sts_url, "s3": s3.url, "out": str(out), "redact": redact}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps({**secrets, **places}),
        env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = ("session_id", "session_secret", "session_token")
    session = zip(names, json.loads(out.read_text()), strict=True)
    return done.stdout + done.stderr, {**secrets, **dict(session)}


@pytest.mark.slow
def test_nothing_secret_is_logged_by_real_requests(
    oss: OSSServer, s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.make_bucket("logs")
    bare, secrets = logged(oss, s3_server, tmp_path, redact=False)
    shown = {name for name, value in secrets.items() if value in bare}
    assert shown >= {"id", "s3_id", "s3_token", "session_id", "session_token"}

    clean, secrets = logged(oss, s3_server, tmp_path, redact=True)
    for logger in ("oss2.http", "botocore.auth", "credentials", "urllib3.connectionpool"):
        assert f":{logger}:" in clean  # they did log
    assert "Refresh credentials failed" in clean
    for name, value in secrets.items():
        assert value not in clean, name


@pytest.fixture
def records() -> Iterator[None]:
    """The record factory, set back afterwards."""
    before = logging.getLogRecordFactory()
    redact_library_logs()
    yield
    logging.setLogRecordFactory(before)


@pytest.mark.usefixtures("records")
def test_an_exception_of_a_library_is_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "oss2")  # ossfs has it say nothing
    try:
        raise ValueError("https://b/k?Signature=abcdefgh&x=1")
    except ValueError:
        logging.getLogger("oss2.api").exception("failed: %s", "?Signature=abcdefgh")
    assert "failed: ?Signature=***" in caplog.text
    assert "ValueError: https://b/k?Signature=***&x=1" in caplog.text
    assert "abcdefgh" not in caplog.text


@pytest.mark.usefixtures("records")
def test_arguments_that_do_not_fit_are_cleaned() -> None:
    record = logging.getLogger("urllib3").makeRecord(
        "urllib3", logging.INFO, "f", 1, "%d", ("?Signature=abcdefgh",), None
    )
    assert "abcdefgh" not in record.getMessage()


@pytest.mark.usefixtures("records")
def test_other_loggers_lose_known_secrets_alone(caplog: pytest.LogCaptureFixture) -> None:
    remember("a-secret-that-is-known")
    log = logging.getLogger("train")
    log.warning("password=%s", "hunter2")
    log.warning("value %s", "a-secret-that-is-known")
    try:
        raise KeyError("a-secret-that-is-known")
    except KeyError:
        log.exception("raised")
    assert caplog.records[0].args == ("hunter2",)
    assert "value ***" in caplog.text
    assert "a-secret-that-is-known" not in caplog.text


def test_a_second_call_changes_nothing(records: None) -> None:
    factory = logging.getLogRecordFactory()
    redact_library_logs()
    assert logging.getLogRecordFactory() is factory


def test_an_argument_that_cannot_be_printed_is_loggings_own_matter() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no text")

    redact_library_logs()
    broken = Broken()
    record = logging.getLogger("oss2.x").makeRecord("oss2.x", 30, "f", 1, "%s", (broken,), None)
    assert record.args == (broken,)
