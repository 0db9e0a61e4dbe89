"""What became of jobs night by night, in the zone of who looks."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

from pai_runner.jobs.nights import Night, nights_of
from pai_runner.jobs.record import Record
from pai_runner.jobs.state import State

NOW = datetime(2026, 11, 21, 2, 30, tzinfo=timezone.utc)
SHANGHAI = timezone(timedelta(hours=8))


def record(
    job_id: str,
    started: str | None,
    ended: str | None,
    state: State = State.SUCCEEDED,
    name: str = "nightly",
) -> Record:
    return Record(job_id, name, state, created=started, started=started, ended=ended)


def test_the_jobs_of_a_night_are_one() -> None:
    records = [
        record("c", "2026-11-20T02:00:00.000Z", "2026-11-20T02:10:00.000Z"),
        record("b", "2026-11-20T01:00:00.000Z", "2026-11-20T01:01:00.500Z", State.FAILED),
        record("a", "2026-11-19T01:00:00.000Z", "2026-11-19T01:00:30.000Z", State.TIMED_OUT),
    ]
    expected = {
        "nightly": [
            Night(date(2026, 11, 20), State.SUCCEEDED, 660.5, ("b", "c")),
            Night(date(2026, 11, 19), State.TIMED_OUT, 30.0, ("a",)),
        ]
    }
    assert nights_of(records, NOW, timezone.utc) == expected
    assert nights_of(reversed(records), NOW, timezone.utc) == expected


def test_a_night_is_the_date_where_one_looks() -> None:
    records = [record("a", "2026-11-19T17:00:00.000Z", "2026-11-19T18:00:00.000Z")]
    assert nights_of(records, NOW, timezone.utc)["nightly"][0].date == date(2026, 11, 19)
    assert nights_of(records, NOW, SHANGHAI)["nightly"][0].date == date(2026, 11, 20)


def test_the_name_that_ran_last_comes_first() -> None:
    records = [
        record("a", "2026-11-18T01:00:00.000Z", "2026-11-18T02:00:00.000Z", name="old"),
        record("b", "2026-11-19T01:00:00.000Z", "2026-11-19T02:00:00.000Z", name="new"),
    ]
    assert list(nights_of(records, NOW, timezone.utc)) == ["new", "old"]


def test_what_runs_has_run_until_now_and_what_was_lost_counts_for_nothing() -> None:
    records = [
        record("r", "2026-11-21T02:00:00.000Z", None, State.RUNNING, "runs"),
        record("l", "2026-11-21T01:00:00.000Z", None, State.LOST, "lost"),
        record("n", None, None, State.UNKNOWN, ""),
    ]
    found = nights_of(records, NOW, timezone.utc)
    assert {name: nights[0].seconds for name, nights in found.items()} == {
        "runs": 1800.0,
        "lost": 0.0,
    }
