"""The rules of odpscmd's grammar, one by one (1.1 to 1.4 of the reference)."""

from __future__ import annotations

import re

import pytest

from pai_runner.command import Statement, parse, parse_statement, split
from pai_runner.errors import CommandError


def parameters(rest: str) -> dict[str, str]:
    (statement,) = parse(f"pai -name tensorflow {rest}")
    return statement.parameters


def error(text: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"line {caught.value.line}, column {caught.value.column}: ")
    return caught.value


# ====== Statements ======


@pytest.mark.parametrize("word", ["pai", "PAI", "Pai", "pAi"])
def test_pai_is_known_in_any_case(word: str) -> None:
    assert parse(f"{word} -name tensorflow")[0].name == "tensorflow"


@pytest.mark.parametrize("text", ["paix -name t", "select 1", "pa\u0131 -name t", "xpai -name t"])
def test_what_is_no_pai_command_has_no_name(text: str) -> None:
    assert parse(text) == [Statement(text, None, None, {})]


def test_no_statement_is_no_error() -> None:
    assert parse("") == parse(" ;\n;;\n # nothing\n-- nothing") == []


def test_statements_of_every_kind_share_one_text() -> None:
    statements = parse("use p; set k=v;\nPAI -name a; add file x;pai\n-name b\n;")
    assert [statement.name for statement in statements] == [None, None, "a", None, "b"]
    assert [statement.text for statement in statements] == [
        "use p", "set k=v", "PAI -name a", "add file x", "pai\n-name b",
    ]  # fmt: skip


def test_the_last_semicolon_may_be_missing() -> None:
    assert parse("pai -name a") == parse("pai -name a;") == parse("pai -name a\n;\n")


def test_a_semicolon_in_quotes_does_not_cut() -> None:
    assert parameters("""-Da='x;y' -Db="x;y";""") == {"a": "x;y", "b": "x;y"}


def test_the_project_is_none_when_it_is_not_given() -> None:
    assert parse("pai -name t")[0].project is None
    assert parse("pai -name t -project p")[0].project == "p"
    assert parse("pai -project=p -name=t")[0] == Statement("pai -project=p -name=t", "t", "p", {})


def test_the_first_of_a_duplicate_option_wins() -> None:
    statement = parse("pai -name a -project p -name b -project q")[0]
    assert (statement.name, statement.project) == ("a", "p")


def test_the_other_options_are_kept() -> None:
    text = """pai -name t -cost -lineage '{}' -jobname j -alink_version=1-2-3"""
    assert parse(text)[0].options == {
        "cost": "true",
        "lineage": "'{}'",
        "jobname": "j",
        "alink_version": "1-2-3",
    }


def test_options_are_case_sensitive() -> None:
    assert "`-NAME` is not an option of PAI; did you mean -name?" in str(error("pai -NAME t"))


def test_keys_are_case_sensitive_and_the_last_duplicate_wins() -> None:
    assert parameters("-Da=1 -DA=2 -Da=3") == {"a": "3", "A": "2"}


def test_later_equals_signs_belong_to_the_value() -> None:
    assert parameters("-Da=b=c==") == {"a": "b=c=="}


# ====== Comments ======


def test_a_hash_is_a_comment_at_the_head_of_a_line_only() -> None:
    assert parameters("-Da=x#y\n  # -Db=1 'unclosed\n\t#\n-Dc=#z") == {"a": "x#y", "c": "#z"}


def test_a_hash_behind_a_semicolon_is_data() -> None:
    assert parse("use p; #x")[1].text == "#x"


def test_two_dashes_are_a_comment_anywhere_outside_quotes() -> None:
    assert parameters("-Da=x--y 'z\n-Db='--' -- -Dc=1") == {"a": "x", "b": "--"}


def test_unquoted_user_parameters_are_lost_in_a_comment() -> None:
    assert parameters("-DuserDefinedParameters=--a=1 -Db=2") == {"userDefinedParameters": ""}


def test_an_unquoted_bucket_with_two_dashes_is_cut() -> None:
    assert parameters("-Dbuckets=oss://my--bucket/x") == {"buckets": "oss://my"}


