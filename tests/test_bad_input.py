"""Wrong commands and a wrong world: one clear line, the right code, nothing left, nothing shown."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_server import fault_server
from support import Pai, Places, wait_until

SECRET = "hIdDeN/sEcReT+0123456789"
GOOD = "print('it ran')\n"


def script(folder: Path, text: str = GOOD) -> str:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return f"-Dscript={path}"


def archive(folder: Path, fill: Callable[[tarfile.TarFile], None]) -> str:
    path = folder / "code.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member(tar, "main.py", GOOD)
        fill(tar)
    return f"-Dscript={path}"


def member(tar: tarfile.TarFile, name: str, text: str = "", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(text.encode()))


Case = Callable[[Path], list[str]]

CASES: dict[str, tuple[Case, int, str]] = {
    "no such script": (lambda folder: [f"-Dscript={folder}/missing.py"], 125, "missing.py"),
    "syntax error": (lambda folder: [script(folder, "x = 1\ny = (\n")], 125, "script.py:2"),
    "no script": (lambda folder: [], 2, "script"),
    "missing entryFile": (
        lambda folder: [archive(folder, lambda tar: None), "-DentryFile=other.py"],
        125,
        "main.py",
    ),
    "no entryFile given": (lambda folder: [archive(folder, lambda tar: None)], 2, "entryFile"),
    "archive with ..": (
        lambda folder: [
            archive(folder, lambda tar: member(tar, "../evil.py", GOOD)),
            "-DentryFile=main.py",
        ],
        125,
        "../evil.py",
    ),
    "archive with a link": (
        lambda folder: [
            archive(
                folder,
                lambda tar: member(tar, "link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            ),
            "-DentryFile=main.py",
        ],
        125,
        "link",
    ),
    "unknown parameter": (lambda folder: [script(folder), "-Dclutser={}"], 2, "cluster"),
    "bad JSON": (lambda folder: [script(folder), '-Dcluster={"ps":'], 2, "JSON"),
    "bad number": (lambda folder: [script(folder), "-DgpuRequired=many"], 2, "gpuRequired"),
    "GPU missing": (lambda folder: [script(folder), "-DgpuRequired=100"], 125, "--devices cpu"),
    "unreadable hyperParameters": (
        lambda folder: [script(folder), f"-DhyperParameters={folder}/none.txt"],
        125,
        "none.txt",
    ),
    "malformed hyperParameters": (
        lambda folder: [script(folder), f"-DhyperParameters={bad_hyper_parameters(folder)}"],
        2,
        "hyper.txt",
    ),
    "no such local bucket": (
        lambda folder: [script(folder), f"-Dbuckets={folder}/nowhere/"],
        125,
        "nowhere",
    ),
    "unknown protocol": (
        lambda folder: [script(folder), "-Dbuckets=nosuch://b/d/"],
        125,
        "nosuch",
    ),
    "oss without a host": (
        lambda folder: [script(folder), "-Dbuckets=oss://b/d/"],
        125,
        "?host=",
    ),
    "a server of nobody": (
        lambda folder: [script(folder), "-Dbuckets=oss://b/d/?host=evil.example.com"],
        125,
        "PAI_ALLOWED_HOSTS",
    ),
    "folder below a file": (
        lambda folder: [script(folder), f"-DcheckpointDir={folder}/script.py/below"],
        125,
        "cannot be made",
    ),
    "no interpreter": (
        lambda folder: [script(folder), f"-Dpython={folder}/bin/python"],
        125,
        "bin/python",
    ),
}


def bad_hyper_parameters(folder: Path) -> Path:
    path = folder / "hyper.txt"
    path.write_text("steps=10\nnot a pair\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_a_line(name: str, pai: Pai, tmp_path: Path) -> None:
    case, code, says = CASES[name]
    output = tmp_path / "output"
    ran = pai(
        "-name",
        "tensorflow",
        f"-DcheckpointDir={output}",
        *case(tmp_path),
        f"-Dvolumes=memory://b/?secret={SECRET}",
    )
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    errors = [line for line in ran.stderr.splitlines() if line.startswith("pai: error: ")]
    assert len(errors) == 1, ran.stderr
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not output.exists()
    assert not (tmp_path.parent / "evil.py").exists()
    assert_unseen(SECRET, ran, pai.home)


def assert_unseen(secret: str, ran: subprocess.CompletedProcess[str], home: Path) -> None:
    assert secret not in ran.stdout + ran.stderr
    for path in home.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_missing_bucket_is_told_before_the_script_runs(
    pai: Pai, places: Places, tmp_path: Path
) -> None:
    missing = places.s3.replace("s3://", "s3://no-such-bucket-of-")
    ran = pai("-name", "tensorflow", script(tmp_path), f"-DcheckpointDir={missing}")
    assert ran.returncode == 125, ran.stderr
    assert "no-such-bucket-of-" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


@pytest.mark.slow
def test_denied_access_is_told_before_the_script_runs(
    pai: Pai, denying_endpoint: str, tmp_path: Path
) -> None:
    location = f"s3://b/d/?endpoint_url={denying_endpoint}&key=AKIDAKIDAKID&secret={SECRET}"
    ran = pai("-name", "tensorflow", script(tmp_path), f"-DcheckpointDir={location}")
    assert ran.returncode == 125, ran.stderr
    assert "denied" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert_unseen(SECRET, ran, pai.home)


@pytest.mark.slow
def test_a_dead_server_is_told_in_bounded_time(pai: Pai, tmp_path: Path) -> None:
    location = f"s3://b/d/?endpoint_url=http://127.0.0.1:9&key=AKIDAKIDAKID&secret={SECRET}"
    ran = pai("-name", "tensorflow", script(tmp_path), f"-DcheckpointDir={location}")
    assert ran.returncode == 125, ran.stderr
    assert "127.0.0.1:9" in ran.stderr
    assert ran.stdout == ""
    assert_unseen(SECRET, ran, pai.home)


FILLS_THE_DISK = """\
import os
import tensorflow as tf
tf.app.flags.DEFINE_string("checkpointDir", "", "")
with tf.gfile.GFile(os.path.join(tf.app.flags.FLAGS.checkpointDir, "vocabulary"), "w") as file:
    file.write("x" * 16 * 1024 * 1024)
