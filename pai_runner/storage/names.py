"""What the names of TensorFlow's files say: which are temporary, and which must come after which.

A checkpoint is its data files, then its index, then the `checkpoint` file that names it; a
SavedModel is all below its directory, then saved_model.pb; after all versions of a model comes
`latest.json`, which names one of them. Whoever copies them keeps this order, so that nothing is
ever named that is not there whole.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from enum import IntEnum

# TensorFlow writes under these names, then renames (tensor_bundle.cc, file_io's
# atomic_write_string_to_file): they stay local until then.
_UNFINISHED = re.compile(r"\.tempstate\d+$|\.tmp[0-9a-f]{32}$")
# The files of a part of a sharded checkpoint (saver.py, functional_saver.py). When all parts are
# there, one process merges them (MergeV2Checkpoints): it reads and deletes the indexes, and
# renames the data. They stay local too, as long as that process is the one that wrote them.
_PART = re.compile(
    r"(?P<prefix>.*)(_temp/part|\.part)-(?P<shard>\d{5})-of-(?P<shards>\d{5})"
    r"\.(index|data-(?P<file>\d{5}-of-\d{5}))",
    re.DOTALL,
)
_BUNDLE_DATA = re.compile(r"\.data-\d{5}-of-\d{5}\.tempstate\d+$")
_TEMPORARY_DIRECTORY = re.compile(r"_temp$")

# What publishing (the room `models`) has in its hands: a version before it is one and after, and a
# file before it has its name.
_IN_HANDS = re.compile(r"(^|/)\.((staging|removed)-[0-9a-f]{32}/|tmp-[^/]+$)")
# Which version is to be served: `latest.json`, a copy of the last of `.latest/000000000001`, …
_LATEST = re.compile(r"(?P<directory>(.*/)?)(latest\.json|\.latest/\d{12})", re.ASCII)

_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_EVENTS = re.compile(r"(^|/)[^/]*events\.out\.tfevents[^/]*$")
# A line of a `checkpoint` file as protobuf's text_format writes it, and an escape in its text.
_NAMED_CHECKPOINT = re.compile(
    rb'(?m)^(\s*(?:all_)?model_checkpoint_paths?:\s*)"((?:[^"\\\n]|\\.)*)"\s*?$'
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class Rank(IntEnum):
    """The order in which files are copied; they are deleted the other way round."""

    CONTENT = 0
    INDEX = 1
    ENTRY = 2
    LATEST = 3


def has_plain_parts(path: str) -> bool:
    """Tell whether no part of a path is empty, `.` or `..`: it names one place, below its top."""
    return {"", ".", ".."}.isdisjoint(path.split("/"))


def is_temporary(path: str, is_alone: bool = True) -> bool:
    """Tell whether TensorFlow will rename the file before it counts.

    `is_alone`: no other process saves the same checkpoint, and waits for the parts of this one.
    """
    if _UNFINISHED.search(path) is not None:
        return True
    return is_alone and _PART.fullmatch(path) is not None


def final_name(path: str, is_alone: bool = True) -> str | None:
    """Return the name that the file at `path` will have when TensorFlow is done with it.

    None when its name does not tell, or when it will be deleted. `is_alone` is that of
    `is_temporary`: a part that others wait for has its own name until they rename it.
    """
    path = _UNFINISHED.sub("", path)
    part = _PART.fullmatch(path) if is_alone else None
    if part is None:
        return path
    # The data files of all parts are numbered anew: known only where each part has one.
    is_only = part["file"] == "00000-of-00001"
    return f"{part['prefix']}.data-{part['shard']}-of-{part['shards']}" if is_only else None


def is_in_hands(path: str) -> bool:
    """Tell whether publishing is still at the file, or what it left behind when it was killed."""
    return _IN_HANDS.search(path) is not None


def is_bundle_data(path: str) -> bool:
    """Tell whether it is a checkpoint's data under the name that TensorFlow writes it by.

    It is only appended to, and renamed when it is whole (BundleWriter in tensor_bundle.cc).
    """
    return _BUNDLE_DATA.search(path) is not None


def is_temporary_directory(path: str) -> bool:
    """Tell whether the name is one of TensorFlow's for the parts of a checkpoint."""
    return _TEMPORARY_DIRECTORY.search(path) is not None


