"""What is prepared for the script's imports: remote file systems, in it and in its children."""

from __future__ import annotations

import importlib
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from moto_server import S3Server
from role_process import BOOTSTRAP, Result, RoleProcess

from pai_runner.script.imports import AfterImport

# ====== After an import ======


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages on sys.path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_action_runs_once_after_the_modules_own_code(packages: Path) -> None:
    (packages / "waited.py").write_text("STATE = ['executed']\n")
    seen: list[ModuleType] = []
    finder = AfterImport({"waited": lambda module: seen.append(module.STATE.append("acted"))})
    sys.meta_path.insert(0, finder)

    module = importlib.import_module("waited")

    assert module.STATE == ["executed", "acted"]
    assert len(seen) == 1
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert "exec_module" not in vars(module.__loader__)
    assert importlib.reload(module).STATE == ["executed", "acted"]


def test_threads_that_import_at_once_see_the_action_done(packages: Path) -> None:
    (packages / "slow.py").write_text("import time\ntime.sleep(0.05)\nREADY = False\n")
    finder = AfterImport({"slow": lambda module: setattr(module, "READY", True)})
    sys.meta_path.insert(0, finder)
    seen: list[bool] = []
    threads = [
        threading.Thread(target=lambda: seen.append(importlib.import_module("slow").READY))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4


def test_a_module_that_fails_is_not_acted_on(packages: Path) -> None:
    (packages / "failing.py").write_text("raise ValueError('no')\n")
    acted: list[ModuleType] = []
    sys.meta_path.insert(0, AfterImport({"failing": acted.append}))
    with pytest.raises(ValueError, match="no"):
        importlib.import_module("failing")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("absent")
    assert acted == []


# ====== Remote locations ======


def mount(prefix: str, **options: str) -> dict[str, Any]:
    protocol = prefix.partition("://")[0]
    return {
        "prefix": prefix,
        "protocol": protocol,
        "purpose": "buckets",
        "options": options,
        "mode": "stream",
    }


def run(folder: Path, text: str, *mounts: dict[str, Any], **fields: Any) -> Result:
    script = folder / "script.py"
    script.write_text(text)
    return RoleProcess(folder / "job", script, mounts=mounts, **fields).run(240)


def with_secrets(server: S3Server) -> tuple[dict[str, str], dict[str, str]]:
    """Return the options that reach the server, as a plan has them, and their secrets."""
    options = {**server.options, "key": "${secret:key}", "secret": "${secret:secret}"}
    return options, {name: server.options[name] for name in ("key", "secret")}


def test_a_location_that_cannot_be_used_stops_the_job_before_the_script(tmp_path: Path) -> None:
    result = run(tmp_path, "print('never')", mount("oss://bucket/dir/"))
    assert (result.code, result.out) == (125, "")
    assert result.err.startswith("pai: error: ")
    assert "Traceback" not in result.err
    assert result.error is not None
    assert result.error["kind"] == "setup"
    assert result.error["hint"]


def test_an_unknown_protocol_is_a_setup_error(tmp_path: Path) -> None:
    result = run(tmp_path, "print('never')", mount("s4://bucket/dir/"))
    assert (result.code, result.out) == (125, "")
    assert "s4://" in result.err


def test_a_missing_bucket_is_a_setup_error_without_its_secrets(
    tmp_path: Path, s3_server: S3Server, s3_location: str
) -> None:
    options, secrets = with_secrets(s3_server)
    result = run(
        tmp_path,
        "print('never')",
        mount(s3_location, **options),
        mount("s3://no-such-bucket/x/", **options),
        secrets=secrets,
    )
    assert (result.code, result.out) == (125, "")
    assert "no-such-bucket" in result.err
    for secret in secrets.values():
        assert secret not in result.err
        assert secret not in str(result.error)


def test_locations_are_checked_but_tensorflow_is_not_imported_for_them(
    tmp_path: Path, s3_server: S3Server, s3_location: str
) -> None:
    options, secrets = with_secrets(s3_server)
    text = "import sys\nprint('tensorflow' in sys.modules)\n"
    result = run(tmp_path, text, mount(s3_location, **options), secrets=secrets)
    assert result.out == "False\n", result.err


WRITE = """
import os, sys
import tensorflow as tf

def write(name):
    path = sys.argv[1] + name
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("written")
    with tf.io.gfile.GFile(path) as file:
        return file.read()
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_tensorflow_reaches_the_locations_and_uploads_are_heartbeats(
    tmp_path: Path, s3_server: S3Server, s3_location: str
) -> None:
    options, secrets = with_secrets(s3_server)
    job = {"secrets": secrets, "arguments": [s3_location]}
    text = WRITE + "print(write('x'))\n"
    result = run(tmp_path, text, mount(s3_location, **options), **job)
    assert result.out == "written\n", result.err
    bucket, _, folder = s3_location.removeprefix("s3://").partition("/")
    assert s3_server.read(bucket, f"{folder}x") == b"written"
    assert (tmp_path / "job" / "attempts" / "1" / "worker-0" / "heartbeat").exists()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_missing_compiled_part_is_a_setup_error(tmp_path: Path) -> None:
    package = tmp_path / "pai_runner"
    shutil.copytree(BOOTSTRAP.parents[1], package, ignore=shutil.ignore_patterns("*.so"))
    text = "try:\n    import tensorflow\nexcept ImportError:\n    pass\n"
    bootstrap = package / "script" / "bootstrap.py"
    result = run(tmp_path, text, mount("memory://bucket/dir/"), bootstrap=bootstrap)
    assert result.code == 125
    assert "compiled part" in result.err
    assert "Traceback" not in result.err
    assert result.error is not None
    assert result.error["kind"] == "setup"


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("api", ["v1", "v2"])
def test_spawned_processes_reach_the_locations_too(
    tmp_path: Path, s3_server: S3Server, s3_location: str, api: str
) -> None:
    options, secrets = with_secrets(s3_server)
    text = (
        WRITE
        + """
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(write, ["from-child"]))
"""
    )
    result = run(
        tmp_path,
        text,
        mount(s3_location, **options),
        secrets=secrets,
        arguments=[s3_location],
        tf_api=api,
    )
    assert result.out == "['written']\n", result.err
