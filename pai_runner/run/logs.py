"""Copies a job's growing logs to the descriptors of a terminal, a pipe or a file, byte by byte.

The script writes files, so a slow or closed terminal never holds it up; what is copied here is
only the view. Nothing here blocks: an output that takes nothing now is asked again later, so
that the caller's loop still sees signals and the job's end.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Iterable

from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.record import Record, read
from pai_runner.jobs.state import State

_READ_SIZE = 1 << 18
# One turn copies at most this much of a log, so that signals are seen in between.
_TURN_SIZE = 1 << 22
# A pipe that polls as writable takes this much without blocking (POSIX).
_PIPE_SIZE = select.PIPE_BUF
# How often a log is looked at, in seconds: at once after something came, then less and less.
FIRST_DELAY = 0.01
LAST_DELAY = 0.1
# How often the record of a job is read that another process supervises.
_RECORD_DELAY = 0.5


class Stream:
    """One log and the descriptor it is copied to. The log need not exist yet."""

    def __init__(self, path: str, output: int) -> None:
        self._path = path
        self._output = output
        self._input = -1
        self._pending = memoryview(b"")
        self._gone = False
        self._chunk = _chunk_size(output)
        self._poller = select.poll()
        self._poller.register(output, select.POLLOUT)

    @property
    def output(self) -> int:
        return self._output

    @property
    def blocked(self) -> bool:
        """Whether the output must become writable before anything can go on."""
        return bool(self._pending) and not self._gone

    @property
    def gone(self) -> bool:
        """Whether nobody reads the output any more."""
        return self._gone

    def pump(self) -> int:
        """Copy what is there and can be written without blocking; return how many bytes."""
        copied = 0
        while copied < _TURN_SIZE and not self._gone:
            if not self._pending:
                self._pending = memoryview(self._read())
                if not self._pending:
                    break
            written = self._write()
            if written == 0:
                break
            copied += written
            self._pending = self._pending[written:]
        return copied

    def close(self) -> None:
        """Close the log; the output is the caller's."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _read(self) -> bytes:
        if self._input < 0:
            try:
                self._input = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
        return os.read(self._input, _READ_SIZE)

    def _write(self) -> int:
        if not self._poller.poll(0):
            return 0
        try:
            return os.write(self._output, self._pending[: self._chunk])
        except BlockingIOError:
            return 0
        except OSError:
            # A closed pipe or terminal, a full disk: output that nobody can take does not end
            # a job, and the log has it all.
            self._gone = True
            return 0


class Follower:
    """Several logs, copied side by side."""

    def __init__(self, pairs: Iterable[tuple[str, int]]) -> None:
        self._streams = [Stream(path, output) for path, output in pairs]
        self._delay = FIRST_DELAY

    def pump(self) -> bool:
        """Copy what can be copied now; return whether anything was."""
        # A list: every stream has its turn, also when the first had something.
        moved = any([stream.pump() for stream in self._streams])  # noqa: C419
        self._delay = FIRST_DELAY if moved else min(2 * self._delay, LAST_DELAY)
        return moved

    @property
    def delay(self) -> float:
        """How many seconds to wait before the logs are worth another look."""
        return self._delay

    @property
    def blocked(self) -> list[int]:
        """The outputs that must become writable first."""
        return sorted({stream.output for stream in self._streams if stream.blocked})

    @property
    def lost_reader(self) -> bool:
        """Whether an output is not read any more."""
        return any(stream.gone for stream in self._streams)

    def close(self) -> None:
        """Close the logs."""
        for stream in self._streams:
            stream.close()


def follow(
    directory: JobDirectory, stdout: int | None, stderr: int | None, to_end: bool = True
) -> Record:
    """Copy a job's logs from their beginning; return its record.

    Goes on until the job's state is final and all is copied, or until somebody stops reading
    one of the outputs. With `to_end` false only what is there now is copied. An output that is
    None is left out. A record that cannot be read tells no end, and is not waited for.
    """
    streams: dict[str, Follower] = {}
    record, read_at = read(directory), time.monotonic()
    while True:
        for role in directory.printing():
            if role.path not in streams:
                pairs = ((role.stdout, stdout), (role.stderr, stderr))
                streams[role.path] = Follower((path, fd) for path, fd in pairs if fd is not None)
        # In this order: what the job printed before it became final is copied after.
        over = record.state.final or record.state is State.UNKNOWN or not to_end
        moved = any([follower.pump() for follower in streams.values()])  # noqa: C419
        blocked = sorted({fd for follower in streams.values() for fd in follower.blocked})
        if any(follower.lost_reader for follower in streams.values()):
            break
        if over and not moved and not blocked:
            break
        delay = min((follower.delay for follower in streams.values()), default=LAST_DELAY)
        _wait_writable(blocked, LAST_DELAY if blocked else delay)
        if time.monotonic() - read_at > _RECORD_DELAY:
            record, read_at = read(directory), time.monotonic()
    for follower in streams.values():
        follower.close()
    return read(directory)


def _wait_writable(descriptors: list[int], seconds: float) -> None:
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLOUT)
    poller.poll(seconds * 1000)


def _chunk_size(output: int) -> int:
    """Return how much to write at once: all to a file; to others what they take at once."""
    try:
        return _READ_SIZE if stat.S_ISREG(os.fstat(output).st_mode) else _PIPE_SIZE
    except OSError:
        # A closed descriptor; the first write says so.
        return _PIPE_SIZE
