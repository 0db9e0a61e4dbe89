"""The ticks of cron expressions: clocks that change, leap days, and expressions that are wrong."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pai_runner.errors import UsageError
from pai_runner.schedule.ticks import (
    canonical,
    fields,
    instant_text,
    latest_tick,
    latest_ticks,
    ticks_after,
)

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def after(cron: str, zone: ZoneInfo, instant: str, count: int) -> list[str]:
    ticks = ticks_after(canonical(cron), zone, datetime.fromisoformat(instant))
    return [instant_text(tick) for tick in islice(ticks, count)]


@pytest.mark.parametrize(
    ("cron", "zone", "start", "expected"),
    [
        # 2:00 does not exist: the tick comes right after the change.
        ("0 2 * * *", BERLIN, "2026-03-28T12:00+01:00", "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("30 2 * * *", BERLIN, "2026-03-28T12:00+01:00", "03-29T03:00+02:00 03-30T02:30+02:00"),
        # Two ticks that would both come then are one.
        ("0,30 2 * * *", BERLIN, "2026-03-28T12:00+01:00", "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("30 2 * * *", NEW_YORK, "2026-03-08T00:00-05:00", "03-08T03:00-04:00 03-09T02:30-04:00"),
        # 2:00 comes twice: the tick comes once, the first time.
        ("0 2 * * *", BERLIN, "2026-10-24T12:00+02:00", "10-25T02:00+02:00 10-26T02:00+01:00"),
        ("30 1 * * *", NEW_YORK, "2026-11-01T00:00-04:00", "11-01T01:30-04:00 11-02T01:30-05:00"),
        # Asked within the second pass, after the tick.
        ("30 2 * * *", BERLIN, "2026-10-25T02:10+01:00", "10-26T02:30+01:00 10-27T02:30+01:00"),
        # Ticks at no fixed time go by the clock.
        (
            "*/30 * * * *",
            BERLIN,
            "2026-10-25T02:00+02:00",
            "10-25T02:30+02:00 10-25T02:00+01:00 10-25T02:30+01:00 10-25T03:00+01:00",
        ),
        ("0 */2 * * *", BERLIN, "2026-03-28T23:30+01:00", "03-29T00:00+01:00 03-29T04:00+02:00"),
        # Years' and months' ends, leap days, names.
        ("0 0 31 * *", BERLIN, "2026-08-31T01:00+02:00", "10-31T00:00+01:00 12-31T00:00+01:00"),
        ("0 6 * * MON-FRI", BERLIN, "2026-11-20T06:00+01:00", "11-23T06:00+01:00"),
        ("0 6 13 * fri", BERLIN, "2026-11-01T00:00+01:00", "11-06T06:00+01:00 11-13T06:00+01:00"),
        ("0 6 * feb 7", BERLIN, "2026-01-01T00:00+01:00", "02-01T06:00+01:00 02-08T06:00+01:00"),
        ("@daily", BERLIN, "2026-11-20T06:00+01:00", "11-21T00:00+01:00"),
        ("@weekly", BERLIN, "2026-11-20T06:00+01:00", "11-22T00:00+01:00"),
    ],
)
def test_ticks_come_as_in_cron(cron: str, zone: ZoneInfo, start: str, expected: str) -> None:
    wanted = [f"2026-{one}" for one in expected.split()]
    assert after(cron, zone, start, len(wanted)) == wanted


def test_leap_days() -> None:
    leap = after("0 0 29 2 *", ZoneInfo("Asia/Shanghai"), "2026-11-20T00:00+08:00", 2)
    assert leap == ["2028-02-29T00:00+08:00", "2032-02-29T00:00+08:00"]
    over = after("0 0 29 2 *", ZoneInfo("UTC"), "2096-03-01T00:00+00:00", 1)
    assert over == ["2104-02-29T00:00+00:00"]


def test_seconds_come_first() -> None:
    cron = canonical("*/20 0 12 * * *", with_seconds=True)
    start = datetime(2026, 11, 20, 12, 0, 1, tzinfo=timezone.utc)
    ticks = [instant_text(tick) for tick in islice(ticks_after(cron, timezone.utc, start), 3)]
    assert ticks[0] == "2026-11-20T12:00:20+00:00"
    assert ticks[2] == "2026-11-21T12:00+00:00"


@pytest.mark.parametrize(
    ("now", "latest"),
    [
        ("2026-11-20T02:00:00+01:00", "2026-11-20T02:00+01:00"),
        ("2026-11-20T01:59:59.999+01:00", "2026-11-19T02:00+01:00"),
        ("2026-03-29T03:00:00+02:00", "2026-03-29T03:00+02:00"),
        # The second pass of 2:00: the tick was in the first.
        ("2026-10-25T02:00:00+01:00", "2026-10-25T02:00+02:00"),
    ],
)
def test_the_latest_tick_is_not_later_than_now(now: str, latest: str) -> None:
    found = latest_tick("0 2 * * *", BERLIN, datetime.fromisoformat(now))
    assert found is not None
    assert instant_text(found) == latest


def test_the_latest_tick_may_be_decades_ago() -> None:
    now = datetime(2100, 1, 1, tzinfo=timezone.utc)
    found = latest_tick("0 0 29 2 */7", timezone.utc, now)  # a star: both fields must match
    assert found == datetime(2088, 2, 29, tzinfo=timezone.utc)
    latest = islice(latest_ticks("0 0 1 1 *", BERLIN, now), 3)
    assert [tick.year for tick in latest] == [2100, 2099, 2098]


_VALUES = {"minute": 59, "hour": 23, "day": 28, "month": 12, "weekday": 7}


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Cron expressions of stars, steps, values, ranges and lists."""
    words = []
    for name, highest in _VALUES.items():
        lowest = 1 if name in ("day", "month") else 0
        ends = st.lists(st.integers(lowest, highest), min_size=2, max_size=2).map(sorted)
        span = ends.map(lambda pair: f"{pair[0]}-{pair[1]}")
        step = st.integers(1, 7).map(lambda number: f"/{number}")
        value = st.integers(lowest, highest).map(str)
        stepped = st.builds(str.__add__, st.one_of(st.just("*"), span), step)
        several = st.lists(st.one_of(value, span, stepped), min_size=1, max_size=3).map(",".join)
        words.append(draw(st.one_of(st.just("*"), several)))
    return " ".join(words)


