"""Copies what a script writes into a staged folder back to the bucket, in TensorFlow's order.

A pass looks at `latest.json` first, then at the entries (`checkpoint`, saved_model.pb), then at the
indexes, then at all else, and copies in the opposite order. So what an entry names was seen after
it, and is copied before it. A file goes only as a whole, and only over the version that this job
knows.

Beyond an object store's means: a checkpoint that is saved again under the same name is, between
the copies of its data and of its index, neither the old nor the new one.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum

from pai_runner.storage.checksums import crc64
from pai_runner.storage.failures import Failure, describe_error, failure_of
from pai_runner.storage.lanes import lanes
from pai_runner.storage.names import (
    Rank,
    is_checkpoint_part,
    is_events,
    is_in_hands,
    is_pointer,
    is_renamed_into_place,
    is_temporary,
    needs,
    rank_of,
    relative_pointer,
)
from pai_runner.storage.objects import PART
from pai_runner.storage.stage_files import (
    ChangingError,
    FileState,
    Tree,
    check_unchanged,
    open_for_writing,
    walk,
)
from pai_runner.storage.stage_manifest import Manifest
from pai_runner.storage.stage_progress import Progress
from pai_runner.storage.transfer import Bucket, Remote, Stopped, upload

# A file may be written again within one tick of the clock that stamps it, and look the same.
_TICK_NS = 50_000_000
# A kill closes files as well, and is told a moment later: what was written just now may be cut off.
_SETTLED_NS = 1_000_000_000
# Files that are sent in parts, each several at once, go two at a time: while one is completed, the
# other is sent.
_LARGE_AT_ONCE = 2
# The last bytes of an index: TensorFlow's tables end so (table/format.h, kTableMagicNumber).
_INDEX_END = struct.pack("<Q", 0xDB4775248B80FB57)


class Moment(Enum):
    """When a pass runs: among the script's writes, or after its end, in order or killed."""

    RUNNING = "running"
    CLEAN = "clean"
    KILLED = "killed"


@dataclass
class Outcome:
    """What a pass did not copy, by name and with the reason.

    `later` is left for a later pass, `ignored` is nothing to copy; `is_transient` says that to try
    again may help.
    """

    conflicts: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    is_transient: bool = False

    def leave_changing(self, name: str) -> None:
        """Leave a file for later because it did not hold still."""
        self.later[name] = "it changes while it is copied"
        self.is_transient = True


@dataclass
class _Candidate:
    name: str
    state: FileState
    content: bytes | None = None


class _ConflictError(Exception):
    """An object is not what this job read or wrote."""


