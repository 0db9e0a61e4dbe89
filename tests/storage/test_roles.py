"""Roles, assumed by real requests to STS's double, and what a refusal tells the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from credential_doubles import (
    KEY_ID,
    KEYS,
    MISSING,
    REFUSED,
    ROLE,
    SHOWN_ROLE,
    STS,
    error_of,
)
from support import ROOT

from pai_runner.errors import ExitCode, PaiError, SetupError
from pai_runner.storage.credentials import credential_source

OWN_KEYS = "with --role ignore (or PAI_ROLE=ignore) your own keys are used instead"


def test_a_role_is_assumed_for_the_buckets_of_the_job(sts: STS) -> None:
    source = sts.source(role_session="pai-20260101-a1b2", role_buckets="one, two,one")
    assert not sts.tokens.calls  # before the first get
    made = source.get()
    assert sts.tokens.state(made.access_key_id, made.security_token) == "valid"
    assert sts.tokens.secret_of(made.access_key_id) == made.access_key_secret
    assert source.description == (
        f"{SHOWN_ROLE}, assumed by access key LTAI…ier7 from OSS_ACCESS_KEY_ID"
    )
    call = sts.tokens.calls[0]
    assert (call.caller, call.role_arn, call.session_name) == (KEY_ID, ROLE, "pai-20260101-a1b2")
    assert json.loads(call.policy or "") == {
        "Version": "1",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "oss:*",
                "Resource": [
                    "acs:oss:*:*:one",
                    "acs:oss:*:*:one/*",
                    "acs:oss:*:*:two",
                    "acs:oss:*:*:two/*",
                ],
            }
        ],
    }
    for bucket, allowed in (("one", True), ("two", True), ("three", False)):
        assert sts.tokens.allows(made.access_key_id, bucket) is allowed


@pytest.mark.parametrize(
    ("given", "sent"),
    [("", f"pai-{os.getpid()}"), ("pai-a b/ü", "pai-a-b--"), ("x" * 70, "x" * 64), ("x", "x-")],
)
def test_session_names_are_as_sts_wants_them(sts: STS, given: str, sent: str) -> None:
    sts.source(role_session=given).get()
    assert sts.tokens.calls[0].session_name == sent
    assert sts.tokens.calls[0].policy is None


def test_too_many_buckets_for_a_policy(sts: STS) -> None:
    with pytest.raises(SetupError) as caught:
        sts.source(role_buckets=",".join(f"a-bucket-with-a-name-{n}" for n in range(40)))
    assert "for 40 buckets has 2" not in caught.value.message
    assert caught.value.message.startswith("the role's session policy for 40 buckets has ")
    assert caught.value.message.endswith(" characters, and STS takes 2048")


@pytest.mark.parametrize("role", ["pai", "acs:ram::1234567890123456:role/", "acs:ram::x:role/a b"])
def test_what_is_no_role(sts: STS, role: str) -> None:
    with pytest.raises(PaiError) as caught:
        sts.source(role_arn=role)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "is not a role" in caught.value.message
    assert "1234567890123456" not in caught.value.message


@pytest.mark.parametrize(
    ("options", "code", "message", "wrong"),
    [
        (
            {"role_arn": REFUSED},
            "NoPermission",
            "You are not authorized to do this action.",
            "the role's name and trust",
        ),
        (
            {"role_arn": MISSING},
            "EntityNotExist.Role",
            "The role not exists.",
            "the role's name and trust",
        ),
        (
            {"access_key_id": "LTAI5tUnknownUnknown", "access_key_secret": "x"},
            "InvalidAccessKeyId.NotFound",
            "Specified access key is not found.",
            "the access key",
        ),
        (
            {"access_key_id": KEY_ID, "access_key_secret": "wrong"},
            "SignatureDoesNotMatch",
            "Specified signature is not matched with our calculation.",
            "the access key",
        ),
    ],
)
def test_a_refusal_of_sts(
    sts: STS, options: dict[str, str], code: str, message: str, wrong: str
) -> None:
    source = sts.source(**options)
    error = error_of(source)
    role = options.get("role_arn", ROLE).replace("1234567890123456", "***")
    caller = source.description.partition("assumed by ")[2]
    assert error.message.startswith(f"{role}: STS refuses the role to {caller} ({code}; {message}")
    assert error.hint == f"check {wrong}; {OWN_KEYS}"


def test_sts_is_out_of_reach(sts: STS) -> None:
    sts.broken = True
    error = error_of(sts.source())
    assert error.message.startswith(f"{SHOWN_ROLE}: STS does not answer (")
    assert "503" in error.message
    error = error_of(
        credential_source({"role_arn": ROLE}, {**KEYS, "PAI_STS_ENDPOINT": "http://127.0.0.1:1"})
    )
    assert error.message == (
        f"{SHOWN_ROLE}: STS does not answer ([Errno 111] Connection refused), "
        "so the role cannot be assumed"
    )
    assert error.hint == f"check the network, or PAI_STS_ENDPOINT where it is set; {OWN_KEYS}"


def test_a_role_without_credentials_to_assume_it_with(environment: dict[str, str]) -> None:
    error = error_of(credential_source({"role_arn": ROLE}, environment))
    assert error.message.startswith("no credentials for OSS; looked in ")


def test_the_library_prints_nothing(sts: STS) -> None:
    """Left alone it prints tracebacks with the signed URL, on a handler of its own."""
    program = (
        "from pai_runner.storage.credentials import credential_source\n"
        f"source = credential_source({{'role_arn': {REFUSED!r}}}, {sts.environment()!r})\n"
        "try:\n    source.get()\nexcept Exception as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("SetupError\n", "")
