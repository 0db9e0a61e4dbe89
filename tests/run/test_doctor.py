"""`pai doctor` on this machine, and on one that lacks things."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from oss_server import REFUSED_ROLE
from support import Pai, Places

from pai_runner.entry import pai_command

pytestmark = pytest.mark.slow


@pytest.mark.tensorflow
def test_a_sound_machine_is_sound(pai: Pai, places: Places, tmp_path: Path) -> None:
    ran = pai("doctor", "--json", places.s3, places.local, str(tmp_path / "new"))
    found = {check["name"]: check for check in json.loads(ran.stdout)}
    assert ran.returncode == 0, ran.stdout
    assert "reads and writes through fsspec" in found["TensorFlow"]["detail"]
    assert found["compiled part"]["ok"]
    assert found["AWS credentials"]["detail"] == "from env"
    assert found[places.s3]["detail"] == "can be listed, written, read and deleted from"
    assert found[places.local]["ok"]
    assert found[str(tmp_path / "new")]["ok"]
    assert places.names("s3") == places.names("local") == set()
    assert "testing-secret-value" not in ran.stdout + ran.stderr


def test_modules_in_the_users_folder_are_not_taken_for_pythons_own(pai: Pai) -> None:
    for name in ("signal.py", "queue.py", "json.py"):
        (pai.folder / name).write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    ran = subprocess.run(
        pai_command("doctor"), cwd=pai.folder, env=pai.environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "reads and writes through fsspec" in ran.stdout


def test_keys_of_alibaba_are_looked_for(pai: Pai, places: Places, tmp_path: Path) -> None:
    ran = pai("doctor", places.folder("oss"))
    assert ran.returncode == 0, ran.stdout
    assert "ok  Alibaba credentials: from access key LTAI…" in ran.stdout
    assert "can be listed, written, read and deleted from" in ran.stdout
    nothing = {"OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": "", "HOME": str(tmp_path)}
    assert "--  Alibaba credentials: no credentials for OSS" in pai("doctor", **nothing).stdout
    refused = f"{places.oss}?host={places.oss_server.url}&role_arn={REFUSED_ROLE}"
    assert "STS refuses" in pai("doctor", refused).stdout
    assert pai("doctor", "--role", "ignore", refused).returncode == 0


def test_what_cannot_be_reached_is_told(pai: Pai, denying_endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    denied = f"s3://b/d/?endpoint_url={denying_endpoint}"
    ran = pai("doctor", denied, str(file / "below"), "nosuch://x/y")
    assert ran.returncode == 125
    assert "denied" in ran.stdout
    assert "nosuch" in ran.stdout
    assert ran.stdout.count("\nNO ") == 3
    assert "Traceback" not in ran.stderr
