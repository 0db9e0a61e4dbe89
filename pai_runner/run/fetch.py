"""Brings the script, and other texts that the command names, to this machine.

A local script runs where it lies. What lies elsewhere is copied, and an archive is unpacked,
into the job's folder, where it appears complete or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISDIR
from typing import TYPE_CHECKING, Protocol

from pai_runner.command.job import ARCHIVES, is_archive, script_candidates
from pai_runner.errors import ParameterError, SetupError, nearest
from pai_runner.jobs.files import is_out_of_space
from pai_runner.location import OBJECT_STORES, Location

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

    from pai_runner.run.access import Access

# A text read into memory, such as a hyperParameters file, is refused above this size.
MAX_TEXT_BYTES = 1 << 20

_LISTED = 8


class Request(Protocol):
    """The part of a job that says where its script is."""

    @property
    def script(self) -> Location: ...
    @property
    def entry_file(self) -> str | None: ...


@dataclass(frozen=True)
class Code:
    """A script on this machine.

    `root` is the folder that holds it, for an archive the archive's; `source_roots` hold the
    user's own modules, as opposed to installed packages.
    """

    root: Path
    entry: Path
    source_roots: tuple[Path, ...]
    working_directory: Path
    notices: tuple[str, ...] = ()

    def moved(self, source: Path, target: Path) -> Code:
        """Return the same code with what lies in the folder `source` lying in `target`."""

        def place(path: Path) -> Path:
            return target / path.relative_to(source) if path.is_relative_to(source) else path

        return Code(
            place(self.root),
            place(self.entry),
            tuple(place(root) for root in self.source_roots),
            place(self.working_directory),
            self.notices,
        )


def fetch(job: Request, folder: Path, cwd: Path, access: Access) -> Code:
    """Return the job's script, brought to this machine.

    `folder` receives a remote script or an archive's content: it must not exist, or be empty. A
    local .py stays in place. The working directory is the archive's root, else `cwd`. `access`
    opens remote ones. Raises
    SetupError when the script cannot be had, ParameterError when it is not of a kind that runs.
    """
    location = job.script
    if location.is_local:
        source = _local_script(location, cwd)
        if _is_packed(location, source.name):
            return _from_archive(source, job, folder)
        real = source.resolve().parent
        roots = (source.parent,) if real == source.parent else (source.parent, real)
        return Code(source.parent, source, roots, cwd.absolute())
    remote = _find_remote(location, "script", access)
    packed = _is_packed(location, location.name)
    with _copied(remote, folder) as copy:
        if packed:
            return _from_archive(copy, job, folder)
        folder.mkdir(parents=True, exist_ok=True)
        entry = copy.replace(folder / location.name)
        return Code(folder, entry, (folder,), cwd.absolute())


def read_text(location: Location, cwd: Path, what: str, access: Access) -> str:
    """Return the text of a small file that lies wherever a script may; `what` names its parameter.

    Raises SetupError when it cannot be read, is larger than MAX_TEXT_BYTES or is not UTF-8.
    """
    if location.is_local:
        path = _local_file(location, cwd, what)
        with _reading(location, what, path), path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    else:
        remote = _find_remote(location, what, access)
        content = remote.read() if remote.size <= MAX_TEXT_BYTES else bytes(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise SetupError(
            f"{_named(location, what)}: larger than {MAX_TEXT_BYTES >> 20} MiB",
            f"-D{what} names a small text file; is it the right one?",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SetupError(
            f"{_named(location, what)}: not UTF-8 text (line {line})",
            "save it as UTF-8, for example: iconv -f GB18030 -t UTF-8",
        ) from error


def _named(location: Location, what: str) -> str:
    return f"-D{what}={location}"


# ====== Kinds of scripts ======


def _is_packed(location: Location, name: str) -> bool:
    """Tell whether the script is an archive. Raises ParameterError when it is nothing known."""
    if is_archive(name):
        return True
    if name.lower().endswith(".py"):
        return False
    raise ParameterError(
        "script",
        f"{_named(location, 'script')}: neither a Python script nor an archive",
        f"a script's name ends in .py, an archive's in {', '.join(ARCHIVES)}",
    )


def _from_archive(archive: Path, job: Request, folder: Path) -> Code:
    shown = str(job.script)
    parts = _entry_parts(job.entry_file, shown)
    # Archives are the exception, and what reads them loads slowly.
    from pai_runner.run.archive import unpack

    unpack(archive, folder, shown)
    entry = folder.joinpath(*parts)
    if not entry.is_file():
        raise _no_entry(folder, "/".join(parts), shown)
    if entry.stat().st_size == 0:
        raise SetupError(f"-DentryFile={job.entry_file} in {shown} is empty")
    notices: tuple[str, ...] = ()
    if (folder / "requirements.txt").is_file():
        notices = (
            "the archive's requirements.txt is not installed by itself; install it beforehand: "
            "pip install -r requirements.txt",
        )
    return Code(folder, entry, (folder,), folder, notices)


def _entry_parts(entry_file: str | None, shown: str) -> tuple[str, ...]:
    if not entry_file:
        raise ParameterError(
            "entryFile",
            f"-Dscript={shown} is an archive, and no entryFile says which script in it runs",
            "add for example -DentryFile=main.py, the path from the archive's root",
        )
    path = PurePosixPath(entry_file)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ParameterError(
            "entryFile",
            f"-DentryFile={entry_file} leads out of the archive",
            "write the path from the archive's root, for example main.py or src/main.py",
        )
    return path.parts


def _no_entry(root: Path, entry_file: str, shown: str) -> SetupError:
    found = sorted(
        (path.relative_to(root).as_posix() for path in root.rglob("*.py")),
        key=lambda name: (name.count("/"), name),
    )
    name = entry_file.rsplit("/", 1)[-1]
    close = [path for path in found if path.rsplit("/", 1)[-1] == name]
    close = close or nearest(entry_file, found)
    listed = f"its .py files: {_listing(found)}" if found else "it holds no .py file"
    return SetupError(
        f"-DentryFile={entry_file}: there is no such file in {shown}; {listed}",
        f"did you mean -DentryFile={close[0]}?" if close else "name one of them with -DentryFile",
    )


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


# ====== Local files ======


def _local_script(location: Location, cwd: Path) -> Path:
    path = _local_file(location, cwd, "script")
    with _reading(location, "script", path), path.open("rb") as file:
        if not file.read(1):
            raise SetupError(f"{_named(location, 'script')}: {path} is empty")
    return path


def _local_file(location: Location, cwd: Path, what: str) -> Path:
    """Return the first of the location's readings that is there and is not a folder."""
    here = cwd.absolute()
    candidates = [here / os.path.expanduser(text) for text in script_candidates(location)]
    folders = []
    for path in candidates:
        with _reading(location, what, path):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
        if not S_ISDIR(status.st_mode):
            return path
        folders.append(path)
    if folders:
        raise _is_folder(location, what, _entries(folders[0]))
    tried = " or ".join(map(str, candidates))
    raise SetupError(
        f"{_named(location, what)}: there is no such file: {tried}", _neighbours(candidates[0])
    )


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    return _similar(path.name, str(path.parent), _entries(path.parent))