@dataclass
class CopyBack:
    """The way back from the folder `files` to `bucket`; counts what it did."""

    bucket: Bucket
    folder: str
    manifest: Manifest
    files: int = 0
    bytes: int = 0
    deleted: int = 0
    _last: dict[str, FileState] = field(default_factory=dict)
    _absent: set[str] = field(default_factory=set)
    _seen_closed: dict[str, FileState] = field(default_factory=dict)

    def run(self, moment: Moment) -> Outcome:
        """Copy once all that is new or changed. Raises Stopped; failures are in the outcome."""
        tree = first = walk(self.folder)
        outcome = Outcome()
        missing = [
            name
            for name in self.manifest.entries
            if name not in first.files
            # A walk is not one moment: what is gone may have gone after the `checkpoint` file
            # that names it was seen, or have moved from a place to come to one that was seen.
            and (moment is not Moment.RUNNING or name in self._absent)
        ]
        ranks: dict[Rank, list[_Candidate]] = {}
        for rank in sorted(Rank, reverse=True):
            ranks[rank] = self._candidates(tree, rank, moment, outcome)
            if ranks[rank] and rank is not Rank.CONTENT:
                tree = walk(self.folder)
        for rank in (Rank.ENTRY, Rank.LATEST):
            self._drop_replaced(ranks[rank], tree, outcome)
        self._last = tree.files
        self._absent = {name for name in self.manifest.entries if name not in tree.files}
        todo = sum(one.state.size for candidates in ranks.values() for one in candidates)
        what = f"copying back to {self.bucket.prefix}"
        is_quiet = moment is Moment.RUNNING or todo == 0
        with Progress(what, todo, is_quiet) as progress:
            for rank in Rank:
                if not outcome.failures:
                    self._copy_rank(ranks[rank], outcome, progress)
                else:
                    self._leave(ranks[rank], "an earlier file could not be copied", outcome)
        outcome.ignored = tree.ignored
        if tree.exists and not tree.unreadable and self._is_in_order(outcome):
            self._delete(missing, tree, moment, outcome)
        outcome.failures |= {**tree.unnamed, **tree.unreadable}
        return outcome

    # ====== What to copy ======

    def _candidates(
        self, tree: Tree, rank: Rank, moment: Moment, outcome: Outcome
    ) -> list[_Candidate]:
        """Return what of this rank is changed and whole."""
        changed = {
            name: state
            for name, state in tree.files.items()
            if rank_of(name) is rank
            and not is_temporary(name)
            and not is_in_hands(name)
            and not self.manifest.is_same(name, state)
        }
        reasons = self._unfinished(changed, moment)
        outcome.later.update(reasons)
        found = [_Candidate(name, state) for name, state in changed.items() if name not in reasons]
        if rank >= Rank.ENTRY:
            found = [one for one in found if self._take_content(one, outcome)]
        return found

    def _unfinished(self, changed: dict[str, FileState], moment: Moment) -> dict[str, str]:
        """Return those of `changed` that may not be complete, and why."""
        if moment is Moment.CLEAN:
            return {}
        if moment is Moment.KILLED:
            reason = "it may be incomplete: nobody saw it closed before the script was killed"
            return {
                name: reason for name, state in changed.items() if self._is_doubtful(name, state)
            }
        watched = {name: state for name, state in changed.items() if not is_events(name)}
        is_open = self._open(watched)
        now = time.time_ns()
        reasons = {}
        for name, state in watched.items():
            settled = _TICK_NS if is_renamed_into_place(name) else _SETTLED_NS
            if name in is_open or abs(now - state.mtime_ns) < settled:
                reasons[name] = "it is being written"
            else:
                self._seen_closed[name] = state
        return reasons

    def _open(self, changed: dict[str, FileState]) -> set[str]:
        found = open_for_writing(state.file for state in changed.values())
        if found is None:  # what did not change since the last pass has no busy writer
            return {name for name, state in changed.items() if self._last.get(name) != state}
        return {name for name, state in changed.items() if state.file in found}

    def _is_doubtful(self, name: str, state: FileState) -> bool:
        """Tell whether a file that nobody saw closed may have been cut off by a kill."""
        if self._seen_closed.get(name) == state or is_events(name) or is_renamed_into_place(name):
            return False
        # TensorFlow writes the index of merged parts in its final place.
        return rank_of(name) is not Rank.INDEX or not _is_whole_index(self._path(name))

    def _take_content(self, candidate: _Candidate, outcome: Outcome) -> bool:
        """Keep what an entry says now, before what it names is looked at. False if it changes."""
        if candidate.state.size > PART:
            return True
        path = self._path(candidate.name)
        try:
            with open(path, "rb") as file:
                candidate.content = file.read()
                check_unchanged(path, file.fileno(), candidate.state)
        except (ChangingError, FileNotFoundError):
            outcome.leave_changing(candidate.name)
            return False
        except OSError as error:
            outcome.failures[candidate.name] = describe_error(error)
            return False
        if is_pointer(candidate.name):
            candidate.content = relative_pointer(candidate.content, candidate.name, self.folder)
        return True

    def _drop_replaced(self, entries: list[_Candidate], tree: Tree, outcome: Outcome) -> None:
        """Leave the entries that were replaced meanwhile: what they named may be gone by now."""
        for one in list(entries):
            if tree.files.get(one.name) != one.state:
                entries.remove(one)
                outcome.leave_changing(one.name)

    # ====== Copies ======

    def _copy_rank(
        self, candidates: Iterable[_Candidate], outcome: Outcome, progress: Progress
    ) -> None:
        ready = []
        for one in candidates:
            if self._is_blocked(one, outcome):
                self._leave([one], "what it stands for is not copied", outcome)
            else:
                ready.append(one)
        states = {one.name: one.state for one in ready}
        # A lane must not wait for the lanes that send parts.
        with ThreadPoolExecutor(_LARGE_AT_ONCE) as large:
            futures = {
                one.name: (large if one.state.size > PART else lanes()).submit(self._copy, one)
                for one in ready
            }
            for name, _ in self._results(futures, outcome):
                self.files += 1
                self.bytes += states[name].size
                progress.add(states[name].size)

    def _results(
        self, futures: Mapping[str, Future[bool]], outcome: Outcome
    ) -> Iterator[tuple[str, bool]]:
        """Yield what was answered for each name; the rest goes to the outcome.

        When the server does not answer, what was not begun is left.
        """
        for name, future in futures.items():
            try:
                yield name, future.result()
            except Stopped:
                raise
            except _ConflictError:
                outcome.conflicts.add(name)
            except CancelledError:
                outcome.later[name] = "the server does not answer"
            except ChangingError:
                outcome.leave_changing(name)
            except Exception as error:
                told = describe_error(error).removeprefix(f"{self.bucket.key(name)}: ")
                outcome.failures[name] = told
                if failure_of(error) is Failure.UNAVAILABLE:
                    outcome.is_transient = True
                    for other in futures.values():
                        other.cancel()

    def _is_blocked(self, candidate: _Candidate, outcome: Outcome) -> bool:
        """Tell whether something that must come before the candidate is not in the bucket."""
        rank = rank_of(candidate.name)
        wanted = needs(candidate.name, candidate.content or b"")
        refused = {*outcome.conflicts, *outcome.failures}
        later = outcome.later if rank is Rank.LATEST else filter(is_checkpoint_part, outcome.later)
        absent = {*refused, *later}
        if any(name.startswith(wanted) for name in absent):
            return True
        directory = candidate.name.rpartition("/")[0]
        return rank is Rank.ENTRY and any(_is_below(name, directory) for name in refused)

    def _leave(self, candidates: Iterable[_Candidate], reason: str, outcome: Outcome) -> None:
        for one in candidates:
            outcome.later[one.name] = reason

    def _copy(self, candidate: _Candidate) -> bool:
        """Copy one file. Raises _ConflictError, ChangingError, OSError."""
        name, state, content = candidate.name, candidate.state, candidate.content
        self._known(name)

        def begin(digest: int) -> None:
            size = state.size if content is None else len(content)
            self.manifest.begin(name, state.content, size, digest)

        if content is not None:
            begin(crc64(content))
            version = self.bucket.write(name, content)
        else:
            version = upload(
                self.bucket, name, self._path(name), state, begin, may_grow=is_events(name)
            )
        self.manifest.copied(name, state.content, version)
        return True

    def _known(self, name: str) -> Remote | None:
        """Return the object, which is what this job read or wrote, or None where there is none.

        Raises _ConflictError where another wrote it, OSError.
        """
        remote = self.bucket.find(name)
        if remote is None or remote.version == self.manifest.version(name):
            return remote
        begun = self.manifest.intent(name)
        # Our own, of a mover that was killed, or whose answer was lost?
        if begun is None or begun.size != remote.size:
            raise _ConflictError
        if begun.crc64 != self.bucket.digest(name, remote):
            raise _ConflictError
        self.manifest.copied(name, begun.content, remote.version)
        return remote

    # ====== Deletions ======

    def _is_in_order(self, outcome: Outcome) -> bool:
        """Tell whether all entries and indexes are in the bucket as they were seen."""
        left = {*outcome.conflicts, *outcome.later}
        return not outcome.failures and all(rank_of(name) is Rank.CONTENT for name in left)

    def _delete(self, missing: list[str], tree: Tree, moment: Moment, outcome: Outcome) -> None:
        """Remove from the bucket what the script removed: entries first, then what they name."""
        gone = [name for name in missing if name not in tree.files and name not in tree.ignored]
        if moment is not Moment.CLEAN:  # what is half removed is not removed yet
            held = tuple(prefix for name in tree.files for prefix in _standing_on(name))
            gone = [name for name in gone if not name.startswith(held)]
        for rank in sorted(Rank, reverse=True):
            names = [name for name in gone if rank_of(name) is rank]
            futures = {name: lanes().submit(self._remove, name) for name in names}
            for _, is_removed in self._results(futures, outcome):
                self.deleted += is_removed
            if outcome.failures:
                return

    def _remove(self, name: str) -> bool:
        """Remove an object; return whether it was there. Raises _ConflictError, OSError."""
        is_there = self._known(name) is not None
        if is_there:
            self.bucket.remove(name)
        self.manifest.gone(name)
        return is_there

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)


def _is_below(name: str, directory: str) -> bool:
    return not directory or name.startswith(directory + "/")


def _standing_on(name: str) -> tuple[str, ...]:
    """Return what a file needs; a `checkpoint` file names less before the rest is removed."""
    return () if name.rpartition("/")[2] == "checkpoint" else needs(name)


def _is_whole_index(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-len(_INDEX_END), os.SEEK_END)
            return file.read() == _INDEX_END
    except OSError:  # shorter than that, or gone
        return False
