"""Dates in the text of commands."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pai_runner.command import parse, split
from pai_runner.command.dates import assignment, assignments_in, fill, instant
from pai_runner.errors import CommandError, UsageError

WHEN = instant("2025-11-01T00:00", ZoneInfo("Asia/Shanghai"), datetime.now(timezone.utc))
DATA = Path(__file__).parents[1] / "data"
GOLDEN: list[dict[str, Any]] = [
    entry
    for name in ("pai_commands.json", "pai_commands_edge_cases.json")
    for entry in json.loads((DATA / name).read_text(encoding="utf-8"))
    if "$" in entry["text"]
]


def filled(text: str, **assignments: str) -> str:
    found = fill(text, assignments, WHEN)
    assert found.notices == ()
    return found.text


# ====== Filling ======


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/${bdp.system.bizdate}/b", "a/20251031/b"),
        ("${bdp.system.cyctime}", "20251101000000"),
        ("${day}${day}", "2025103120251031"),
        ("-Da='${day}' -Db=\"${day}\"", "-Da='20251031' -Db=\"20251031\""),
        (
            '-Dc=\'{"from": "${day}", "n": {"count": 1}}\'',
            '-Dc=\'{"from": "20251031", "n": {"count": 1}}\'',
        ),
        ("oss://桶/每日/${day}/", "oss://桶/每日/20251031/"),
        ("\\${day}", "\\20251031"),
        ("${ day }/${\tbdp.system.bizdate }", "20251031/20251031"),
        ("${date}", "20251031"),
        ("$[${n}*100]", "$[4*100]"),
        ("${workflow.table}_${workspace.env}", "t_prod"),
        # what is filled in is not looked at again
        ("${dollar}{day}", "${day}"),
    ],
)
def test_names_are_replaced_as_plain_text(text: str, expected: str) -> None:
    names = {"day": "$[yyyymmdd-1]", "n": "4", "dollar": "$"}
    scoped = {"workflow.table": "t", "workspace.env": "prod"}
    assert filled(text, **names, **scoped) == expected


@pytest.mark.parametrize(
    "text",
    [
        "$[a*b]",
        "$[$a*100]",
        "$[1+2]",
        "{UPPER}",
        "%s",
        "<name>",
        "$X",
        "$1",
        "${1:-x}",
        "$(date)",
        "${#x}",
        "${X:-a}",
        "${x%.*}",
        "{{ ds }}",
        "$",
        "$$",
        "${",
        "${}",
        "$[",
        "100$",
        "^a{2}$",
        "${yyyy_of:-${1:-x}}",
        "${yyyymmdd_",
        "$[mm-$n]",
        "$[ddd",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert filled(f"PAI -Da='{text}';") == f"PAI -Da='{text}';"
    assert fill(text, {}, WHEN, literal=True).text == text


@given(st.text(st.characters(exclude_characters="$")))
def test_a_text_without_a_dollar_stays(text: str) -> None:
    assert filled(text, day="$bizdate") == text


@given(st.text(st.sampled_from("${[}]ab-1 '\"\\;\n#é"), max_size=30))
def test_nothing_but_whole_places_is_touched(text: str) -> None:
    without = re.sub(r"[${]", "", text)
    assert filled(without, a="A") == without
    try:
        found = fill(text, dict.fromkeys(("a", "b", "1"), "A"), WHEN)
    except UsageError:
        return
    # The places in comments stay.
    place = re.compile(r"\$\{ *[ab1] *\}")
    assert place.sub("A", found.text) == place.sub("A", text)


def test_comments_stay() -> None:
    text = "-- ${nobody} $[yyyymmdd]\n# ${nobody}\nPAI -Da=${day}; -- ${day}\n  #${nobody}"
    expected = text.replace("=${day}", "=20251031")
    assert filled(text, day="$bizdate") == expected
    # Within quotes and within a word of a shell there are no comments.
    assert filled("'-- ${day}'", day="$bizdate") == "'-- 20251031'"
    assert fill("--a=${day}", {"day": "$bizdate"}, WHEN, literal=True).text == "--a=20251031"


def test_an_expression_in_the_text_is_evaluated_and_told_once() -> None:
    found = fill("a/$[yyyymmdd-1]/${yyyymm-1}/$[yyyymmdd-1]", {}, WHEN)
    assert found.text == "a/20251031/202509/20251031"
    assert len(found.notices) == 2
    assert found.notices[0] == (
        "`$[yyyymmdd-1]` stands in the text itself and is 20251031; in DataWorks it has to be "
        "assigned to a name: x=$[yyyymmdd-1], and ${x} in the text"
    )


def test_an_assigned_name_comes_before_an_expression() -> None:
    assert filled("${dd}", dd="7") == "7"


def test_days_are_counted_from_a_name() -> None:
    found = fill("${bizdate-1} ${bizdate+2} ${bizdate}", {"bizdate": "$bizdate"}, WHEN)
    assert found.text == "20251030 20251102 20251031"
    assert [notice.split(",")[0] for notice in found.notices] == [
        "`${bizdate-1}` is 20251030",
        "`${bizdate+2}` is 20251102",
    ]
    for value in ("v7", "2025-10-31", "20251332", "99991231"):
        with pytest.raises(CommandError, match="no yyyymmdd date"):
            fill("${day+1}", {"day": value}, WHEN)


# ====== Errors ======


def test_an_unassigned_name_is_an_error_that_says_where_and_what_there_is() -> None:
    with pytest.raises(CommandError) as caught:
        fill("-- ${dat}\nPAI -Da=${dya};", {"day": "$bizdate", "hour": "$[hh24]"}, WHEN)
    error = caught.value
    assert (error.line, error.column) == (2, 9)
    assert error.message == "line 2, column 9: nothing is assigned to `dya`; did you mean `day`?"
    assert error.hint == (
        "assign it with --param 'dya=VALUE' or a line `-- @param dya=VALUE`, for example $bizdate; "
        "assigned: `day`, `hour`; built in: ${bdp.system.bizdate}, ${bdp.system.cyctime}, ${date}"
    )
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("${bizdate}", "bizdate"),
        ("${bizdate-1}", "bizdate"),
        ("${X}", "X"),
        ("${yyyymmd}", "yyyymmd"),
        ("${workflow.x}", "workflow.x"),
        ("${bdp.system.runtime}", "bdp.system.runtime"),
    ],
)
def test_what_is_not_assigned(text: str, name: str) -> None:
    with pytest.raises(CommandError, match=f"nothing is assigned to `{re.escape(name)}`"):
        fill(text, {}, WHEN)
    with pytest.raises(UsageError, match="nothing is assigned") as caught:
        fill(f"-Da={text}", {}, WHEN, literal=True)
    assert caught.value.message.startswith(f"`-Da={text}`: ")


def test_what_looks_like_a_date_in_the_text_is_an_error() -> None:
    with pytest.raises(CommandError, match=r"line 2.*`\$\[yyyymmd-1\]` is not a date expression"):
        fill("PAI\n-Da=$[yyyymmd-1]", {}, WHEN)


@pytest.mark.parametrize(
    ("place", "rest"),
    [
        ("$[yyyymmdd-1", "' -Db=c"),
        ("${yyyymmdd-1", " \n}"),
        ("${yyyymmdd-1/x", "\n}"),
        ("$[hh24:mi", "\r\n]"),
        ("${bdp.system.bizdate", "'"),
        ("$[yyyymmdd-${n}]", "'"),
        ("$[ add_months(yyyymmdd,-${n})]", "'"),
        ("${yyyymmdd-${n}}", "'"),
        ("$[YYYYMMDD-$[1]]", "'"),
    ],
)
def test_a_date_that_is_not_closed_or_holds_another_is_an_error(place: str, rest: str) -> None:
    with pytest.raises(CommandError) as caught:
        fill(f"PAI\n-Da='o/{place}{rest}", {"n": "4"}, WHEN)
    assert caught.value.message.startswith(
        f"line 2, column 8: `{place}` is no whole date expression"
    )
    assert "valid are for example" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no whole date expression"):
        fill(f"{place}{rest}", {"n": "4"}, WHEN, literal=True)


def test_a_comment_does_not_close_a_date() -> None:
    with pytest.raises(CommandError, match=r"`\$\[yyyymmdd` is no whole"):
        fill("PAI -Da=$[yyyymmdd -- ]", {}, WHEN)


def test_a_wrong_expression_is_an_error_though_nobody_uses_it() -> None:
    with pytest.raises(UsageError, match=r"day: `\$\[yyyymmd-1\]` is not a date expression"):
        fill("PAI", {"day": "$[yyyymmd-1]"}, WHEN)


def test_date_is_always_the_business_date() -> None:
    assert filled("${date}", date="$bizdate") == "20251031"
    with pytest.raises(UsageError, match="`date` is always the business date"):
        fill("${date}", {"date": "$[yyyymmdd]"}, WHEN)


# ====== Assignments ======


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("day=$[yyyymmdd-1]", ("day", "$[yyyymmdd-1]")),
        ("t=$[hh24:mi:ss - 1/24]", ("t", "$[hh24:mi:ss - 1/24]")),
        ("a_1=x=y", ("a_1", "x=y")),
        ("1=$bizdate", ("1", "$bizdate")),
        ("workflow.x=1", ("workflow.x", "1")),
    ],
)
def test_assignments(text: str, expected: tuple[str, str]) -> None:
    assert assignment(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day", "does not assign"),
        ("day=", "does not assign"),
        ("=x", "does not assign"),
        ("day =x", "does not assign"),
        ("a-b=x", "does not assign"),
        ("日=x", "does not assign"),
        ("bdp.system.bizdate=1", "does not assign"),
        ("day= x", "holds a blank"),
        ("day=a b", "holds a blank"),
        ("day=a ", "holds a blank"),
        ("day=" + "$[]" * 5000 + " ", "holds a blank"),
    ],
)
def test_what_is_no_assignment(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        assignment(text)


def test_assignments_of_a_file() -> None:
    text = (
        "-- @param day=$[yyyymmdd-1] time=$[hh24:mi - 1/24]\r\n"
        "--@param v=7\n"
        "-- @parameters are=not read\n"
        "PAI -Da='-- @param quoted=1' -Db=${day}; -- @param last=$bizdate\n"
    )
    assert assignments_in(text) == {
        "day": "$[yyyymmdd-1]",
        "time": "$[hh24:mi - 1/24]",
        "v": "7",
        "last": "$bizdate",
    }
    assert assignments_in("PAI -Da=@param;") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PAI;\n-- @param a=1 b", "line 2, column 15: `b` does not assign"),
        ("-- @param a=$[yyyymmdd-1];", "line 1, column 11: the value of `a` ends with `;`"),
        ("-- @param a=1, b=2", "line 1, column 11: the value of `a` ends with `,`"),
        ("-- @param a = 1", "line 1, column 11: `a` does not assign"),
        ("-- @param a=1\n-- @param b=2 a=1", "line 2, column 15: `a` is assigned a second time"),
    ],
)
def test_wrong_assignments_of_a_file(text: str, says: str) -> None:
    with pytest.raises(CommandError) as caught:
        assignments_in(text)
    assert caught.value.message.startswith(says)


# ====== Real commands ======


def test_the_golden_commands_are_filled() -> None:
    assert len(GOLDEN) == 61
    plain = {"$[yyyymmdd-1]": "20251031", "${bizdate+2}": "20251102", "${bizdate}": "20251031"}

    def replaced(text: str) -> str:
        for place, value in plain.items():
            text = text.replace(place, value)
        return re.sub(r"\$\{(\w+)\}", r"v_\1", text)

    for entry in GOLDEN:
        names = set(re.findall(r"\$\{(\w+)[}+]", entry["text"]))
        assignments = {name: f"v_{name}" for name in names} | {"bizdate": "$bizdate"}
        found = fill(entry["text"], assignments, WHEN).text
        expected = entry["statements"]
        if expected[0]["text"] is None:
            with pytest.raises(CommandError, match="never closed"):
                split(found)
            continue
        assert [span.text for span in split(found)] == [replaced(one["text"]) for one in expected]
        if not any("error" in one for one in expected):
            for statement, one in zip(parse(found), expected, strict=True):
                values = {
                    name: replaced(value) for name, value in (one.get("parameters") or {}).items()
                }
                assert statement.parameters == values