def _entries(folder: Path) -> list[str]:
    """Return the names in a folder for a hint; none when it may not be listed."""
    try:
        return os.listdir(folder)
    except OSError:  # the error that the hint belongs to is the one to be told
        return []


def _similar(name: str, folder: str, names: list[str]) -> str:
    """Return a hint: the names in `folder` that look like `name`, else its scripts."""
    close = nearest(name, sorted(names)) or _scripts(names)
    return f"in {folder} there is {_listing(close) if close else 'no script that can be seen'}"


def _scripts(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".py") or is_archive(name))


def _is_folder(location: Location, what: str, names: list[str]) -> SetupError:
    listed = _scripts(names) or sorted(names)
    hint = f"name a file in it: {_listing(listed)}" if listed else "name a file"
    return SetupError(f"{_named(location, what)}: a folder, not a file", hint)


@contextmanager
def _reading(location: Location, what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{_named(location, what)}: {path} cannot be read: {error.strerror}",
            "mend its permissions, or those of the folders above it"
            if isinstance(error, PermissionError)
            else None,
        ) from error


# ====== Remote files ======


@dataclass(frozen=True)
class _Remote:
    """A file behind an fsspec filesystem. `size` is in bytes, 0 where it is not told."""

    location: Location
    what: str
    fs: AbstractFileSystem
    path: str
    size: int

    def read(self) -> bytes:
        try:
            return bytes(self.fs.cat_file(self.path))
        except Exception as error:
            raise _unreadable(self.location, self.what, error) from error

    def copy_to(self, target: Path) -> None:
        try:
            self.fs.get_file(self.path, str(target))
        except Exception as error:
            if isinstance(error, OSError) and is_out_of_space(error):
                raise SetupError(
                    f"no space in {target.parents[1]} to copy {self.location} ({error.strerror})",
                    "free some space there, or keep the records elsewhere with PAI_HOME",
                ) from error
            raise _unreadable(self.location, self.what, error) from error


