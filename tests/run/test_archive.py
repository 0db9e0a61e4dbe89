"""Archives: what a good one becomes, and what each bad one is told."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pai_runner.command.job import is_archive
from pai_runner.errors import ExitCode, SetupError
from pai_runner.run.archive import ArchiveLimits, unpack

PROJECT = Path(__file__).parents[2]
FILES = {"train.py": b"print('hello')\n", "lib/模型 a.py": b"x = 1\n", "lib/empty.txt": b""}


def tar_bytes(files: dict[str, bytes], kind: str = "gz", **header: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for attribute, value in header.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("placeholder")
            info.compress_type = zipfile.ZIP_DEFLATED
            info.filename = name  # as it is: the constructor would clean it
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def special_member(kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("lib/odd")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path


def unpacked(place: Path, data: bytes, limits: ArchiveLimits | None = None) -> Path:
    archive = place / "code.bin"
    archive.write_bytes(data)
    folder = place / "job" / "code"
    unpack(archive, folder, "s3://b/code.tar.gz", limits or ArchiveLimits())
    return folder


def refusal(place: Path, data: bytes, limits: ArchiveLimits | None = None) -> str:
    with pytest.raises(SetupError) as caught:
        unpacked(place, data, limits)
    assert caught.value.exit_code == ExitCode.SETUP
    assert list((place / "job").iterdir()) == [], "something half unpacked is left"
    assert "\n" not in caught.value.message
    return f"{caught.value.message} / {caught.value.hint}"


# ====== Good ones ======


def test_the_names_of_archives() -> None:
    good = ("a.tar.gz", "a.TGZ", "a.tar", "b.c.zip")
    bad = ("a.py", "a.gz", "tar.gz.py", "zip", "a.tar.bz2")
    assert all(map(is_archive, good))
    assert not any(map(is_archive, bad))


@pytest.mark.parametrize(
    "pack",
    [
        tar_bytes,
        lambda files: tar_bytes(files, ""),
        lambda files: gzip.compress(tar_bytes(files, "")),
        zip_bytes,
    ],
    ids=["tar.gz", "tar", "gzip", "zip"],
)
def test_the_content_decides_how_it_is_unpacked(
    place: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    folder = unpacked(place, pack(FILES))
    assert contents(folder) == FILES
    assert [path.name for path in (place / "job").iterdir()] == ["code"]


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_harmless_spellings_of_a_name_are_normalised(
    place: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    names = ("./a.py", "b//c.py", "d/./e.py", "..f/g..py", "C:h.py")
    folder = unpacked(place, pack(dict.fromkeys(names, b"1")))
    assert set(contents(folder)) == {"a.py", "b/c.py", "d/e.py", "..f/g..py", "C:h.py"}


def test_an_archive_packed_by_tar_itself(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ("long" * 40) / "deep").mkdir(parents=True)
    (source / ("long" * 40) / "deep" / "train.py").write_bytes(b"1")
    (source / "empty").mkdir()
    packed = tmp_path / "code.tgz"
    subprocess.run(["tar", "-C", source, "-czf", packed, "."], check=True)
    folder = unpacked(place, packed.read_bytes())
    assert contents(folder) == contents(source)
    assert (folder / "empty").is_dir()


def test_an_empty_folder_may_stand_where_it_goes(place: Path) -> None:
    (place / "job" / "code").mkdir()
    assert contents(unpacked(place, tar_bytes(FILES))) == FILES


def test_a_folder_that_is_in_use_is_left_alone(place: Path) -> None:
    folder = unpacked(place, tar_bytes(FILES))
    with pytest.raises(SetupError, match="not empty"):
        unpacked(place, tar_bytes({"other.py": b"2"}))
    assert contents(folder) == FILES


def test_special_bits_are_dropped_and_the_umask_is_respected(place: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = unpacked(place, tar_bytes({"run.sh": b"#!"}, mode=0o6777, uid=12345))
    finally:
        os.umask(before)
    status = (folder / "run.sh").stat()
    assert stat.S_IMODE(status.st_mode) == 0o750
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert status.st_uid == os.getuid()


def test_the_executable_bit_survives_and_no_other(place: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = unpacked(place, zip_bytes({"a.sh": b"1"}, 0o500))
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.sh").stat().st_mode) == 0o755


# ====== Refused ones ======


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../evil.py", "leads out of the archive with `..`"),
        ("a/../../evil.py", "leads out of the archive with `..`"),
        ("a/..", "leads out of the archive with `..`"),
        ("/tmp/evil.py", "is an absolute path"),
        ("a\\..\\evil.py", "holds a backslash"),
        ("/".join(["d"] * 101), "is nested more than 100 deep"),
    ],
)
def test_a_name_that_could_lead_outside_is_refused(
    place: Path, pack: Callable[[dict[str, bytes]], bytes], name: str, problem: str
) -> None:
    text = refusal(place, pack({"ok.py": b"1", name: b"evil"}))
    assert problem in text
    assert name[:100] in text
    assert "s3://b/code.tar.gz" in text
    assert not list(place.rglob("evil*"))


def test_a_nul_in_a_name_is_refused(place: Path) -> None:
    assert "a.py\\0.txt` in it holds a NUL" in refusal(place, zip_bytes({"a.py\0.txt": b"1"}))
    pax = tarfile.TarInfo("x")
    pax.pax_headers = {"path": "a.py\0.txt"}
    data = pax.tobuf(tarfile.PAX_FORMAT) + bytes(tarfile.RECORDSIZE)
    assert "holds a NUL" in refusal(place, data)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link to `/etc/passwd`"),
        (tarfile.LNKTYPE, "a link to `/etc/passwd`"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (b"Z", "of an unknown kind"),
    ],
)
def test_what_is_not_a_file_or_folder_is_refused(place: Path, kind: bytes, what: str) -> None:
    text = refusal(place, special_member(kind, "/etc/passwd"))
    assert f"`lib/odd` in it is {what}" in text
    assert "--dereference" in text


def test_a_link_in_a_zip_is_refused(place: Path) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "`odd` in it is a link" in refusal(place, buffer.getvalue())


def test_an_encrypted_zip_is_refused(place: Path) -> None:
    data = bytearray(zip_bytes({"a.py": b"1"}))
    data[data.index(b"PK\1\2") + 8] |= 1
    assert "`a.py` in s3://b/code.tar.gz is encrypted" in refusal(place, bytes(data))


def test_a_file_that_stands_there_twice_is_refused(place: Path) -> None:
    twice = tar_bytes({"a.py": b"1", "./a.py": b"2"})
    assert "`./a.py` in it stands there twice" in refusal(place, twice)
    assert "stands there twice" in refusal(place, tar_bytes({"a": b"1", "a/b": b"2"}))
    assert "stands there twice" in refusal(place, tar_bytes({"a/b": b"2", "a": b"1"}))


# ====== Limits ======


def test_too_many_members_are_refused(place: Path) -> None:
    files = {f"{number}.py": b"1" for number in range(11)}
    assert "more than 10 files" in refusal(place, tar_bytes(files), ArchiveLimits(members=10))
    assert len(contents(unpacked(place, tar_bytes(files), ArchiveLimits(members=11)))) == 11


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_too_many_bytes_are_refused(place: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    data = pack({"a.bin": random.Random(1).randbytes(5000)})
    assert "more than 4999 bytes" in refusal(place, data, ArchiveLimits(size=4999))
    assert contents(unpacked(place, data, ArchiveLimits(size=5000)))


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_a_bomb_is_refused_by_its_ratio(
    place: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    data = pack({"zeros": bytes(4 << 20)})
    limits = ArchiveLimits(ratio_from=1 << 20)
    assert "more than 200 times the archive's size" in refusal(place, data, limits)
    assert contents(unpacked(place, data)), "below ratio_from any ratio is harmless"


def test_a_bomb_in_a_tar_header_is_refused(place: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, (8 << 30) - 1
    data = gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4 << 20))
    assert "a header of 8589934" in refusal(place, data)


def test_a_bomb_behind_the_last_member_is_refused(place: Path) -> None:
    data = gzip.compress(tar_bytes({"a.py": b"1"}, "") + bytes(64 << 20))
    assert "more than" in refusal(place, data, ArchiveLimits(size=1000, members=10))


# ====== Damage ======


@pytest.mark.parametrize("kind", ["gz", "", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_archive_is_refused(place: Path, kind: str, share: float) -> None:
    files = {"a.bin": random.Random(2).randbytes(40_000), "b.bin": random.Random(3).randbytes(9000)}
    data = zip_bytes(files) if kind == "zip" else tar_bytes(files, kind)
    if kind == "":
        data = data[: 49_000 + 3 * 512]  # without the zero blocks, which nobody misses
    assert "is damaged or incomplete" in refusal(place, data[: int(len(data) * share)])


def test_a_gzip_without_its_last_bytes_is_refused(place: Path) -> None:
    data = tar_bytes(FILES)
    assert "damaged or incomplete" in refusal(place, data[:-1])
    assert "damaged or incomplete" in refusal(place, data[:-8] + b"\0" * 8)


@pytest.mark.parametrize(
    "data", [b"print('a script')\n" * 100, b"BZh91AY&SY", b"<html>404</html>", b"x"]
)
def test_what_is_no_archive_is_refused(place: Path, data: bytes) -> None:
    text = refusal(place, data)
    assert "neither gzip, tar nor zip" in text
    assert ".tar.gz, .tgz, .tar, .zip" in text


def test_gzip_around_something_else_is_refused(place: Path) -> None:
    assert "damaged" in refusal(place, gzip.compress(b"print('a script')\n" * 100))


@pytest.mark.parametrize("data", [tar_bytes({}), tar_bytes({}, ""), zip_bytes({})])
def test_an_archive_without_a_file_is_refused(place: Path, data: bytes) -> None:
    assert "holds no file" in refusal(place, data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([tar_bytes(FILES, ""), gzip.compress(tar_bytes(FILES, "")), zip_bytes(FILES)]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_no_damage_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[int, int]]
) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "job").mkdir()
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        folder = unpacked(place, bytes(damaged))
    except SetupError:
        assert list((place / "job").iterdir()) == []
    else:
        assert contents(folder)
    assert sorted(path.name for path in place.iterdir()) == ["code.bin", "job"]


# ====== A full disk ======

_UNPACK = """
import sys
from pathlib import Path
from pai_runner.errors import SetupError
from pai_runner.run.archive import unpack
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), "code.tar.gz")
except SetupError as error:
    print(error, "/", error.hint)
