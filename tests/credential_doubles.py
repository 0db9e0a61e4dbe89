"""What the tests of credentials share: a user, the settings files, and STS's double."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sts_app import Tokens, served, sts_application

from pai_runner.errors import ExitCode, SetupError
from pai_runner.secret import redact
from pai_runner.storage.credentials import Credentials, CredentialSource, credential_source

KEY_ID, SECRET = "LTAI5tBaseKeyIdentifier7", "base-secret-of-the-user"
KEYS = {"OSS_ACCESS_KEY_ID": KEY_ID, "OSS_ACCESS_KEY_SECRET": SECRET}
ROLE = "acs:ram::1234567890123456:role/pai"
SHOWN_ROLE = "acs:ram::***:role/pai"
REFUSED, MISSING = f"{ROLE}-refused", f"{ROLE}-missing"


def user_without_settings(home: Path) -> dict[str, str]:
    """Return the environment of a user on a machine that is no ECS instance."""
    return {"HOME": str(home), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}


def cli_file(environment: dict[str, str], text: str) -> Path:
    path = Path(environment["HOME"]) / ".aliyun" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def ini_file(environment: dict[str, str], text: str) -> Path:
    path = Path(environment["HOME"]) / ".alibabacloud" / "credentials.ini"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def profiles(*made: dict[str, str], current: str = "default") -> str:
    return json.dumps({"current": current, "profiles": made})


AK = {
    "name": "default",
    "mode": "AK",
    "access_key_id": "LTAI-of-the-cli-file",
    "access_key_secret": "cli-secret",
}
TOKEN = {**AK, "name": "other", "mode": "StsToken", "sts_token": "cli-token"}


@dataclass
class STS:
    """STS's double. While `gate` is not set, requests wait; with `broken` it answers 503."""

    tokens: Tokens = field(default_factory=Tokens)
    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    broken: bool = False
    url: str = ""

    def environment(self) -> dict[str, str]:
        return {**KEYS, "PAI_STS_ENDPOINT": self.url}

    def source(self, **options: str) -> CredentialSource:
        return credential_source({"role_arn": ROLE, **options}, self.environment())


@contextmanager
def sts_double() -> Iterator[STS]:
    """Serve STS on a thread of this process."""
    made = STS()
    made.gate.set()
    answer = sts_application(
        made.tokens, {KEY_ID: SECRET}, refused={REFUSED}, missing={MISSING}, oidc_tokens={"oidc"}
    )

    def application(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        made.waiting.release()
        made.gate.wait(30)
        if made.broken:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return answer(environment, start_response)

    with served(application) as made.url:
        yield made


def error_of(source: CredentialSource) -> SetupError:
    """Return the error of `source.get()`, which shows nothing secret."""
    with pytest.raises(SetupError) as caught:
        source.get()
    error = caught.value
    assert error.exit_code == ExitCode.SETUP
    assert error.hint
    shown = f"{error.message} {error.hint}"
    assert redact(shown) == shown
    for secret in (KEY_ID, SECRET, "1234567890123456", "Signature="):
        assert secret not in shown
    return error


def values(credentials: Credentials) -> tuple[str, str, str | None]:
    return (
        credentials.access_key_id,
        credentials.access_key_secret,
        credentials.security_token,
    )
