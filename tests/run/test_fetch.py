"""Scripts and texts, wherever they lie: what is fetched, and what each failure is told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import pai_runner
from pai_runner.errors import ExitCode, PaiError, ParameterError, SetupError
from pai_runner.location import Location
from pai_runner.run.access import Access
from pai_runner.run.fetch import MAX_TEXT_BYTES, Code, fetch, read_text

PROJECT = Path(pai_runner.__file__).parents[1]
TRAIN = b"print('training')\n"
ACCESS = Access("", ())
KEYS = "key=AKIDEXAMPLE0&secret=hIdDeN-sEcReT"


@dataclass(frozen=True)
class Asked:
    script: Location
    entry_file: str | None = None


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs" / "1" / "code"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Yield a client of a real S3 server with an empty bucket `box`."""
    from botocore.session import Session
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="AKIDEXAMPLE0",
        aws_secret_access_key="hIdDeN-sEcReT",
    )
    client.create_bucket(Bucket="box")
    yield client
    client.close()
    server.stop()


class _Denying(BaseHTTPRequestHandler):
    """Answers everything as S3 answers a user without rights."""

    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        return


@pytest.fixture
def denying() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Denying)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def s3_location(client: Any, path: str) -> Location:
    return Location.parse(f"s3://{path}?endpoint_url={client.meta.endpoint_url}&{KEYS}")


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def refusal(
    script: Location | str,
    folder: Path,
    cwd: Path,
    entry_file: str | None = None,
    kind: type[PaiError] = SetupError,
) -> str:
    location = Location.parse(script) if isinstance(script, str) else script
    with pytest.raises(kind) as caught:
        fetch(Asked(location, entry_file), folder, cwd, ACCESS)
    return told(caught.value, folder)


def told(error: PaiError, folder: Path) -> str:
    assert error.exit_code == (
        ExitCode.USAGE if isinstance(error, ParameterError) else ExitCode.SETUP
    )
    text = f"{error.message} / {error.hint}"
    assert "hIdDeN" not in text
    assert "\n" not in text
    assert not folder.exists()
    assert not folder.parent.exists() or not list(folder.parent.iterdir())
    return text


# ====== A local script ======


@pytest.mark.parametrize(
    "text", ["train.py", "./train.py", "file://train.py", "file://{}/train.py"]
)
def test_a_local_script_runs_in_place(text: str, cwd: Path, folder: Path) -> None:
    (cwd / "train.py").write_bytes(TRAIN)
    code = fetch(Asked(Location.parse(text.format(cwd))), folder, cwd, ACCESS)
    assert code == Code(cwd, cwd / "train.py", (cwd,), cwd)
    assert not folder.exists()


def test_a_script_at_home_is_found(
    cwd: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cwd / "train.py").write_bytes(TRAIN)
    monkeypatch.setenv("HOME", str(cwd))
    assert (
        fetch(Asked(Location.parse("~/train.py")), folder, Path("/"), ACCESS).entry
        == cwd / "train.py"
    )


def test_its_own_folder_is_its_source_root(cwd: Path, folder: Path) -> None:
    (cwd / "模 型").mkdir()
    (cwd / "模 型" / "Train #1.PY").write_bytes(TRAIN)
    code = fetch(Asked(Location.parse("模 型/Train #1.PY")), folder, cwd, ACCESS)
    assert code.entry == cwd / "模 型" / "Train #1.PY"
    assert code.source_roots == (cwd / "模 型",)
    assert code.working_directory == cwd


def test_a_link_to_a_script_has_both_folders_as_source_roots(cwd: Path, folder: Path) -> None:
    (cwd / "real").mkdir()
    (cwd / "real" / "train.py").write_bytes(TRAIN)
    (cwd / "link.py").symlink_to(cwd / "real" / "train.py")
    code = fetch(Asked(Location.parse("link.py")), folder, cwd, ACCESS)
    assert code.entry == cwd / "link.py"
    assert code.source_roots == (cwd, cwd / "real")


def test_no_such_script_names_what_was_tried_and_what_is_like_it(cwd: Path, folder: Path) -> None:
    (cwd / "train.py").write_bytes(TRAIN)
    (cwd / "notes.txt").write_bytes(b"")
    text = refusal("file://trian.py", folder, cwd)
    assert f"-Dscript=trian.py: there is no such file: {cwd}/trian.py" in text
    assert f"in {cwd} there is train.py" in text
    assert f"{cwd}/no/train.py or /no/train.py" in refusal("file://no/train.py", folder, cwd)
    assert f"in {cwd} there is train.py" in refusal("zzz", folder, cwd)
    assert f"there is no folder {cwd}/nowhere" in refusal("nowhere/train.py", folder, cwd)
    assert "there is no such file" in refusal("train.py/x.py", folder, cwd)
    assert "name too long" in refusal("x" * 300 + ".py", folder, cwd)