"""


def unpack_elsewhere(prefix: list[str], archive: Path, folder: Path) -> str:
    words = [*prefix, sys.executable, "-c", _UNPACK, str(archive), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_file_size_limit_is_a_clear_error(place: Path) -> None:
    archive = place / "code.tar.gz"
    archive.write_bytes(tar_bytes({"a.py": b"1", "big.bin": random.Random(4).randbytes(1 << 20)}))
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh"]
    said = unpack_elsewhere(limited, archive, place / "job" / "code")
    assert f"no space in {place / 'job'} to unpack code.tar.gz" in said
    assert "PAI_HOME" in said
    assert list((place / "job").iterdir()) == []


def test_a_full_disk_is_a_clear_error(place: Path) -> None:
    """On a small disk of its own; a machine that forbids user namespaces cannot have one."""
    archive, job = place / "code.tar.gz", place / "job"
    archive.write_bytes(tar_bytes({"a.py": b"1", "big.bin": random.Random(4).randbytes(1 << 20)}))
    script = f'mount -t tmpfs -o size=256k none "{job}" || exit 77; "$@" && ls -A "{job}"'
    own_disk = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    try:
        said = unpack_elsewhere(own_disk, archive, job / "code")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    assert said.startswith(f"no space in {job} to unpack code.tar.gz (No space left on device)")
    assert len(said.splitlines()) == 1, "something half unpacked is left"