@contextmanager
def _copied(remote: _Remote, folder: Path) -> Iterator[Path]:
    """Yield a local copy of the script, beside `folder`; what is left of it is removed."""
    import tempfile  # loads slowly, and most scripts are local

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        copy = Path(place) / "copy"
        remote.copy_to(copy)
        if copy.stat().st_size == 0:
            raise SetupError(f"{_named(remote.location, remote.what)}: it is empty")
        yield copy


def _find_remote(location: Location, what: str, access: Access) -> _Remote:
    from pai_runner.storage.filesystems import filesystem, options_at

    try:
        options = options_at(location.prefix, access.options(location))
        fs = filesystem(location.protocol, options)
    except SetupError as error:
        raise _unreadable(location, what, error) from error
    path = str(fs._strip_protocol(location.prefix))
    try:
        info = fs.info(path)
    except FileNotFoundError as error:
        # fsspec's http says so too when the server does not answer, and keeps the reason as cause.
        if isinstance(error.__cause__, Exception) and _is_known(error.__cause__):
            raise _unreadable(location, what, error.__cause__) from error
        raise _missing(location, what, fs, path) from error
    except Exception as error:
        raise _unreadable(location, what, error) from error
    if info["type"] == "directory":
        raise _is_folder(location, what, _names(fs, path))
    return _Remote(location, what, fs, path, info.get("size") or 0)


def _missing(location: Location, what: str, fs: AbstractFileSystem, path: str) -> SetupError:
    folder, _, name = path.rpartition("/")
    names = _names(fs, folder) if folder else []
    if not names and location.protocol in OBJECT_STORES and not _exists(fs, location.bucket):
        from pai_runner.storage.filesystems import server_option

        server = server_option(location.protocol)
        return SetupError(
            f"{_named(location, what)}: there is no bucket `{location.bucket}`",
            f"correct the bucket's name, or name its server with ?{server}=",
        )
    shown = location.prefix.rpartition("/")[0]
    return SetupError(
        f"{_named(location, what)}: there is no such file", _similar(name, f"{shown}/", names)
    )


def _names(fs: AbstractFileSystem, folder: str) -> list[str]:
    """Return the names in a remote folder for a hint; none when they cannot be listed."""
    try:
        return [str(entry).rstrip("/").rpartition("/")[2] for entry in fs.ls(folder, detail=False)]
    except Exception:  # the error that the hint belongs to is the one to be told
        return []


def _exists(fs: AbstractFileSystem, bucket: str) -> bool:
    """Tell whether a bucket is there; one that may not be asked for is taken to be."""
    try:
        return bool(fs.exists(bucket))
    except Exception:  # as above
        return True


def _is_known(error: Exception) -> bool:
    from pai_runner.storage.failures import Failure, failure_of

    return failure_of(error) not in (Failure.MISSING, Failure.OTHER)


def _unreadable(location: Location, what: str, error: Exception) -> SetupError:
    from pai_runner.storage import filesystems
    from pai_runner.storage.failures import Failure, describe_error, failure_of

    if isinstance(error, SetupError):  # of credentials, which know best what to do
        return SetupError(f"{_named(location, what)}: {error.message}", error.hint)
    server = filesystems.server_option(location.protocol)
    problems = {
        Failure.MISSING: ("it has vanished", "try again"),
        Failure.DENIED: ("access denied", "check the credentials, and that they may read it"),
        Failure.NO_CREDENTIALS: ("no credentials", filesystems.NO_CREDENTIALS_HINT),
        Failure.UNAVAILABLE: ("the server does not answer", f"check {server} and the network"),
    }
    kind, detail = failure_of(error), describe_error(error)
    problem, hint = problems.get(kind, ("it cannot be read", None))
    return SetupError(f"{_named(location, what)}: {problem} ({detail})", hint)