def test_a_folder_is_no_script(cwd: Path, folder: Path) -> None:
    (cwd / "src").mkdir()
    (cwd / "src" / "main.py").write_bytes(TRAIN)
    for text in ("src", "src/", "."):
        assert "a folder, not a file" in refusal(text, folder, cwd)
    assert "name a file in it: main.py" in refusal("src", folder, cwd)


def test_an_empty_script_is_refused(cwd: Path, folder: Path) -> None:
    (cwd / "train.py").write_bytes(b"")
    assert f"{cwd}/train.py is empty" in refusal("train.py", folder, cwd)


@pytest.mark.parametrize("name", ["train.ipynb", "train", "code.rar", "code.tar.bz2", "py"])
def test_another_kind_of_file_is_a_usage_error(name: str, cwd: Path, folder: Path) -> None:
    (cwd / name).write_bytes(TRAIN)
    text = refusal(name, folder, cwd, kind=ParameterError)
    assert "neither a Python script nor an archive" in text
    assert ".tar.gz, .tgz, .tar, .zip" in text


_AS_NOBODY = """
import difflib, os, sys  # difflib: nobody may be unable to read the interpreter itself
from pathlib import Path
from pai_runner.errors import SetupError
from pai_runner.location import Location
from pai_runner.run.access import Access
from pai_runner.run.fetch import read_text, fetch
ACCESS = Access("", ())
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
class Asked:
    script, entry_file = Location.parse(sys.argv[1]), None
for ask in (lambda: fetch(Asked, Path("/nowhere"), Path("/"), ACCESS),
            lambda: read_text(Asked.script, Path("/"), "hyperParameters", ACCESS)):
    try:
        ask()
    except SetupError as error:
        print(error, "/", error.hint)
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Yield a folder that every user may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


def as_nobody(script: Path) -> list[str]:
    """What a user without rights is told; root could read everything."""
    ran = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, script],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["-Dscript", "-DhyperParameters"]
    return lines


@pytest.mark.parametrize("locked", ["train.py", "."], ids=["file", "folder"])
def test_what_may_not_be_read_is_told_so(locked: str, open_place: Path) -> None:
    private = open_place / "private"
    private.mkdir()
    script = private / "train.py"
    script.write_bytes(TRAIN)
    (private / locked).chmod(0)
    lines = as_nobody(script)
    private.chmod(0o755)
    assert all(f"{script} cannot be read: Permission denied" in line for line in lines)
    assert all("mend its permissions" in line for line in lines)


def test_a_folder_that_may_not_be_listed_still_gives_the_error(open_place: Path) -> None:
    private = open_place / "private"
    private.mkdir()
    private.chmod(0o311)
    lines = as_nobody(private / "train.py")
    private.chmod(0o755)
    assert all("there is no such file" in line for line in lines)
    assert all("no script that can be seen" in line for line in lines)


# ====== An archive ======


def zip_file(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"), [("c.tar.gz", tar_gz), ("c.tgz", tar_gz), ("c.zip", zip_file)]
)
def test_a_local_archive_is_unpacked(name: str, pack: Any, cwd: Path, folder: Path) -> None:
    (cwd / name).write_bytes(pack({"src/main.py": TRAIN, "conf/a.json": b"{}"}))
    code = fetch(Asked(Location.parse(name), "./src/main.py"), folder, cwd, ACCESS)
    assert code == Code(folder, folder / "src" / "main.py", (folder,), folder)
    assert code.entry.read_bytes() == TRAIN
    assert (folder / "conf" / "a.json").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_its_requirements_are_a_notice(cwd: Path, folder: Path) -> None:
    (cwd / "c.tgz").write_bytes(tar_gz({"main.py": TRAIN, "requirements.txt": b"numpy\n"}))
    code = fetch(Asked(Location.parse("c.tgz"), "main.py"), folder, cwd, ACCESS)
    assert len(code.notices) == 1
    assert "requirements.txt is not installed" in code.notices[0]


@pytest.mark.parametrize("entry_file", [None, "", "/main.py", "../main.py", "a/../../b.py", "."])
def test_a_wrong_entry_file_is_a_usage_error(
    entry_file: str | None, cwd: Path, folder: Path
) -> None:
    (cwd / "c.tgz").write_bytes(tar_gz({"main.py": TRAIN}))
    assert "-DentryFile=" in refusal("c.tgz", folder, cwd, entry_file, ParameterError)


def test_a_missing_entry_file_lists_the_scripts(cwd: Path, folder: Path) -> None:
    files = {f"lib/module{number}.py": b"1" for number in range(10)}
    (cwd / "c.tgz").write_bytes(tar_gz({**files, "top/main.py": TRAIN, "a.txt": b"1"}))
    with pytest.raises(SetupError) as caught:
        fetch(Asked(Location.parse("c.tgz"), "main.py"), folder, cwd, ACCESS)
    assert "-DentryFile=main.py: there is no such file in c.tgz" in caught.value.message
    assert "lib/module0.py, lib/module1.py" in caught.value.message
    assert caught.value.message.endswith("and 3 more")
    assert caught.value.hint == "did you mean -DentryFile=top/main.py?"


@pytest.mark.parametrize(
    ("files", "entry_file", "says"),
    [
        ({"main.txt": b"1"}, "main.py", "it holds no .py file"),
        ({"src/a.py": b"1"}, "src", "there is no such file"),
        ({"main.py": b""}, "main.py", "is empty"),
        ({"train.py": b"1"}, "trian.py", "did you mean -DentryFile=train.py?"),
    ],
)
def test_an_archive_without_a_script_to_run(
    files: dict[str, bytes], entry_file: str, says: str, cwd: Path, folder: Path
) -> None:
    (cwd / "c.tgz").write_bytes(tar_gz(files))
    with pytest.raises(SetupError) as caught:
        fetch(Asked(Location.parse("c.tgz"), entry_file), folder, cwd, ACCESS)
    assert says in f"{caught.value.message} / {caught.value.hint}"


def test_a_refused_archive_leaves_nothing(cwd: Path, folder: Path) -> None:
    (cwd / "c.tgz").write_bytes(tar_gz({"main.py": TRAIN, "../evil.py": b"1"}))
    assert "../evil.py" in refusal("c.tgz", folder, cwd, "main.py")
    (cwd / "c.tgz").write_bytes(b"")
    assert "is empty" in refusal("c.tgz", folder, cwd, "main.py")


# ====== Remote ======


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True)


def test_a_remote_script_is_copied(memory: Any, cwd: Path, folder: Path) -> None:
    memory.pipe("/code/训练 1.py", TRAIN)
    code = fetch(Asked(Location.parse("memory://code/训练 1.py")), folder, cwd, ACCESS)
    assert code == Code(folder, folder / "训练 1.py", (folder,), cwd)
    assert code.entry.read_bytes() == TRAIN
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_a_remote_archive_is_unpacked(memory: Any, cwd: Path, folder: Path) -> None:
    memory.pipe("/code/c.tar.gz", tar_gz({"src/main.py": TRAIN}))
    code = fetch(
        Asked(Location.parse("memory://code/c.tar.gz"), "src/main.py"), folder, cwd, ACCESS
    )
    assert code == Code(folder, folder / "src" / "main.py", (folder,), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["code"]


def test_what_a_remote_script_can_fail_of(memory: Any, cwd: Path, folder: Path) -> None:
    memory.pipe({"/code/train.py": TRAIN, "/code/empty.py": b"", "/code/a.rar": b"1"})
    missing = refusal("memory://code/trian.py", folder, cwd)
    assert "-Dscript=memory://code/trian.py: there is no such file" in missing
    assert "in memory://code/ there is train.py" in missing
    assert "no script that can be seen" in refusal("memory://nowhere/train.py", folder, cwd)
    assert "a folder, not a file" in refusal("memory://code/", folder, cwd)
    assert "empty" in refusal("memory://code/empty.py", folder, cwd)
    assert "neither" in refusal("memory://code/a.rar", folder, cwd, kind=ParameterError)
    assert "nosuch://" in refusal("nosuch://b/train.py", folder, cwd)


def test_s3_scripts_and_archives(s3: Any, cwd: Path, folder: Path) -> None:
    s3.put_object(Bucket="box", Key="d/train #1?.py", Body=TRAIN)
    s3.put_object(Bucket="box", Key="d/c.zip", Body=zip_file({"main.py": TRAIN}))
    code = fetch(Asked(s3_location(s3, "box/d/train #1?.py")), folder, cwd, ACCESS)
    assert code.entry == folder / "train #1?.py"
    assert code.entry.read_bytes() == TRAIN
    other = folder.parent / "other"
    assert fetch(Asked(s3_location(s3, "box/d/c.zip"), "main.py"), other, cwd, ACCESS).root == other


def test_what_an_s3_script_can_fail_of(s3: Any, cwd: Path, folder: Path) -> None:
    s3.put_object(Bucket="box", Key="e/train.py", Body=TRAIN)
    s3.put_object(Bucket="box", Key="e/empty.py", Body=b"")
    missing = refusal(s3_location(s3, "box/e/trian.py"), folder, cwd)
    assert "there is no such file" in missing
    assert "in s3://box/e/ there is train.py" in missing
    assert "there is no such file" in refusal(s3_location(s3, "box/no/x.py"), folder, cwd)
    no_bucket = refusal(s3_location(s3, "no-such-bucket/e/train.py"), folder, cwd)
    assert "there is no bucket `no-such-bucket`" in no_bucket
    assert "a folder, not a file" in refusal(s3_location(s3, "box/e"), folder, cwd)
    assert "empty" in refusal(s3_location(s3, "box/e/empty.py"), folder, cwd)


def test_denied_access_is_told(denying: str, cwd: Path, folder: Path) -> None:
    location = Location.parse(f"s3://b/train.py?endpoint_url={denying}&{KEYS}")
    text = refusal(location, folder, cwd)
    assert "-Dscript=s3://b/train.py?endpoint_url=" in text
    assert "access denied" in text
    with pytest.raises(SetupError, match=r"-DhyperParameters=.*access denied"):
        read_text(location, cwd, "hyperParameters", ACCESS)


def test_missing_credentials_are_told(
    s3: Any, cwd: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    location = Location.parse(f"s3://b/train.py?endpoint_url={s3.meta.endpoint_url}")
    assert "no credentials" in refusal(location, folder, cwd)


@pytest.mark.slow
def test_a_dead_server_is_told(cwd: Path, folder: Path) -> None:
    location = Location.parse(f"s3://b/train.py?endpoint_url=http://127.0.0.1:9&{KEYS}")
    assert "the server does not answer" in refusal(location, folder, cwd)
    assert "the server does not answer" in refusal("http://127.0.0.1:9/train.py", folder, cwd)


_COPY = """
import sys
from pathlib import Path
import fsspec
from pai_runner.errors import SetupError
from pai_runner.location import Location
from pai_runner.run.access import Access
from pai_runner.run.fetch import fetch
ACCESS = Access("", ())
fsspec.filesystem("memory").pipe("/b/c.tgz", bytes(1 << 20))
class Asked:
    script, entry_file = Location.parse("memory://b/c.tgz"), "main.py"