"""


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a small disk of its own")
def test_a_full_disk_publishes_nothing(pai: Pai, places: Places, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    words = pai.command(
        "-name", "tensorflow", script(tmp_path, FILLS_THE_DISK), f"-DcheckpointDir={places.s3}"
    )
    mount = 'mount -t tmpfs -o size=4m tmpfs "$1" || exit 77; shift; exec "$@"'
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", str(small), *words],
        env={**pai.environment, "TMPDIR": str(small)},
        cwd=pai.folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if ran.returncode in (1, 77) and "Traceback" not in ran.stderr:
        pytest.skip(f"no mount namespace here: {ran.stderr.strip()}")
    assert ran.returncode == 1, ran.stderr
    assert "ResourceExhaustedError" in ran.stderr
    assert "No space left on device" in ran.stderr
    assert places.names("s3") == set()


def test_a_read_only_home_is_told(pai: Pai, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    ran = pai("-name", "tensorflow", script(tmp_path), PAI_HOME=str(file / "home"))
    assert ran.returncode == 125
    assert str(file) in ran.stderr
    assert "Traceback" not in ran.stderr


def test_nothing_runs_when_a_later_statement_is_wrong(pai: Pai, tmp_path: Path) -> None:
    first = script(tmp_path)
    ran = pai("-e", f"PAI -name tensorflow {first}; PAI -name tensorflow -Dnosuch=1;")
    assert ran.returncode == 2
    assert ran.stdout == ""


def test_the_first_failure_ends_the_run_with_its_code(pai: Pai, tmp_path: Path) -> None:
    good = tmp_path / "good.py"
    good.write_text("print('good')\n", encoding="utf-8")
    bad = tmp_path / "bad.py"
    bad.write_text("raise SystemExit(7)\n", encoding="utf-8")
    ran = pai(
        "-e",
        f"use p1; PAI -name tensorflow -Dscript={good}; PAI -name tensorflow -Dscript={bad};"
        f" PAI -name tensorflow -Dscript={good};",
    )
    assert ran.returncode == 7
    assert ran.stdout == "good\n"
    assert "use p1" in ran.stderr


def test_a_failing_scripts_traceback_is_the_last_thing_shown(pai: Pai, tmp_path: Path) -> None:
    ran = pai("-name", "tensorflow", script(tmp_path, "raise ValueError('of the script')\n"))
    assert ran.returncode == 1
    assert ran.stderr.endswith("ValueError: of the script\n")
    assert "pai_runner" not in ran.stderr[ran.stderr.index("Traceback") :]
    assert os.listdir(pai.home)


LEAVES_A_FILE_OPEN = """\
import os, signal, sys
import tensorflow as tf
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
tf.app.flags.DEFINE_string("checkpointDir", "", "")
file = tf.gfile.GFile(os.path.join(tf.app.flags.FLAGS.checkpointDir, "late"), "w")
file.write("not uploaded yet")
print("written", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_an_upload_that_fails_at_the_very_end_fails_the_job(pai: Pai, tmp_path: Path) -> None:
    with fault_server() as faults:
        query = "&".join(f"{name}={value}" for name, value in faults.options.items())
        job = pai(
            "--detach",
            "-name",
            "tensorflow",
            script(tmp_path, LEAVES_A_FILE_OPEN),
            f"-DcheckpointDir=s3://b/d/?{query}",
        ).stdout.strip()
        wait_until(lambda: "written" in pai("logs", job).stdout, 60)
        faults.refused = {"PUT"}
        record = json.loads(pai("status", job, "--json").stdout)
        os.kill(record["roles"][0]["process"]["pid"], signal.SIGUSR1)
        pai("logs", "-f", job)
    record = json.loads(pai("status", job, "--json").stdout)
    assert (record["state"], record["exit_code"]) == ("FAILED", 1)
    assert "s3://b/d/late: not uploaded" in record["message"]
