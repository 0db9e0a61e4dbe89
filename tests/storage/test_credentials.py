"""Credentials of the location, of variables and of settings files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from credential_doubles import (
    AK,
    KEY_ID,
    KEYS,
    SECRET,
    TOKEN,
    cli_file,
    error_of,
    ini_file,
    profiles,
    values,
)

from pai_runner.errors import SetupError
from pai_runner.secret import redact
from pai_runner.storage.credentials import Credentials, credential_source

INI = """
[default]
type = access_key
access_key_id = LTAI-of-the-ini-file
access_key_secret = ini-secret
"""


def test_credentials_show_nothing_of_themselves() -> None:
    made = Credentials("LTAIshown-not-at-all", "a-secret-of-credentials", "a-token-of-credentials")
    for shown in (repr(made), str(made), f"{made}", redact(f"{values(made)}")):
        assert "LTAI" not in shown
        assert "of-credentials" not in shown
    assert made.shown_id == "LTAI…-all"
    assert Credentials("short", "s").shown_id == "***"
    with pytest.raises(TypeError):
        pickle.dumps(made)


# ====== Keys that are given ======


def test_the_location_comes_first(environment: dict[str, str]) -> None:
    options = {"access_key_id": "LTAI-of-the-location", "access_key_secret": "s1"}
    source = credential_source(options, {**environment, **KEYS})
    assert values(source.get()) == ("LTAI-of-the-location", "s1", None)
    assert source.description == "access key LTAI…tion from the location"
    assert not source.renew()
    source = credential_source({**options, "security_token": "t1"}, environment)
    assert source.get().security_token == "t1"


def test_the_variables_of_oss_come_before_alibabas(environment: dict[str, str]) -> None:
    alibaba = {
        "ALIBABA_CLOUD_ACCESS_KEY_ID": "LTAI-alibaba",
        "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "s",
    }
    source = credential_source({}, {**environment, **alibaba, **KEYS})
    assert values(source.get()) == (KEY_ID, SECRET, None)
    assert source.description == "access key LTAI…ier7 from OSS_ACCESS_KEY_ID"
    assert not source.renew()
    token = {"ALIBABA_CLOUD_SECURITY_TOKEN": "t"}
    source = credential_source({}, {**environment, **alibaba, **token})
    assert values(source.get()) == ("LTAI-alibaba", "s", "t")
    assert "from ALIBABA_CLOUD_ACCESS_KEY_ID" in source.description


@pytest.mark.parametrize("name", ["OSS_SESSION_TOKEN", "OSS_SECURITY_TOKEN"])
def test_a_session_token_of_oss(environment: dict[str, str], name: str) -> None:
    assert credential_source({}, {**environment, **KEYS, name: "t"}).get().security_token == "t"


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ({"access_key_id": "i"}, {}, "access_key_secret is missing beside access_key_id"),
        ({"access_key_secret": "s"}, {}, "access_key_id is missing beside access_key_secret"),
        ({"security_token": "t"}, {}, "access_key_id is missing beside security_token"),
        (
            {},
            {"OSS_ACCESS_KEY_ID": "i", "OSS_ACCESS_KEY_SECRET": ""},
            "OSS_ACCESS_KEY_SECRET is missing beside OSS_ACCESS_KEY_ID",
        ),
        (
            {},
            {"ALIBABA_CLOUD_ACCESS_KEY_SECRET": "s"},
            "ALIBABA_CLOUD_ACCESS_KEY_ID is missing beside ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        ),
    ],
)
def test_half_a_pair_is_an_error(
    environment: dict[str, str], options: dict[str, str], variables: dict[str, str], message: str
) -> None:
    with pytest.raises(SetupError) as caught:
        credential_source(options, {**environment, **variables})
    assert caught.value.message == message


# ====== Settings files ======


def test_the_file_of_the_command_aliyun(environment: dict[str, str]) -> None:
    path = cli_file(environment, profiles(AK, TOKEN))
    ini_file(environment, INI)
    source = credential_source({}, environment)
    assert values(source.get()) == ("LTAI-of-the-cli-file", "cli-secret", None)
    assert source.description == f"access key LTAI…file from {path}"
    assert not source.renew()
    source = credential_source({}, {**environment, "ALIBABA_CLOUD_PROFILE": "other"})
    assert source.get().security_token == "cli-token"
    cli_file(environment, profiles({**TOKEN, "sts_token": "newer-token"}, current="other"))
    assert source.get().security_token == "cli-token"
    assert source.renew()
    assert source.get().security_token == "newer-token"


def test_the_ini_file(environment: dict[str, str], tmp_path: Path) -> None:
    path = ini_file(environment, INI)
    cli_file(environment, profiles(TOKEN, current="default"))  # which has no such profile
    assert credential_source({}, environment).get().access_key_id == "LTAI-of-the-ini-file"
    moved = path.rename(tmp_path / "elsewhere")
    named = {**environment, "ALIBABA_CLOUD_CREDENTIALS_FILE": str(moved)}
    assert credential_source({}, named).get().access_key_secret == "ini-secret"


def test_the_file_of_the_command_can_be_switched_off(environment: dict[str, str]) -> None:
    cli_file(environment, profiles(AK))
    ini_file(environment, INI)
    off = {**environment, "ALIBABA_CLOUD_CLI_PROFILE_DISABLED": "true"}
    assert credential_source({}, off).get().access_key_id == "LTAI-of-the-ini-file"


@pytest.mark.parametrize(
    "text",
    ['{"access_key_secret": "cli-secret",', "[]", '{"profiles": 7}', '{"profiles": [{}]}', "\xff"],
)
def test_a_broken_cli_file_is_an_error(environment: dict[str, str], text: str) -> None:
    path = cli_file(environment, "")
    path.write_bytes(text.encode("latin-1"))
    ini_file(environment, INI)
    error = error_of(credential_source({}, environment))
    assert error.message.startswith(f"{path}: cannot be read as a file of credentials (")
    assert "cli-secret" not in error.message


@pytest.mark.parametrize("text", ["access_key_id = LTAI", "[default]\n[default]\n", "[x]\nsecret"])
def test_a_broken_ini_file_is_an_error(environment: dict[str, str], text: str) -> None:
    path = ini_file(environment, text)
    error = error_of(credential_source({}, environment))
    assert error.message.startswith(f"{path}: cannot be read as a file of credentials (")
    assert "LTAI" not in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize("change", [{"mode": "Unheard"}, {"access_key_id": ""}])
def test_a_profile_that_does_not_work_is_an_error(
    environment: dict[str, str], change: dict[str, str]
) -> None:
    path = cli_file(environment, profiles({**AK, **change}))
    ini_file(environment, INI)
    error = error_of(credential_source({}, environment))
    assert error.message.startswith(f"{path}: no credentials could be had from it: ")
    assert "cli-secret" not in error.message
