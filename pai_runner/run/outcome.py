"""What came of a job."""

from __future__ import annotations

from dataclasses import dataclass

from pai_runner.jobs.record import Record
from pai_runner.jobs.state import Reason, State


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `exit_code` is what `pai` ends with; `role` decided it."""

    job_id: str
    state: State
    reason: Reason | None
    exit_code: int
    role: str | None
    message: str

    @classmethod
    def of(cls, record: Record) -> Outcome:
        """Return the outcome that `record` tells of, which must be final."""
        if record.exit_code is None or not record.state.final:
            raise ValueError(f"job {record.id} is {record.state.value}; it has no outcome")
        return cls(
            record.id, record.state, record.reason, record.exit_code, record.role, record.message
        )