INSTANTS = st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)).map(
    lambda naive: naive.replace(tzinfo=timezone.utc)
)


@settings(max_examples=15, deadline=None)
@given(cron=expressions(), now=INSTANTS, zone=st.sampled_from([BERLIN, NEW_YORK, timezone.utc]))
def test_nothing_lies_between_the_latest_tick_and_the_next(
    cron: str, now: datetime, zone: ZoneInfo
) -> None:
    cron = canonical(cron)
    latest = latest_tick(cron, zone, now)
    assert latest is not None
    assert latest.timestamp() <= now.timestamp()
    following = next(ticks_after(cron, zone, latest))
    assert following.timestamp() > now.timestamp()
    assert next(ticks_after(cron, zone, now)).timestamp() == following.timestamp()


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("", "has 0 fields"),
        ("0 2 * *", "has 4 fields"),
        ("0 0 2 * * *", "has 6 fields"),
        ("60 2 * * *", "the minute `60` is wrong"),
        ("0 24 * * *", "the hour `24` is wrong"),
        ("0 2 0 * *", "the day of the month `0` is wrong"),
        ("0 2 * 13 *", "the month `13` is wrong"),
        ("0 2 * JANUARY *", "the month `JANUARY` is wrong"),
        ("0 2 * * 8", "the day of the week `8` is wrong"),
        ("0 2 * * FRI-SUN", "the day of the week `FRI-SUN` is wrong"),
        ("0 2 mon * *", "the day of the month `mon` is wrong"),
        ("0 5/2 * * *", "the hour `5/2` is wrong"),
        ("*/0 2 * * *", "the minute `*/0` is wrong"),
        ("0,, 2 * * *", "the minute `0,,` is wrong"),
        ("0 2 L * *", "the day of the month `L` is wrong"),
        ("0 2 * * MON#2", "the day of the week `MON#2` is wrong"),
        ("٣ 2 * * *", "the minute `٣` is wrong"),
        ("0 2 30 2 *", "there is no such day"),
        ("@reboot", "there is no `@reboot`"),
    ],
)
def test_a_wrong_expression_is_named(cron: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        canonical(cron)
    assert message in str(caught.value)
    assert caught.value.hint


def test_blanks_and_line_breaks_are_one_blank() -> None:
    assert canonical(" 0\t2 *\n*  * ") == "0 2 * * *"


def test_fields_are_sets() -> None:
    named = fields("*/30 1-3 1,15 * 5-7")
    assert (named.minutes, named.hours, named.days) == ({0, 30}, {1, 2, 3}, {1, 15})
    assert named.weekdays == {5, 6, 0}
    assert not named.days_and_weekdays
    assert fields("0 0 */2 * 1").days_and_weekdays