def test_comments_leave_the_statements_text() -> None:
    assert parse("pai -- a\n-name t\n# b\n;")[0].text == "pai \n-name t"


# ====== Tokens ======


@pytest.mark.parametrize(
    "written",
    ["-Dk=v", "-Dk='v'", '-Dk="v"', "-D k=v", "-D\nk='v'", "-Dk= 'v'", "-Dk=\n\n\tv", "-D k= v"],
)
def test_ways_to_write_a_parameter(written: str) -> None:
    assert parameters(written) == {"k": "v"}


@pytest.mark.parametrize("separator", [" ", "\t", "\n", "\r\n", "\r", "\f", " \n\t "])
def test_commands_are_freely_multi_line(separator: str) -> None:
    words = ["PAI", "-name", "t", "-Da=1", "-Db=2"]
    assert parse(separator.join(words))[0].parameters == {"a": "1", "b": "2"}


def test_an_empty_value_swallows_the_next_token() -> None:
    assert parameters("-DgpuRequired= -Dtables=x") == {"gpuRequired": "-Dtables=x"}
    assert parameters("-DgpuRequired='' -Dtables=x") == {"gpuRequired": "", "tables": "x"}
    assert parameters("-Da=") == {"a": ""}


def test_a_parameter_without_a_value_is_true() -> None:
    assert parameters("-Da -Db=1 -Dc") == {"a": "true", "b": "1", "c": "true"}


def test_a_word_behind_a_bare_parameter_is_its_value() -> None:
    assert parameters('-Da b -Dc "d e"') == {"a": "b", "c": "d e"}


def test_quoted_values_hold_anything() -> None:
    assert parameters("""-Da='x y\nz;#--"' -Db="it's"; """) == {"a": 'x y\nz;#--"', "b": "it's"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"'\"'", '"'),
        (r"'\''", "'"),
        (r'"\\"', "\\"),
        (r"a\nb", "a\nb"),
        (r"'\t\r\b\f'", "\t\r\b\f"),
        (r"'\u4e2d'", "中"),
        (r"'\ud83d\ude00'", "\U0001f600"),
        (r"'\x01'", "x01"),
        (r"C:\new", "C:\new"),
        (r"'\q\é'", "qé"),
        (r"'\u4e'", ""),
        ("\\", "\\"),
        (r"'\ud83d!'", "\ufffd!"),
    ],
)
def test_escapes_are_javas_in_quotes_or_not(written: str, value: str) -> None:
    assert parameters(f"-Dk={written}") == {"k": value}


@pytest.mark.parametrize(
    "written",
    [
        """'{"ps":{"count":1}}'""",
        r'''"{\"ps\":{\"count\":1}}"''',
        r"""'{\"ps\":{\"count\":1}}'""",
        r"""'{\"ps\":{"count":1}}'""",
    ],
)
def test_four_ways_to_write_json(written: str) -> None:
    assert parameters(f"-Dcluster={written}") == {"cluster": '{"ps":{"count":1}}'}


def test_a_quote_begins_and_ends_a_token() -> None:
    assert parameters("""-Da='x'-Db=y -Dc="100"-Dbuckets=z""") == {
        "a": "x", "b": "y", "c": "100", "buckets": "z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rest", "stray", "column", "hint"),
    [
        ("-Da='a''b'", "'b'", 29, "whole value into"),
        ("-Da=a'b'c", "'b'", 27, "whole value into"),
        ("-Da=a,'c'", "'c'", 28, "whole value into"),
        ("-Da=f(1)", "(", 27, "parentheses"),
        ('-Da={"ps":1}', '"ps"', 27, "whole value into"),
        ('-Da="{"ps":1}"', "ps", 29, "whole value into"),
        ("-Da=1 word", "word", 28, "-Dname=value"),
        ("-Da=1 ...", "...", 28, "-Dname=value"),
        ("-Da=1 \\\n-Db=2", "\\", 28, "leave the \\ out"),
        ("-Da=1 –Db=2", "–Db=2", 28, "not the `-`"),
        ("-Da=1 ‘x’", "‘x’", 28, "typographic quotes"),
    ],
)
def test_a_word_that_belongs_to_nothing(rest: str, stray: str, column: int, hint: str) -> None:
    caught = error(f"pai -name tensorflow {rest}")
    assert f"`{stray}` belongs to no parameter" in str(caught)
    assert (caught.line, caught.column) == (1, column)
    assert caught.hint is not None
    assert hint in caught.hint


