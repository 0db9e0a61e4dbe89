"""The supervisor's pen: the record it owns, and the pipe to the launcher."""

from __future__ import annotations

import json
import os
import sys

from pai_runner.jobs.files import now_text, write_all
from pai_runner.jobs.record import append_event, load, write
from pai_runner.jobs.state import State
from pai_runner.run.watch import tail_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from pai_runner.jobs.directory import JobDirectory
    from pai_runner.run.verdict import Verdict

_LAST_LINES = 40


class Journal:
    """Writes the job's record and events, and tells the launcher."""

    def __init__(self, directory: JobDirectory, report: int) -> None:
        self._directory = directory
        self._report = report
        self.record = load(directory)
        self._saved = True

    def save(self, state: State, **changes: Any) -> None:
        """Write the record with `state` and `changes`.

        A full disk, or a home that went away, does not end the job: the record is written
        again at its next change, and the launcher is told how the job ended in any case.
        """
        self.record = self.record.replaced(state=state, **changes)
        try:
            write(self._directory, self.record)
            append_event(self._directory, self.record)
            self._saved = True
        except OSError as error:
            self._saved = False
            print(f"{self._directory.state}: {error}", file=sys.stderr, flush=True)

    def finish(self, verdict: Verdict, secrets: Collection[str], **changes: Any) -> None:
        """Write the final record, redacted, with the last lines of the role that failed."""
        message = verdict.message
        lines: tuple[str, ...] = ()
        if verdict.state is not State.SUCCEEDED:
            # Here, not above: its regular expressions cost a job that succeeds some milliseconds.
            from pai_runner.secret import redact, remember

            for secret in secrets:
                remember(secret)
            message = redact(message)
            if verdict.role is not None:
                stderr = self._directory.role(verdict.role).stderr
                lines = tuple(redact("\n".join(tail_lines(stderr, _LAST_LINES))).splitlines())
        self.save(
            verdict.state,
            reason=verdict.reason,
            exit_code=int(verdict.exit_code),
            kind=verdict.kind,
            message=message,
            role=verdict.role,
            ended=now_text(),
            last_lines=lines,
            **changes,
        )
        # Without the lines, so that it fits into the pipe whether or not it is read.
        final = self.record.replaced(last_lines=(), message=message[:4000])
        self.tell_launcher({"final": final.to_json(), "saved": self._saved})

    def tell_launcher(self, message: dict[str, Any]) -> None:
        """Send a line to the launcher, if it is still there."""
        try:
            write_all(self._report, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            return

    def close(self) -> None:
        """Tell the launcher, by the end of the pipe, that all is said."""
        os.close(self._report)