def rank_of(path: str) -> Rank:
    """Return the rank of a file by its name."""
    name = path.rpartition("/")[2]
    if _LATEST.fullmatch(path):
        return Rank.LATEST
    if name in ("checkpoint", "saved_model.pb", "saved_model.pbtxt"):
        return Rank.ENTRY
    return Rank.INDEX if name.endswith(".index") else Rank.CONTENT


def is_events(path: str) -> bool:
    """Tell whether it is a file of summaries: they only grow, and a beginning of one is valid."""
    return _EVENTS.search(path) is not None


def is_renamed_into_place(path: str) -> bool:
    """Tell whether the file is always written elsewhere first: under its name it is whole."""
    name = path.rpartition("/")[2]
    if rank_of(path) is Rank.LATEST:
        return True
    return name == "checkpoint" or name.endswith(".meta") or _DATA.search(name) is not None


def is_data(path: str) -> bool:
    """Tell whether it is a data file of a checkpoint."""
    return _DATA.search(path) is not None


def is_checkpoint_part(path: str) -> bool:
    """Tell whether an index or a `checkpoint` file stands for this one."""
    return rank_of(path) is Rank.INDEX or is_data(path)


def is_of_checkpoint(path: str) -> bool:
    """Tell whether it is a file that Saver or CheckpointManager writes."""
    return is_checkpoint_part(path) or is_pointer(path) or path.endswith(".meta")


def needs(path: str, content: bytes = b"") -> tuple[str, ...]:
    """Return how the names begin of the files that must be there before the file at `path`.

    `content` is that of a `checkpoint` file, which names checkpoints relative to its directory, or
    of `latest.json`, which names a version.
    """
    latest = _LATEST.fullmatch(path)
    if latest:
        return _version_named(latest["directory"], content)
    directory, slash, _ = path.rpartition("/")
    if rank_of(path) is Rank.INDEX:
        return (f"{path.removesuffix('.index')}.data-",)
    if rank_of(path) is Rank.CONTENT:
        return ()
    named = [
        posixpath.normpath(posixpath.join(directory, _unescaped(text).decode(errors="replace")))
        for _, text in _NAMED_CHECKPOINT.findall(content)
    ]
    if not is_pointer(path) or not named or any(one.startswith(("/", "../")) for one in named):
        return (f"{directory}{slash}",)
    return tuple(f"{one}." for one in named)


def _version_named(directory: str, content: bytes) -> tuple[str, ...]:
    try:
        return (f"{directory}{int(json.loads(content)['version'])}/",)
    except (ValueError, KeyError, TypeError, OverflowError):
        return ()  # a file of the script's own, of the same name


def is_pointer(path: str) -> bool:
    """Tell whether it is a `checkpoint` file, which names the checkpoints of its directory."""
    return path.rpartition("/")[2] == "checkpoint"


def relative_pointer(content: bytes, path: str, root: str) -> bytes:
    """Return what the `checkpoint` file at `path` below the folder `root` should say elsewhere.

    tf.compat.v1.train.Saver writes where on this machine a checkpoint lies. Where that is below
    `root`, it becomes relative to the file's directory, as TensorFlow reads it (checkpoint
    management's get_checkpoint_state). The rest stays as it is.
    """
    directory = os.fsencode(os.path.join(root, os.path.dirname(path)))
    roots = tuple(os.fsencode(one) + b"/" for one in (root, os.path.realpath(root)))

    def replaced(match: re.Match[bytes]) -> bytes:
        named = os.path.normpath(_unescaped(match[2]))
        for one in roots:
            if named.startswith(one):
                named = os.path.join(os.fsencode(root), named[len(one) :])
                return match[1] + b'"' + _escaped(os.path.relpath(named, directory)) + b'"'
        return match[0]

    return _NAMED_CHECKPOINT.sub(replaced, content)


def _unescaped(text: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code[:1].isdigit():
            return bytes([int(code, 8) & 0xFF])
        if code[:1] == b"x" and len(code) > 1:
            return bytes([int(code[1:], 16)])
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(plain, text)


def _escaped(text: bytes) -> bytes:
    return re.sub(rb'["\\\x00-\x1f\x7f]', lambda match: b"\\%03o" % match[0][0], text)