def test_a_full_width_semicolon_is_part_of_the_value() -> None:
    assert parameters("-Da=1；") == {"a": "1；"}


def test_a_dash_that_ends_the_text_is_lost() -> None:
    assert parameters("-Da=b-") == {"a": "b"}
    assert parameters("-Da='b-'") == {"a": "b-"}


# ====== What odpscmd cuts out itself ======


@pytest.mark.parametrize("name", ["serviceSelection", "dlcParameters", "tableTokenLife"])
def test_service_parameters_are_cut_out_up_to_the_next_parameter(name: str) -> None:
    assert parameters(f"-Da=1 -D{name}='dlc' stray -Db=2") == {"a": "1", "b": "2"}
    assert parameters(f"-Da=1 -D{name}=dlc") == {"a": "1"}
    assert f"-D{name}" in parse(f"pai -name t -D{name}=dlc")[0].text


def test_a_service_parameter_inside_quotes_breaks_the_quotes() -> None:
    caught = error("pai -name t -Da='x -DserviceSelection'")
    assert "never closed" in str(caught)
    assert (caught.line, caught.column) == (1, 17)


# ====== Errors ======


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("pai -name t -Da='x", 1, 17),
        ("use p;\npai -name t\n -Da=\"x';\n", 3, 6),
        ("select 'a\\';", 1, 8),
        ("a\r\nb\rc\nd 'x", 4, 3),
        ("-- '\n# \"\n'", 3, 1),
    ],
)
def test_an_unclosed_quote_spoils_the_whole_text(text: str, line: int, column: int) -> None:
    for read in (parse, split):
        with pytest.raises(CommandError, match="is never closed") as caught:
            read(text)
        assert (caught.value.line, caught.value.column) == (line, column)


def test_the_place_is_that_in_the_whole_text() -> None:
    caught = error("-- head\nuse p; pai -name a;\n# note\n  PAI -name b -- note\n   -Dx=1 stray;")
    assert (caught.line, caught.column) == (5, 10)


def test_the_place_holds_behind_a_cut() -> None:
    caught = error("pai -name a\n -DserviceSelection='dlc'\n -Dx=1 stray")
    assert (caught.line, caught.column) == (3, 8)


def test_the_first_malformed_statement_is_told() -> None:
    assert error("pai -name a;\npai -Dx=1;\npai;").line == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pai", "says nothing but PAI"),
        ("PAI ;", "says nothing but PAI"),
        ("pai -Da=1", "-name is missing"),
        ("pai -project p", "-name is missing"),
        ("pai -name", "-name has no value"),
        ("pai -name -Da=1", "-name has no value"),
        ("pai -name t -D", "-D has no value"),
        ("pai -name t -foo", "`-foo` is not an option"),
        ("pai -name t -nmae=x", "did you mean -name?"),
        ("pai -name t -Dk='\\u00zz'", "`\\u00zz` is not a character"),
        ("pai -name t -D 'a='", "a single quote stands"),
        ("pai -name t -cost=yes", "`yes` belongs to no parameter"),
    ],
)
def test_malformed_statements(text: str, message: str) -> None:
    assert message in str(error(text))


def test_the_statements_before_an_error_can_be_seen() -> None:
    good, bad = split("pai -name a -Dx=1; pai -name b stray")
    assert parse_statement(good).parameters == {"x": "1"}
    with pytest.raises(CommandError):
        parse_statement(bad)


SECRET = "hIdDeNsEcReT0123"


def test_an_error_shows_no_secret_and_is_short() -> None:
    caught = error(f"pai -name t 'oss://b/?access_key_secret={SECRET}' {'x' * 500}")
    assert SECRET not in str(caught)
    assert len(str(caught)) < 150


def test_a_statement_prints_no_values() -> None:
    statement = parse(f"pai -name t -Dbuckets='oss://b/?access_key_secret={SECRET}'")[0]
    assert re.fullmatch(r"Statement\(name='t', project=None\)", repr(statement))
