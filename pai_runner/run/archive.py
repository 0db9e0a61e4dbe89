"""Unpacks the archive that holds a script, trusting nothing in it.

Only plain files and folders below the archive's root are written, each once, with fresh
permissions; anything else refuses the archive as a whole. The standard library's extractors are
not used: their filters for links and names have been bypassed more than once (CVE-2007-4559,
CVE-2025-4517), and without links there is nothing to bypass.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from pai_runner.command.job import ARCHIVES
from pai_runner.errors import SetupError
from pai_runner.jobs.files import is_out_of_space


@dataclass(frozen=True)
class ArchiveLimits:
    """Where an archive stops being code. Sizes are bytes, unpacked.

    `ratio` is the unpacked size over the archive's; it counts from `ratio_from` bytes on, since
    small files of one repeated byte are harmless.
    """

    members: int = 100_000
    size: int = 10 << 30
    ratio: int = 200
    ratio_from: int = 256 << 20
    depth: int = 100


_CHUNK = 256 << 10
# tarfile reads a header's extension into memory at once; a path needs no more than this.
_MAX_HEADER = 1 << 20
# What the standard library's readers raise on damaged input, beside OSError without a number.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
)


def unpack(
    archive: Path, folder: Path, shown: str, limits: ArchiveLimits = ArchiveLimits()
) -> None:
    """Unpack `archive`, whatever its name says it is, so that `folder` holds all of it.

    `folder` must not exist, or be empty; it appears complete or not at all. `shown` is the
    archive's name in messages. Raises SetupError.
    """
    fresh = folder.with_name(f".{folder.name}-{os.urandom(4).hex()}")
    try:
        with _clear_errors(shown, folder), archive.open("rb") as stream:
            fresh.mkdir(parents=True)
            writer = _Writer(fresh, shown, archive.stat().st_size, limits)
            for member in _members(stream, shown, limits):
                writer.write(member)
            if writer.files == 0:
                raise SetupError(f"the archive {shown} holds no file", "pack the script into it")
            fresh.rename(folder)
    finally:
        # After the renaming there is nothing left to remove.
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _clear_errors(shown: str, folder: Path) -> Iterator[None]:
    damaged = f"the archive {shown} is damaged or incomplete"
    hint = "pack it again, or copy it again if it was cut off on the way"
    try:
        yield
    except OSError as error:
        if is_out_of_space(error):
            raise SetupError(
                f"no space in {folder.parent} to unpack {shown} ({error.strerror})",
                "free some space there, or keep the records elsewhere with PAI_HOME",
            ) from error
        if error.errno is None:
            raise SetupError(f"{damaged}: {error}", hint) from error
        raise SetupError(f"cannot unpack {shown} into {folder}: {error.strerror}") from error
    except _DAMAGE as error:
        raise SetupError(f"{damaged}: {error or type(error).__name__}", hint) from error


# ====== Reading: one kind of member for both formats ======


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive; `content` is None for a folder."""

    name: str
    content: IO[bytes] | None
    executable: bool


def _members(stream: BinaryIO, shown: str, limits: ArchiveLimits) -> Iterator[_Member]:
    """Yield the members in order; each is read before the next one is asked for."""
    head = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    if head.startswith(b"PK"):
        yield from _zip_members(stream, shown)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=stream) as unzipped:
            yield from _tar_members(cast(BinaryIO, unzipped), shown, limits)
    elif _is_tar_header(head):
        yield from _tar_members(stream, shown, limits)
    else:
        raise SetupError(
            f"{shown} is not an archive: its content is neither gzip, tar nor zip",
            f"give an archive of one of these kinds: {', '.join(ARCHIVES)}",
        )


