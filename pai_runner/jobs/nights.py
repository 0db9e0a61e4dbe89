"""What became of each job, night by night: the jobs of one name and one day are one night.

A night is the local date on which a job was started. Several jobs of a night are retries or
reruns: the last one's state is the night's, and its length is that of all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from pai_runner.jobs.record import Record
from pai_runner.jobs.state import State


@dataclass(frozen=True)
class Night:
    """`ids` are the night's jobs, oldest first; `seconds` is how long they ran altogether.

    Of one that was lost nobody knows how long it ran: it counts as nothing.
    """

    date: date
    state: State
    seconds: float
    ids: tuple[str, ...]


def nights_of(
    records: Iterable[Record], now: datetime, zone: tzinfo | None = None
) -> dict[str, list[Night]]:
    """Return the nights of each job name, newest first; the name that ran last comes first.

    `now` is aware of its zone: until then has run what still runs. `zone` says which date a night
    has, by default the machine's. Records without a time are left out.
    """
    jobs: dict[str, dict[date, list[tuple[datetime, Record]]]] = {}
    timed = [(_time(record.started or record.created), record) for record in records]
    for began, record in sorted(
        ((began, record) for began, record in timed if began is not None),
        key=lambda pair: (pair[0], pair[1].id),
        reverse=True,
    ):
        by_date = jobs.setdefault(record.job_name, {})
        by_date.setdefault(began.astimezone(zone).date(), []).insert(0, (began, record))
    return {
        name: [_night(day, runs, now) for day, runs in by_date.items()]
        for name, by_date in jobs.items()
    }


def _night(day: date, runs: list[tuple[datetime, Record]], now: datetime) -> Night:
    seconds = sum(_length(began, record, now) for began, record in runs)
    ids = tuple(record.id for _, record in runs)
    return Night(day, runs[-1][1].state, seconds, ids)


def _length(began: datetime, record: Record, now: datetime) -> float:
    ended = _time(record.ended)
    if ended is None:
        if record.state.final or record.state is State.UNKNOWN:
            return 0.0
        ended = now
    return max(0.0, (ended - began).total_seconds())


def _time(text: str | None) -> datetime | None:
    """Return a record's time; None where there is none that can be read."""
    try:
        return datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
