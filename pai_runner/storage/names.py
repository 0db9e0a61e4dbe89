"""What the names of TensorFlow's files say: which are temporary, and which must come after which.

A checkpoint is its data files, then its index, then the `checkpoint` file that names it; a
SavedModel is all below its directory, then saved_model.pb. Whoever copies them keeps this order,
so that nothing is ever named that is not there whole.
"""

from __future__ import annotations

import re
from enum import IntEnum

# TensorFlow writes under these names, then renames (tensor_bundle.cc, saver.py,
# functional_saver.py, file_io.atomic_write_string_to_file): they stay local until then. The
# parts of a sharded checkpoint are read back by the process that merges them, which is this
# one as long as a job has one worker.
_TEMPORARY = re.compile(
    r"\.tempstate\d+$"
    r"|(_temp/part|\.part)-\d{5}-of-\d{5}\.(index|data-\d{5}-of-\d{5})$"
    r"|\.tmp[0-9a-f]{32}$"
)
_TEMPORARY_DIRECTORY = re.compile(r"_temp$")

_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_EVENTS = re.compile(r"(^|/)[^/]*events\.out\.tfevents[^/]*$")
_NAMED_CHECKPOINT = re.compile(r'(?m)^\s*(?:all_)?model_checkpoint_paths?:\s*"([^"\\]*)"\s*$')


class Rank(IntEnum):
    """The order in which files are copied; they are deleted the other way round."""

    CONTENT = 0
    INDEX = 1
    ENTRY = 2


def is_temporary(path: str) -> bool:
    """Tell whether TensorFlow will rename the file before it counts."""
    return _TEMPORARY.search(path) is not None


def is_temporary_directory(path: str) -> bool:
    """Tell whether the name is one of TensorFlow's for the parts of a checkpoint."""
    return _TEMPORARY_DIRECTORY.search(path) is not None


def rank_of(path: str) -> Rank:
    """Return the rank of a file by its name."""
    name = path.rpartition("/")[2]
    if name in ("checkpoint", "saved_model.pb", "saved_model.pbtxt"):
        return Rank.ENTRY
    return Rank.INDEX if name.endswith(".index") else Rank.CONTENT


def is_events(path: str) -> bool:
    """Tell whether it is a file of summaries: they only grow, and a beginning of one is valid."""
    return _EVENTS.search(path) is not None


def is_renamed_into_place(path: str) -> bool:
    """Tell whether TensorFlow writes the file elsewhere first: under its name it is whole."""
    name = path.rpartition("/")[2]
    return name == "checkpoint" or name.endswith(".meta") or _DATA.search(name) is not None


def is_checkpoint_part(path: str) -> bool:
    """Tell whether an index or a `checkpoint` file stands for this one."""
    return rank_of(path) is Rank.INDEX or _DATA.search(path) is not None


def needs(path: str, content: bytes = b"") -> tuple[str, ...]:
    """Return how the names begin of the files that must be there before the file at `path`.

    `content` is that of a `checkpoint` file, which names checkpoints relative to its directory.
    """
    directory, slash, name = path.rpartition("/")
    if rank_of(path) is Rank.INDEX:
        return (f"{path.removesuffix('.index')}.data-",)
    if rank_of(path) is Rank.CONTENT:
        return ()
    named = _NAMED_CHECKPOINT.findall(content.decode(errors="replace"))
    if name != "checkpoint" or not named or any(one.startswith("/") for one in named):
        return (f"{directory}{slash}",)
    return tuple(f"{directory}{slash}{one}." for one in named)