def _is_tar_header(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return len(head) == tarfile.BLOCKSIZE and not any(head)  # the end mark of an empty tar
    return True


def _tar_members(stream: BinaryIO, shown: str, limits: ArchiveLimits) -> Iterator[_Member]:
    bounded = _Bounded(stream, shown, limits)
    with tarfile.open(fileobj=cast(BinaryIO, bounded), mode="r:") as tar:
        for info in tar:
            if info.isdir():
                yield _Member(info.name, None, False)
            elif info.isreg():
                yield _Member(info.name, tar.extractfile(info), bool(info.mode & stat.S_IXUSR))
            else:
                raise _not_plain(shown, info.name, _tar_kind(info))
    # To the end, where gzip keeps its checksum: a file cut off there would pass for whole.
    while bounded.read(_CHUNK):
        continue


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return f"a link to `{info.linkname}`"
    return "a device" if info.isdev() else "of an unknown kind"


def _zip_members(stream: BinaryIO, shown: str) -> Iterator[_Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if stat.S_ISLNK(mode) else "a device"
                raise _not_plain(shown, info.filename, kind)
            if "\0" in info.orig_filename:
                raise _bad_name(shown, info.orig_filename, "holds a NUL character")
            if info.flag_bits & 1:
                raise SetupError(
                    f"`{info.filename}` in {shown} is encrypted", "pack it without a password"
                )
            with ExitStack() as opened:
                content = None if info.is_dir() else opened.enter_context(archive.open(info))
                yield _Member(info.filename, content, bool(mode & stat.S_IXUSR))


class _Bounded:
    """A stream that refuses to be read in pieces, or to an end, that no code archive has."""

    def __init__(self, stream: BinaryIO, shown: str, limits: ArchiveLimits) -> None:
        self._stream = stream
        self._shown = shown
        # Beside the files there are one or two headers of a block for each, and the end.
        self._end = limits.size + 4 * tarfile.BLOCKSIZE * limits.members + tarfile.RECORDSIZE

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise SetupError(f"{self._shown} holds a header of {size} bytes", "pack it again")
        if self._stream.tell() > self._end:
            raise _too_large(self._shown, f"more than {_size(self._end)}")
        return self._stream.read(size)

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()


# ====== Writing ======


class _Writer:
    """Writes members below `root` and counts what they cost."""

    def __init__(self, root: Path, shown: str, archive_size: int, limits: ArchiveLimits) -> None:
        self._root = root
        self._shown = shown
        self._archive_size = archive_size
        self._limits = limits
        self._members = 0
        self._written = 0
        self.files = 0

    def write(self, member: _Member) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise _too_large(self._shown, f"more than {self._limits.members} files")
        parts = _safe_parts(member.name, self._shown, self._limits.depth)
        target = self._root.joinpath(*parts)
        try:
            if member.content is None:
                target.mkdir(parents=True, exist_ok=True)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            # Neither owner, dates nor special bits are kept; the umask applies.
            mode = 0o777 if member.executable else 0o666
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(target, flags, mode)
        except (FileExistsError, NotADirectoryError) as error:
            # On a disk that ignores case, names that differ in case only come here too.
            raise _bad_name(self._shown, member.name, "stands there twice") from error
        self.files += 1
        with os.fdopen(descriptor, "wb") as file:
            while chunk := member.content.read(_CHUNK):
                self._count(len(chunk))
                file.write(chunk)

    def _count(self, size: int) -> None:
        self._written += size
        limits = self._limits
        if self._written > limits.size:
            raise _too_large(self._shown, f"more than {_size(limits.size)}")
        if self._written > max(limits.ratio_from, limits.ratio * self._archive_size):
            raise _too_large(self._shown, f"more than {limits.ratio} times the archive's size")


def _safe_parts(name: str, shown: str, depth: int) -> list[str]:
    """Return the path parts of a member's name, or refuse a name that could lead outside."""
    if "\0" in name:
        raise _bad_name(shown, name, "holds a NUL character")
    if "\\" in name:
        raise _bad_name(shown, name, "holds a backslash")
    if name.startswith("/"):
        raise _bad_name(shown, name, "is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _bad_name(shown, name, "leads out of the archive with `..`")
    if len(parts) > depth:
        raise _bad_name(shown, name[:100] + "…", f"is nested more than {depth} deep")
    return parts


def _bad_name(shown: str, name: str, problem: str) -> SetupError:
    text = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return SetupError(
        f"the archive {shown} is refused: `{text}` in it {problem}",
        "pack it again from inside the script's folder: tar -czf code.tar.gz *",
    )


def _not_plain(shown: str, name: str, kind: str) -> SetupError:
    return SetupError(
        f"the archive {shown} is refused: `{name}` in it is {kind}, not a file or folder",
        "pack what links point to: tar --dereference --hard-dereference -czf code.tar.gz *",
    )


def _too_large(shown: str, what: str) -> SetupError:
    return SetupError(
        f"the archive {shown} is refused: it unpacks to {what}",
        "pack the code alone, and read the data from -Dbuckets",
    )


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count} bytes"
