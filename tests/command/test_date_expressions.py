"""The expressions on the right side of an assignment, at fixed instants."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from pai_runner.command.date_expressions import Instant, assigned_value, evaluate, instant
from pai_runner.errors import UsageError

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2026, 11, 21, 15, 30, 45, 999999, timezone.utc)


def at(text: str, zone: ZoneInfo = SHANGHAI) -> Instant:
    return instant(text, zone, NOW)


def check(when: str, expected: dict[str, str]) -> None:
    moment = at(when)
    assert {one: assigned_value(one, moment) for one in expected} == expected


# ====== DataWorks' own examples ======


def test_the_day_of_the_comparison_of_formats() -> None:
    check(
        "2025-11-01T00:00",
        {
            "$bizdate": "20251031",
            "$cyctime": "20251101000000",
            "$gmtdate": "20251101",
            "$bizmonth": "202510",
            "${bdp.system.bizdate}": "20251031",
            "${bdp.system.cyctime}": "20251101000000",
            "${yyyymmdd}": "20251031",
            "${yyyy-mm-dd}": "2025-10-31",
            "${yyyymm}": "202510",
            "${yyyy}": "2025",
            "${yy}": "25",
            "${mm}": "10",
            "${dd}": "31",
            "${yyyymmdd-1}": "20251030",
            "${yyyymmdd+1}": "20251101",
            "${yyyymmdd-7*1}": "20251024",
            "${yyyymm-1}": "202509",
            "${yyyymm+3}": "202601",
            "${yyyy-1}": "2024",
            "${yy+1}": "26",
            "$[yyyymmdd]": "20251101",
            "$[yyyymmdd-1]": "20251031",
            "$[yyyymmdd+7*2]": "20251115",
            "$[yyyymmddhh24miss]": "20251101000000",
            "$[yyyy-mm-dd]": "2025-11-01",
            "$[hh24:mi:ss]": "00:00:00",
            "$[yy]": "25",
            "$[mm]": "11",
            "$[dd]": "01",
            "$[hh24]": "00",
            "$[mi]": "00",
            "$[ss]": "00",
            "$[hh24miss-1/24]": "230000",
            "$[hh24miss+15/24/60]": "001500",
            "$[yyyymmdd-1/24]": "20251031",
            "$[add_months(yyyymmdd,-1)]": "20251001",
            "$[add_months(yyyymmdd,1)]": "20251201",
            "$[add_months(yyyymmdd,+1)]": "20251201",
            "$[add_months(yyyymmdd,12*1)]": "20261101",
            "$[add_months(yyyymmdd,-12*1)-30/24/60]": "20241031",
        },
    )


def test_the_day_of_the_supported_formats() -> None:
    check(
        "2025-11-01T02:30:45",
        {
            "${yyyymmdd}": "20251031",
            "$[yyyymmddhh24miss]": "20251101023045",
            "$[hh24]": "02",
            "$[hh]": "02",
            "$[hh12]": "02",
            "$[mi]": "30",
            "$[ss]": "45",
            "$[yyyymm]": "202511",
            "$[hh24:mi:ss-1/24/60]": "02:29:45",
            "$[yyyymmdd-1-1/24]": "20251031",
            "$[yyyymmddhh24-1-1/24]": "2025103101",
            "$[mm-1/24]": "11",
            "$[yyyy-15/24/60]": "2025",
            "$[yyyymm-15/24/60]": "202511",
            "$[mi-15/24/60]": "15",
            "${yyyymm}01": "20251001",
        },
    )


@pytest.mark.parametrize(
    ("when", "expression", "value"),
    [
        ("2018-07-22", "${yyyy-mm-dd}", "2018-07-21"),
        ("2018-07-22", "${yyyymmdd-2}", "20180719"),
        ("2018-07-22", "${yyyymm-2}", "201805"),
        ("2018-07-22", "${yyyy-2}", "2016"),
        ("2017-07-23", "$bizmonth", "201706"),
        ("2025-11-03", "$bizmonth", "202510"),
        ("20140515103000", "$[hh24:mi:ss - 1/24]", "09:30:00"),
        ("20140515103000", "$[add_months(yyyymmdd,-1)]", "20140415"),
        ("20140515103000", "$[add_months(yyyymmdd,-12*1)]", "20130515"),
        ("2025-03-31", "$[add_months(yyyymmdd,-1)]", "20250228"),
        ("2025-07-20T10:30", "$[yyyy-mm-dd-1]", "2025-07-19"),
        ("2025-07-20T10:30", "${yyyy-mm-dd-29}", "2025-06-20"),
        ("2025-07-20T10:30", "${yyyy-mm-dd-364}", "2024-07-20"),
        ("2025-07-20T10:30", "$[yyyymmddhh24miss-1]", "20250719103000"),
        ("2021-07-21T00:00", "$[yyyymmdd-1/24]", "20210720"),
        ("2021-07-21T00:00", "$[hh24-1/24]", "23"),
        ("2021-07-21T01:00", "$[yyyymmdd-1/24]", "20210721"),
        ("2021-07-21T01:00", "$[hh24-1/24]", "00"),
    ],
)
def test_single_examples(when: str, expression: str, value: str) -> None:
    assert assigned_value(expression, at(when)) == value


# ====== The calendar ======


@pytest.mark.parametrize(
    ("when", "expression", "value"),
    [
        # leap days
        ("2024-03-01", "$bizdate", "20240229"),
        ("2023-03-01", "$bizdate", "20230228"),
        ("2000-03-01", "$bizdate", "20000229"),
        ("2024-02-29", "$[add_months(yyyymmdd,12)]", "20250228"),
        ("2024-02-29", "$[add_months(yyyymmdd,-12*4)]", "20200229"),
        ("2024-03-01", "${yyyy-4}", "2020"),
        ("2023-12-31", "$[yyyymmdd-365]", "20221231"),
        # ends of months: the last day where there is no such day, and only there
        ("2026-01-31", "$[add_months(yyyymmdd,1)]", "20260228"),
        ("2024-01-31", "$[add_months(yyyymmdd,1)]", "20240229"),
        ("2026-05-31", "$[add_months(yyyymmdd,-1)]", "20260430"),
        ("2026-02-28", "$[add_months(yyyymmdd,1)]", "20260328"),
        ("2026-03-31", "$[add_months(yyyymm,-1)]", "202602"),
        ("2026-03-31", "${yyyymm-1}", "202602"),
        # ends of years
        ("2027-01-01", "$bizdate", "20261231"),
        ("2027-01-01", "$bizmonth", "202612"),
        ("2027-01-02", "$bizmonth", "202612"),
        ("2026-12-31", "$[yyyymmdd+1]", "20270101"),
        ("2026-01-15", "${yyyymm-1}", "202512"),
        ("2026-12-15", "$[add_months(yyyymmdd,1)]", "20270115"),
        ("2026-12-31T23:59:59", "$[yyyymmddhh24miss+1/24/60]", "20270101000059"),
        # the clock of twelve hours, minutes that are no months, separators
        ("2026-11-20T00:05", "$[hh12:mi]", "12:05"),
        ("2026-11-20T13:05", "$[hh:mi]", "01:05"),
        ("2026-11-20T13:05", "$[hh24:mm]", "13:11"),
        ("2026-11-20T13:05", "$[yyyy/mm/dd_hh24.mi]", "2026/11/20_13.05"),
        ("2026-11-20T13:05", "$[yyyy年mm月dd]日", "2026年11月20日"),
        ("0101-01-02", "$[yyyymmdd]", "01010102"),
        # pieces and constants
        ("2026-11-20", "v7", "v7"),
        ("2026-11-20", "'123'", "'123'"),
        ("2026-11-20", "a=b", "a=b"),
        ("2026-11-20", "每日", "每日"),
        ("2026-11-20", "ds_$bizdate", "ds_20261119"),
        ("2026-11-20", "$bizdate/$[hh24]", "20261119/00"),
        ("2026-11-20", "$bizdate-full", "20261119-full"),
        ("2026-11-20", "$$1$", "$$1$"),
    ],
)
def test_the_calendar(when: str, expression: str, value: str) -> None:
    assert assigned_value(expression, at(when)) == value


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)), st.integers(-99999, 99999))
def test_days_are_those_of_datetime(day: date, count: int) -> None:
    moment = at(day.isoformat())
    assert assigned_value(f"$[yyyymmdd{count:+}]", moment) == f"{day + timedelta(count):%Y%m%d}"
    before = day + timedelta(count - 1)
    assert assigned_value(f"${{yyyy-mm-dd{count:+}}}", moment) == before.isoformat()


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(
        lambda t: t.replace(microsecond=0)
    ),
    st.sampled_from([SHANGHAI, BERLIN, NEW_YORK]),
    st.integers(-9999, 9999),
)
def test_hours_minutes_and_months_are_those_of_the_wall(
    wall: datetime, zone: ZoneInfo, count: int
) -> None:
    moment = at(wall.isoformat(), zone)
    for part, step in (
        ("/24", timedelta(hours=count)),
        ("/24/60", timedelta(minutes=count)),
    ):
        value = assigned_value(f"$[yyyymmddhh24miss{count:+}{part}]", moment)
        assert value == f"{wall + step:%Y%m%d%H%M%S}"
    value = assigned_value(f"$[add_months(yyyymmdd,{count % 999})]", moment)
    assert value == f"{wall + relativedelta(months=count % 999):%Y%m%d}"


# ====== Zones ======


@pytest.mark.parametrize(
    ("zone", "wall", "hours"),
    [
        # skipped: as if the clock had not changed yet; repeated: the first of the two
        (BERLIN, "2026-03-29T02:30", 1),
        (BERLIN, "2026-10-25T02:30", 2),
        (NEW_YORK, "2026-03-08T02:30", -5),
        (NEW_YORK, "2026-11-01T01:30", -4),
        (SHANGHAI, "2026-03-29T02:30", 8),
    ],
)
def test_a_wall_time_is_kept_when_the_clock_changes(zone: ZoneInfo, wall: str, hours: int) -> None:
    moment = at(wall, zone)
    assert moment.cyctime.utcoffset() == timedelta(hours=hours)
    plain = datetime.fromisoformat(wall)
    assert assigned_value("$cyctime", moment) == f"{plain:%Y%m%d%H%M%S}"
    assert assigned_value("$bizdate", moment) == f"{plain - timedelta(days=1):%Y%m%d}"
    assert assigned_value("$[hh24mi-2/24]", moment) == f"{plain - timedelta(hours=2):%H%M}"
    assert assigned_value("$[yyyymmddhh24+1]", moment) == f"{plain + timedelta(days=1):%Y%m%d%H}"


@pytest.mark.parametrize(
    ("text", "zone", "cyctime"),
    [
        ("2026-10-25T02:30+02:00", BERLIN, "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:30+01:00", BERLIN, "2026-10-25T02:30:00+01:00"),
        ("2026-11-20T00:00+08:00", NEW_YORK, "2026-11-19T11:00:00-05:00"),
        ("2026-11-20T00:00:05Z", SHANGHAI, "2026-11-20T08:00:05+08:00"),
        ("2026-11-20 00:00:05.123456+00:00", SHANGHAI, "2026-11-20T08:00:05+08:00"),
        ("2026-11-20T01:02", SHANGHAI, "2026-11-20T01:02:00+08:00"),
        ("2026-11-20 01:02:03", BERLIN, "2026-11-20T01:02:03+01:00"),
        ("2026-11-20", SHANGHAI, "2026-11-20T00:00:00+08:00"),
        ("20261120010203", SHANGHAI, "2026-11-20T01:02:03+08:00"),
        (None, SHANGHAI, "2026-11-21T23:30:45+08:00"),
        (None, NEW_YORK, "2026-11-21T10:30:45-05:00"),
    ],
)
def test_instants(text: str | None, zone: ZoneInfo, cyctime: str) -> None:
    found = instant(text, zone, NOW)
    assert found.cyctime.isoformat() == cyctime
    assert found.bizdate == found.cyctime.date() - timedelta(days=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-11-31",
        "2026-11-20T25:00",
        "20261120",
        "2026-11-20T00",
        "0001-01-01",
        "2026-11-20T00:00 ",
        "20261320000000",
        "２０２６-11-20",
        "0000-01-01",
        "2026-11-20+08:00",
    ],
)
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(UsageError, match="not a scheduled time") as caught:
        at(text)
    assert "2026-11-20T00:00" in str(caught.value.hint)


def test_an_instant_has_a_zone_and_whole_seconds() -> None:
    for wrong in (datetime(2026, 11, 20), NOW):
        with pytest.raises(ValueError, match="whole seconds"):
            Instant(wrong)


# ====== What is wrong ======


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("$[yyyymmd-1]", "`$[yyyymmd-1]` is not a date expression"),
        ("$[yyyymmdd-1/7]", "`$[yyyymmdd-1/7]` is not a date expression"),
        ("$[yyyymmdd-1/24/60/60]", "is not a date expression"),
        ("$[yyyyMMdd]", "is not a date expression"),
        ("$[yyyy-mm-dd hh24:mi:ss]", "is not a date expression"),
        ("$[add_months(yyyymmdd)]", "is not a date expression"),
        ("$[add_months(yyyymmdd,1.5)]", "is not a date expression"),
        ("$[a*b]", "`$[a*b]` is not a date expression"),
        ("${yesterday}", "`${yesterday}` is not a date expression"),
        ("${yyyymmdd-1/24}", "it knows no hours"),
        ("${yyyymmddhh24}", "it knows no hours"),
        ("${add_months(yyyymmdd,-1)}", "no add_months"),
        ("$[yyyymm-1]", "counts in days, and shows none"),
        ("$[yyyy-1]", "counts in days, and shows none"),
        ("$[hh24miss-1]", "counts in days, and shows none"),
        ("$[yyyymmdd-999999999]", "not within the years 1 to 9999"),
        ("$[add_months(yyyymmdd,999999999*999999999)]", "not within the years"),
        ("${yyyy-3000}", "not within the years"),
        ("$bizdate-1", "$bizdate takes no offset"),
        ("$yesterday", "`$yesterday` is not a date expression"),
        ("$jobid", "`$jobid` is an id of DataWorks"),
        ("$[yyyymmdd-1", "never closed"),
        ("${yyyymmdd", "never closed"),
    ],
)
def test_a_wrong_expression_never_becomes_text(expression: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        assigned_value(expression, at("2026-11-20"))
    assert says in caught.value.message
    assert "not within" in says or "$[" in str(caught.value.hint)


def test_a_long_wrong_expression_is_refused_at_once() -> None:
    for text in ("$[" + "yyyy" * 5000 + "?]", "$[" + "yyyy-" * 5000 + "]", "$[" * 5000):
        with pytest.raises(UsageError):
            assigned_value(text, at("2026-11-20"))


@pytest.mark.parametrize(
    "text", ["$[a*b]", "$[1+2]", "$[i]", "${X:-1}", "${}", "$[]", "${secret:a}"]
)
def test_what_is_a_shells_is_no_expression(text: str) -> None:
    assert evaluate(text, at("2026-11-20")) is None
