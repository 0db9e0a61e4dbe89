import json
import pickle
from urllib.parse import quote

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
        (r"oss://b\x01id=AKIDAKID\x02key=KEYKEY\x02host=h/d", ["AKIDAKID", "KEYKEY"]),
        (r"\"oss://b\\x01host=h\\x02id=AKIDAKID\\x02key=KEYKEY\"", ["AKIDAKID", "KEYKEY"]),
        ("x=oss://bx01id=AKIDAKIDx02key=KEYKEYx02host=h/d", ["AKIDAKID", "KEYKEY"]),
        ("https://b.s3/k?X-Amz-Security-Token=TOKTOK&X-Amz-Signature=SIGSIG", ["TOKTOK", "SIGSIG"]),
        ('sqlflow_access_key_secret="SKSKSK"', ["SKSKSK"]),
        ("{'aws_secret_access_key': 'SKSKSK', 'x': 1}", ["SKSKSK"]),
        ("acs:ram::1234567890:role/odps", ["1234567890"]),
        ("RoleArn=acs%3Aram%3A%3A1234567890%3Arole%2Fodps", ["1234567890"]),
        ("acs:ram::1234567890:assumed-role/odps/pai-1", ["1234567890"]),
        ("--token=TOKTOK --rate=1 --pwd PWDPWD", ["TOKTOK", "PWDPWD"]),
        ("postgres://user:PWDPWD@host/db", ["PWDPWD"]),
    ],
)
def test_a_value_under_a_secret_name_is_masked(text: str, hidden: list[str]) -> None:
    shown = redact(text)
    assert "***" in shown
    for value in hidden:
        assert value not in shown


SIGNATURE_V1 = "aGVsbG8gd29ybGQhIGhlbGxvI/+="
SIGNATURE_V4 = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # Headers: of oss2 as a dict, of botocore with bytes, as lines, as pairs.
        ("{'authorization': 'OSS LTAIkeyid:%s', 'n': 1}", "{'authorization': 'OSS ***', 'n': 1}"),
        ("{'x-oss-security-token': 'CAISto/k+n='}", "{'x-oss-security-token': '***'}"),
        ("{'X-Amz-Security-Token': b'FwoGto/k+n='}", "{'X-Amz-Security-Token': b'***'}"),
        ("x-amz-date:20260101\nx-amz-security-token:FwoGZ\n", None),
        ("Authorization: OSS LTAIkeyid:%s\nDate: today", "Authorization: OSS ***\nDate: today"),
        ("(b'X-Amz-Security-Token', b'FwoGZto/k=='), 1", "(b'X-Amz-Security-Token', b'***'), 1"),
        ("Authorization: Bearer eyJhbGciOi.J9-x_y", "Authorization: Bearer ***"),
        # Signatures of version 4.
        (
            "OSS4-HMAC-SHA256 Credential=LTAI/20260101/cn/oss/aliyun_v4_request, Signature=#",
            "OSS4-HMAC-SHA256 Credential=***, Signature=***",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu/s3/aws4_request, "
            "SignedHeaders=host;x-amz-date, Signature=#",
            "AWS4-HMAC-SHA256 Credential=***, SignedHeaders=host;x-amz-date, Signature=***",
        ),
        ("Signature:\n#", "Signature:\n***"),
        # URLs.
        ("/k?OSSAccessKeyId=LTAIkeyid&Expires=1&Signature=a%2Bb%3D", None),
        ("/?AccessKeyId=LTAI&SecurityToken=CAIS%2F&Action=AssumeRole", None),
        ("/k?x-oss-credential=LTAI%2F20260101&x-oss-date=1&x-oss-signature=#", None),
        # Answers.
        ('{"AccessKeySecret": "3dyq", "Expiration": "2026"}', None),
        (r"b'{\"SecurityToken\": \"CAISxy\", \"Code\": 1}'", None),
        ("<Code>Denied</Code><OSSAccessKeyId>LTAIkeyid</OSSAccessKeyId>", None),
        ("<SignatureProvided>%s</SignatureProvided>", "<SignatureProvided>***</SignatureProvided>"),
    ],
)
def test_what_libraries_print_of_a_request(text: str, shown: str | None) -> None:
    text = text.replace("%s", SIGNATURE_V1).replace("#", SIGNATURE_V4)
    clean = redact(text)
    assert "***" in clean
    for hidden in ("LTAI", "AKIA", "CAIS", "FwoG", "3dyq", "eyJ", SIGNATURE_V1, SIGNATURE_V4):
        assert hidden not in clean
    for kept in ("x-amz-date:20260101", "Expires=1", "Action=AssumeRole", "x-oss-date=1"):
        assert (kept in clean) == (kept in text)
    if shown is not None:
        assert clean == shown


def test_a_known_value_is_masked_in_a_url() -> None:
    Secret("K7/known+two=")
    assert redact("https://h/?t=K7%2Fknown%2Btwo%3D") == "https://h/?t=***"


@pytest.mark.parametrize(
    "text",
    [
        "s3://b/dir/?region=cn-north-1&host=h.com",
        "the key: value store has id=7",
        "tokens per second: 512",
        "signature: serving_default",
        "signature=tensorflow_serving_predict_with_a_long_name",
        "Credential=none, Authorization: required",
        "the access key is missing, the security token too",
        "OSS mounted: /mnt/data; AWS region:eu-west-1",
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


def test_a_known_secret_is_masked_however_often_it_is_quoted() -> None:
    token = "CAIS+abc/def=="
    Secret(token)
    once = quote(token, safe="")
    for shown in (token, quote(token), once, once.lower(), quote(once, safe="")):
        assert redact(f"a {shown} b") == "a *** b"


def test_a_folder_is_no_location_of_tensorflow_io() -> None:
    assert redact("oss://b/runs/max01key=5/x") == "oss://b/runs/max01key=5/x"
