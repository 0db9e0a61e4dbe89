"""Every command of both READMEs, run as a reader would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import ROOT

READMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(r"^```(?P<language>sh|crontab)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(readme: str, language: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return [found["text"] for found in BLOCK.finditer(text) if found["language"] == language]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what is in the repository, as a clone would give it."""
    folder = tmp_path_factory.mktemp("clone") / "pai_runner"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return folder


@pytest.fixture(scope="module")
def environment(checkout: Path) -> Mapping[str, str]:
    """An empty virtual environment that finds TensorFlow where this one has it.

    A download of TensorFlow for each run of the tests would prove nothing more.
    """
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    libraries = subprocess.run(
        [venv / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Behind the environment's own packages, so that what is installed there comes first.
    Path(libraries, "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    home = checkout.parent / "home"
    (home / "venv").parent.mkdir()
    (home / "venv").symlink_to(venv)
    (home / "project").symlink_to(checkout)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "PAI_", "PYTHON", "VIRTUAL_ENV"))
    }
    return {
        **kept,
        "HOME": str(home),
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "PYTHON": sys._base_executable,  # type: ignore[attr-defined]
        "CUDA_VISIBLE_DEVICES": "",
    }


def shell(
    text: str, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_the_commands_work_in_their_order(checkout: Path, environment: Mapping[str, str]) -> None:
    commands = blocks("README.md", "sh")
    ran = []
    for command in commands:
        # What CI runs is this very command; here it would run itself.
        if command.strip() == "scripts/test":
            assert "scripts/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
            continue
        result = shell(command, checkout, environment)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        ran.append(result.stdout)
    assert "counted to 10" in ran[0]
    assert "the counter is 10" in "".join(ran)
    assert (checkout / "out" / "checkpoint").exists()


@pytest.mark.slow
def test_the_crontab_line_works_in_crons_shell(
    checkout: Path, environment: Mapping[str, str]
) -> None:
    (line,) = blocks("README.md", "crontab")
    command = line.split(None, 5)[5]
    assert "%" not in command
    (checkout / "jobs.pai").write_text(
        "PAI -name tensorflow -Dscript=examples/counter/save_model.py -DcheckpointDir=./cron;",
        encoding="utf-8",
    )
    result = subprocess.run(
        ["env", "-i", f"HOME={environment['HOME']}", "/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=280,
    )
    log = (checkout / "nightly.log").read_text(encoding="utf-8")
    assert result.returncode == 0, log
    assert "counted to 10" in log


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = READMES
    for language in ("sh", "crontab"):
        assert blocks(english, language) == blocks(chinese, language)


def test_the_tables_are_what_the_code_says() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs"), "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "document", [*READMES, "docs/architecture.md", "docs/models.md", "docs/scheduling.md"]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert all((path.parent / link).exists() for link in links)
