"""What killed jobs and copies have left below a location, and what of it may go.

Only what can be nothing else is listed: uploads in parts that have not ended, files under names
that TensorFlow, publishing and downloads rename before they count, and data and indexes of
checkpoints of which the other half is missing. What a `checkpoint` file names is never listed, nor
is a whole checkpoint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pai_runner.errors import PaiError
from pai_runner.storage.bucket_tree import BucketTree
from pai_runner.storage.failures import describe_error
from pai_runner.storage.lanes import lanes
from pai_runner.storage.local_tree import is_unfinished
from pai_runner.storage.names import is_in_hands, is_pointer, is_temporary, needs
from pai_runner.storage.trees import Entry, StoreTree, Tree

_DATA = re.compile(r"(?P<prefix>.*)\.data-(?P<shard>\d{5})-of-(?P<shards>\d{5})", re.DOTALL)
_INDEX = ".index"
# The end of TensorFlow's index files (tensorflow/core/lib/io/format.h, kTableMagicNumber).
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
# How savers of TensorFlow and people call checkpoints; others are told by what lies beside them.
_USUAL_NAME = re.compile(r"ckpt|(^|/)variables/variables$", re.IGNORECASE)
_STEP = re.compile(r"-\d+$")


class What(Enum):
    """Kinds of leftovers, as users read them."""

    UPLOAD = "upload in parts that has not ended"
    TEMPORARY = "temporary file of TensorFlow"
    PUBLISHING = "left by a publisher"
    DOWNLOAD = "unfinished download"
    DATA = "data of a checkpoint without its index"
    INDEX = "index of a checkpoint without its data"


@dataclass(frozen=True)
class Leftover:
    """Something that is left: its size in bytes, or None where the store does not tell.

    `written_ns` is when it was written, None where that is not known; `upload` is an upload's id.
    """

    what: What
    name: str
    size: int | None
    written_ns: int | None
    upload: str = ""

    def age(self, now: float) -> float | None:
        """Return its age in seconds at the time `now`, or None."""
        return None if self.written_ns is None else now - self.written_ns / 1e9


@dataclass
class Leftovers:
    """What was found, and what could not be looked at or is wrong otherwise."""

    found: list[Leftover] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def leftovers_of(tree: Tree) -> Leftovers:
    """Return what is left below a directory. Raises OSError, SetupError."""
    result = Leftovers()
    files = tree.find()
    plain: dict[str, Entry] = {}
    for name, entry in files.items():
        what = _by_name(tree, name)
        if what is None:
            plain[name] = entry
        else:
            result.found.append(_leftover(what, name, entry))
    _add_checkpoints(tree, plain, result)
    _add_uploads(tree, result)
    result.found.sort(key=lambda one: (one.what.value, one.name))
    return result


def clean(tree: Tree, leftovers: Sequence[Leftover]) -> dict[str, str]:
    """Remove leftovers; return why, for those that stay."""
    files = [one.name for one in leftovers if not one.upload]
    failures = tree.remove(files)
    tree.remove_directories(files)
    if isinstance(tree, StoreTree):
        uploads = [one for one in leftovers if one.upload]
        ends = [lanes().submit(_abort, tree, one) for one in uploads]
        for one, end in zip(uploads, ends, strict=True):
            try:
                end.result()
            except (OSError, PaiError) as error:
                failures[one.name] = describe_error(error)
    return failures


def _abort(tree: StoreTree, upload: Leftover) -> None:
    tree.objects.resume(tree.path(upload.name), upload.upload, {}).abort()


def _by_name(tree: Tree, name: str) -> What | None:
    if is_temporary(name):
        return What.TEMPORARY
    if is_in_hands(name):
        return What.PUBLISHING
    return What.DOWNLOAD if tree.is_local and is_unfinished(name) else None


def _leftover(what: What, name: str, entry: Entry) -> Leftover:
    return Leftover(what, name, entry.size, entry.modified_ns or None)


# ====== Uploads ======


def _add_uploads(tree: Tree, result: Leftovers) -> None:
    if not isinstance(tree, BucketTree):
        return
    try:
        for name, upload, began in tree.uploads():
            result.found.append(Leftover(What.UPLOAD, name, None, began, upload))
    except PermissionError as error:
        result.notes.append(f"uploads in parts are not listed: {describe_error(error)}")


# ====== Checkpoints ======


def _add_checkpoints(tree: Tree, files: Mapping[str, Entry], result: Leftovers) -> None:
    """Add the halves of checkpoints that no `checkpoint` file names."""
    named = _named(tree, files, result)
    data: defaultdict[str, list[str]] = defaultdict(list)
    for name in files:
        found = _DATA.fullmatch(name)
        if found is not None:
            data[found["prefix"]].append(name)
    prefixes = [name.removesuffix(_INDEX) for name in files if name.endswith(_INDEX)]
    is_index = _indexes(tree, files, [one for one in prefixes if not _is_whole(data.get(one, ()))])
    for prefix, ours in is_index.items():
        if ours and not f"{prefix}.".startswith(named):
            result.found += _halves(What.INDEX, [f"{prefix}{_INDEX}", *data[prefix]], files)
    for prefix, names in data.items():
        is_alone = prefix not in prefixes and not f"{prefix}.".startswith(named)
        if is_alone and _is_tensors(prefix, files):
            result.found += _halves(What.DATA, names, files)


def _halves(what: What, names: Iterable[str], files: Mapping[str, Entry]) -> list[Leftover]:
    """Return the files of one checkpoint: all are as young as the youngest of them."""
    entries = {name: files[name] for name in names}
    times = [entry.modified_ns for entry in entries.values()]
    youngest = max(times) if all(times) else None
    return [Leftover(what, name, entry.size, youngest) for name, entry in entries.items()]


def _named(tree: Tree, files: Mapping[str, Entry], result: Leftovers) -> tuple[str, ...]:
    """Return how the files begin that `checkpoint` files name; note what they name in vain."""
    named: list[str] = []
    for name, entry in files.items():
        if not is_pointer(name):
            continue
        content = bytes(tree.piece(name, entry, 0, entry.size))
        for one in needs(name, content):
            named.append(one)
            if one.endswith(".") and f"{one[:-1]}{_INDEX}" not in files:
                text = f"{tree.shown(name)} names {one[:-1]}, which has no index"
                result.notes.append(text)
    return tuple(named)


def _is_whole(names: Sequence[str]) -> bool:
    """Tell whether data files are all of one checkpoint."""
    by_count: defaultdict[int, set[int]] = defaultdict(set)
    for name in names:
        found = _DATA.fullmatch(name)
        assert found is not None
        by_count[int(found["shards"])].add(int(found["shard"]))
    return any(shards >= set(range(count)) for count, shards in by_count.items())


def _indexes(tree: Tree, files: Mapping[str, Entry], prefixes: Sequence[str]) -> dict[str, bool]:
    """Tell of files `….index` whether TensorFlow has written them: others call files so, too."""
    asked = {one: lanes().submit(_is_table, tree, f"{one}{_INDEX}", files) for one in prefixes}
    return {prefix: answer.result() for prefix, answer in asked.items()}


def _is_table(tree: Tree, name: str, files: Mapping[str, Entry]) -> bool:
    entry, count = files[name], len(_TABLE_MAGIC)
    if entry.size < count:
        return False
    return bytes(tree.piece(name, entry, entry.size - count, count)) == _TABLE_MAGIC


def _is_tensors(prefix: str, files: Mapping[str, Entry]) -> bool:
    """Tell whether data files without an index are a checkpoint's: data sets are named alike."""
    if _USUAL_NAME.search(prefix):
        return True
    stem = _STEP.sub("", prefix)
    return any(
        name.endswith((_INDEX, ".meta")) and _STEP.sub("", name.rpartition(".")[0]) == stem
        for name in files
    )
