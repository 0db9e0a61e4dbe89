"""Credentials that a service hands out, and what is said where there are none."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import metadata_world
import pytest
from credential_doubles import ROLE, STS, error_of
from sts_app import Tokens, served
from support import ROOT

from pai_runner.storage.credentials import credential_source


def test_an_address_that_hands_out_credentials(environment: dict[str, str]) -> None:
    answers = [{"Code": "Success", **Tokens().issue(ROLE, "s", None, 3600)}]

    def application(environment: dict[str, Any], start_response: Any) -> list[bytes]:
        content = json.dumps(answers[-1]).encode()
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]

    with served(application) as url:
        set_there = {**environment, "ALIBABA_CLOUD_CREDENTIALS_URI": f"{url}/here"}
        made = credential_source({}, set_there).get()
        assert made.access_key_id == answers[0]["AccessKeyId"]
        assert made.expires is not None
        assert abs(made.expires - time.time() - 3600) < 10
        answers.append({"Code": "Denied", "AccessKeySecret": "not-to-be-shown"})
        error = error_of(credential_source({}, set_there))
    assert error.message.startswith("ALIBABA_CLOUD_CREDENTIALS_URI: no credentials could be had")
    assert "not-to-be-shown" not in error.message
    error = error_of(credential_source({}, set_there))
    assert error.message.endswith("Connection refused")


def test_an_identity_provider(environment: dict[str, str], sts: STS, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("oidc")
    set_there = {
        **environment,
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(token),
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1234567890123456:oidc-provider/k8s",
        "ALIBABA_CLOUD_ROLE_ARN": ROLE,
        "PAI_STS_ENDPOINT": sts.url,
    }
    source = credential_source({}, set_there)
    assert source.get().access_key_id.startswith("STS.")
    assert sts.tokens.calls[-1].action == "AssumeRoleWithOIDC"
    token.write_text("not-the-oidc-token")
    error = error_of(credential_source({}, set_there))
    assert error.message.startswith("ALIBABA_CLOUD_OIDC_TOKEN_FILE: no credentials could be had")
    assert "AuthenticationFail.OIDCToken.Invalid" in error.message
    assert "not-the-oidc-token" not in error.message


METADATA = """
import json, sys, threading, time
sys.path.insert(0, "tests/servers")
from werkzeug.serving import make_server
from sts_app import Tokens
from pai_runner.storage.credentials import credential_source

tokens = Tokens()
def application(environment, start_response):
    path = environment["PATH_INFO"]
    if path == "/latest/api/token":
        text = "metadata-token"
    elif environment.get("HTTP_X_ALIYUN_ECS_METADATA_TOKEN") != "metadata-token":
        start_response("403 Forbidden", [])
        return [b""]
    elif path.endswith("security-credentials/"):
        text = "instance-role"
    else:
        assert path.endswith("/instance-role"), path
        text = json.dumps({"Code": "Success", **tokens.issue("r", "s", None, 3600)})
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]

server = make_server("100.100.100.200", 80, application, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
source = credential_source({}, {"HOME": "/nowhere"})
made = source.get()
assert made.access_key_id.startswith("STS.") and made.security_token
assert 3500 < made.expires - time.time() < 3700
print(source.description)
"""


@pytest.mark.slow
@pytest.mark.skipif(not metadata_world.available(), reason="needs a network namespace")
def test_the_role_of_an_ecs_instance(environment: dict[str, str]) -> None:
    done = metadata_world.run_there(METADATA, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("access key STS.…")
    assert done.stdout.endswith("from the role of the ECS instance\n")


# A full queue drops what asks to connect, as networks do that have no such address.
SILENCE = """
import socket, time
from pai_runner.errors import SetupError
from pai_runner.storage.alibaba import import_library
from pai_runner.storage.credentials import credential_source

listener = socket.socket()
listener.bind(("100.100.100.200", 80))
listener.listen(0)
full = [socket.socket() for _ in range(4)]
for one in full:
    one.setblocking(False)
    one.connect_ex(("100.100.100.200", 80))
import_library()
began = time.monotonic()
try:
    credential_source({}, {"HOME": "/nowhere"}).get()
except SetupError as error:
    print(error.message)
assert time.monotonic() - began < 2
"""


@pytest.mark.slow
@pytest.mark.skipif(not metadata_world.available(), reason="needs a network namespace")
def test_a_machine_that_is_no_ecs_instance_does_not_stall() -> None:
    done = metadata_world.run_there(SILENCE, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "the role of the ECS instance (Connection to 100.100.100.200 timed out)" in done.stdout


def test_no_credentials_at_all(environment: dict[str, str]) -> None:
    """Every place is named, in order."""
    source = credential_source({}, environment)
    error = error_of(source)
    home = environment["HOME"]
    assert error.message == (
        "no credentials for OSS; looked in OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET (not set); "
        "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET (not set); "
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE (ALIBABA_CLOUD_OIDC_TOKEN_FILE, ALIBABA_CLOUD_ROLE_ARN, "
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN not set); "
        f"{home}/.aliyun/config.json (no such file); "
        f"{home}/.alibabacloud/credentials.ini (no such file); the role of the ECS instance "
        "(switched off by ALIBABA_CLOUD_ECS_METADATA_DISABLED); "
        "ALIBABA_CLOUD_CREDENTIALS_URI (not set)"
    )
    assert error.hint == (
        "set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, or run `aliyun configure`"
    )
    assert source.description == "your own credentials"


def test_the_metadata_service_is_not_asked_through_a_proxy(
    environment: dict[str, str], sts: STS
) -> None:
    """The proxy might stand on an ECS instance, and answer with that one's role."""
    del environment["ALIBABA_CLOUD_ECS_METADATA_DISABLED"]
    error = error_of(credential_source({}, {**environment, "http_proxy": sts.url}))
    assert "the role of the ECS instance (not asked, because HTTP_PROXY is set)" in error.message