try:
    fetch(Asked, Path(sys.argv[1]), Path("/"), ACCESS)
except SetupError as error:
    print(error, "/", error.hint)
"""


def test_no_space_for_the_copy_is_told(folder: Path) -> None:
    ran = subprocess.run(
        ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", sys.executable, "-c", _COPY, folder],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"no space in {folder.parent} to copy memory://b/c.tgz")
    assert list(folder.parent.iterdir()) == []


# ====== Texts ======


def test_a_text_is_read_from_anywhere(memory: Any, s3: Any, cwd: Path) -> None:
    text = "steps=10\nname=模型\n"
    content = b"\xef\xbb\xbf" + text.encode()
    (cwd / "hyper.txt").write_bytes(content)
    memory.pipe("/d/hyper.txt", content)
    s3.put_object(Bucket="box", Key="hyper.txt", Body=content)
    for location in ("hyper.txt", "file://hyper.txt", f"file://{cwd}/hyper.txt"):
        assert read_text(Location.parse(location), cwd, "hyperParameters", ACCESS) == text
    assert read_text(Location.parse("memory://d/hyper.txt"), cwd, "hyperParameters", ACCESS) == text
    assert read_text(s3_location(s3, "box/hyper.txt"), cwd, "hyperParameters", ACCESS) == text


def test_an_empty_text_is_a_text(memory: Any, s3: Any, cwd: Path) -> None:
    (cwd / "hyper.txt").write_bytes(b"")
    s3.put_object(Bucket="box", Key="none.txt", Body=b"")
    assert read_text(Location.parse("hyper.txt"), cwd, "hyperParameters", ACCESS) == ""
    assert read_text(s3_location(s3, "box/none.txt"), cwd, "hyperParameters", ACCESS) == ""


@pytest.mark.parametrize("place", ["", "memory://d/"])
def test_what_a_text_can_fail_of(place: str, memory: Any, cwd: Path) -> None:
    bad = {
        "gbk": "a=1\nname=模型\n".encode("gb18030"),
        "large": b"a" * (MAX_TEXT_BYTES + 1),
        "full": b"a" * MAX_TEXT_BYTES,
    }
    for name, content in bad.items():
        (cwd / name).write_bytes(content)
        memory.pipe(f"/d/{name}", content)

    def says(name: str) -> str:
        with pytest.raises(SetupError) as caught:
            read_text(Location.parse(f"{place}{name}"), cwd, "hyperParameters", ACCESS)
        assert caught.value.message.startswith(f"-DhyperParameters={place}{name}: ")
        return f"{caught.value.message} / {caught.value.hint}"

    assert "not UTF-8 text (line 2)" in says("gbk")
    assert "larger than 1 MiB" in says("large")
    assert "there is no such file" in says("none.txt")
    assert len(read_text(Location.parse(f"{place}full"), cwd, "hyperParameters", ACCESS)) == 1 << 20
