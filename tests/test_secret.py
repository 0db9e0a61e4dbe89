import json
import pickle

import pytest

from pai_runner.secret import (
    Secret,
    holds_reference,
    is_secret_name,
    redact,
    reference,
    resolve,
)


def test_a_secret_shows_nothing_of_itself() -> None:
    secret = Secret("wJalrXUtnFEMI")
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret:>20}", repr([secret])):
        assert "wJalr" not in shown
    assert secret.reveal() == "wJalrXUtnFEMI"
    assert secret == Secret("wJalrXUtnFEMI")
    assert secret != Secret("other-value")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_known_value_is_masked_wherever_it_stands() -> None:
    Secret("k7/known+value")
    assert redact("PermissionError('k7/known+value')") == "PermissionError('***')"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("oss://b/?id=AKID&key=KEYKEY&host=h.com", ["AKID", "KEYKEY"]),
        ("oss://b\x01id=AKID\x02key=KEYKEY\x02host=h/d", ["AKID", "KEYKEY"]),
        ("https://b.s3/k?X-Amz-Security-Token=TOKTOK&X-Amz-Signature=SIGSIG", ["TOKTOK", "SIGSIG"]),
        ('sqlflow_access_key_secret="SKSKSK"', ["SKSKSK"]),
        ("{'aws_secret_access_key': 'SKSKSK', 'x': 1}", ["SKSKSK"]),
        ("acs:ram::1234567890:role/odps", ["1234567890"]),
        ("--token=TOKTOK --rate=1 --pwd PWDPWD", ["TOKTOK", "PWDPWD"]),
        ("postgres://user:PWDPWD@host/db", ["PWDPWD"]),
    ],
)
def test_a_value_under_a_secret_name_is_masked(text: str, hidden: list[str]) -> None:
    shown = redact(text)
    assert "***" in shown
    for value in hidden:
        assert value not in shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://b/dir/?region=cn-north-1&host=h.com",
        "the key: value store has id=7",
        "tokens per second: 512",
        "signature: serving_default",
        "Key 7 is missing",
        "--label_key=name --pad_token unk --max_tokens=5",
        "http://host:8080/user@example",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "api_key",
        "access_key_id",
        "oss_ak",
        "accessKeySecret",
        "security_token",
        "db_password",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["user_id", "keys", "max_tokens", "learning_rate", "host", "region"]
)
def test_ordinary_names(name: str) -> None:
    assert not is_secret_name(name)
    assert not is_secret_name(name, in_query=True)


def test_a_location_names_its_keys_more_shortly() -> None:
    assert is_secret_name("id", in_query=True)
    assert is_secret_name("key", in_query=True)
    assert not is_secret_name("id")
    assert not is_secret_name("key")


def test_references_are_resolved() -> None:
    text = f"--ak={reference('a.b')}"
    assert holds_reference(text)
    assert resolve(text, {"a.b": "VALUE"}) == "--ak=VALUE"
    assert not holds_reference("--ak=VALUE")
    with pytest.raises(KeyError):
        resolve(text, {})
