"""What tests of the command line share: `pai storage` in this process, and folders for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto_server import CREDENTIALS
from oss_server import KEY_ID, SECRET
from storage_folders import KINDS, Folder, Verb, make_folder

from pai_runner.cli.main import main

_SECRETS = (*CREDENTIALS.values(), KEY_ID, SECRET)


@pytest.fixture
def storage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Verb]:
    """Runs `pai storage …` in this process, without a terminal."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PAI_RETRY_SECONDS", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    printed: list[str] = []

    def run(*arguments: str) -> tuple[int, str, str]:
        code: int | str | None
        try:
            code = main(["storage", *arguments])
        except SystemExit as end:  # argparse's
            code = end.code
        told = capsys.readouterr()
        printed.extend((told.out, told.err))
        return int(code or 0), told.out, told.err

    yield run
    assert not any(secret in text for text in printed for secret in _SECRETS)
    assert not any("Traceback" in text for text in printed)


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest) -> Folder:
    return make_folder(request.param, request)


@pytest.fixture(params=["local", "memory", "oss"])
def quick(request: pytest.FixtureRequest) -> Folder:
    """A folder of the kinds that are opened at once: making a client of S3 takes a while."""
    return make_folder(request.param, request)


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Folder:
    return make_folder("local", request)


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Folder:
    return make_folder("memory", request)
