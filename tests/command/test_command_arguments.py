"""Commands that a shell has split."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pai_runner.command import Statement, parse, parse_arguments
from pai_runner.errors import UsageError

NAME = ["-name", "tensorflow"]

# CI takes the same examples every time; scripts/proof golden takes many new ones.
EXAMPLES = int(os.environ.get("PAI_PROOF_COUNT", "100"))


def parameters(*words: str) -> dict[str, str]:
    return parse_arguments([*NAME, *words]).parameters


def error(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse_arguments(words)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "words", [["-Dk=v"], ["-D", "k=v"], ["-Dk=", "v"], ["-D", "k=", "v"], ["-Dk=x", "-Dk=v"]]
)
def test_ways_to_give_a_parameter(words: list[str]) -> None:
    assert parameters(*words) == {"k": "v"}


@pytest.mark.parametrize(
    "words",
    [
        ["-name", "t", "-project", "p"],
        ["-name=t", "-project=p"],
        ["-project", "p", "-name", "t"],
        ["PAI", "-name", "t", "-project", "p"],
    ],
)
def test_ways_to_give_an_option(words: list[str]) -> None:
    statement = parse_arguments(words)
    assert (statement.name, statement.project, statement.parameters) == ("t", "p", {})


@pytest.mark.parametrize(
    "value",
    [
        "a;b",
        "#c",
        "--a=1 --b=2",
        "it's",
        '"q"',
        "C:\\new",
        "\\u4e2d",
        "f(1)",
        "",
        "a=b",
        "a\nb",
        "-x",
    ],
)
def test_values_are_literal(value: str) -> None:
    assert parameters(f"-Dk={value}") == {"k": value}


def test_a_bare_parameter_is_true() -> None:
    assert parameters("-Dk", "-Dj") == {"k": "true", "j": "true"}
    assert parameters("-D", "k") == {"k": "true"}


def test_an_empty_value_does_not_swallow_a_parameter() -> None:
    assert parameters("-Dk=", "-Dj=1", "-Di=") == {"k": "", "j": "1", "i": ""}


def test_the_other_options_are_kept() -> None:
    statement = parse_arguments([*NAME, "-cost", "-jobname", "j", "-lineage={}"])
    assert statement.options == {"cost": "true", "jobname": "j", "lineage": "{}"}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "-name is missing", "-name tensorflow"),
        (["-Dk=v"], "-name is missing", "-name tensorflow"),
        (["-name="], "-name is missing", "-name tensorflow"),
        (["-name"], "-name has no value", "-project"),
        (["-name", "-Dk=v"], "-name has no value", "-project"),
        ([*NAME, "-name", "x"], "-name is given twice", "leave one"),
        ([*NAME, "-nmae", "x"], "did you mean -name?", "-Dname=value"),
        ([*NAME, "-script=x"], "`-script=x` is not an option", "-Dname=value"),
        ([*NAME, "-cost=1"], "-cost takes no value", "alone"),
        ([*NAME, "-D"], "-D has no value", "-Dname=value"),
        ([*NAME, "-D=v"], "names no parameter", "-Dname=value"),
        ([*NAME, "train.py"], "`train.py` belongs to no parameter", "-Dname=value"),
        ([*NAME, "–Dk=v"], "belongs to no parameter", "not the `-`"),
        ([*NAME, "--batch_size=10"], "not an option of pai", "userDefinedParameters"),
        (["PAI -name tensorflow -Dscript=x;"], "whole command is given as one word", "pai -e"),
        (["pai  -name tensorflow"], "whole command is given as one word", "pai -e"),
        (["-name tensorflow -Dscript=x"], "whole command is given as one word", "pai -e"),
    ],
)
def test_wrong_words(words: list[str], message: str, hint: str) -> None:
    caught = error(*words)
    assert message in str(caught)
    assert caught.hint is not None
    assert hint in caught.hint


def test_an_error_shows_no_secret() -> None:
    assert "hIdDeN" not in str(error(*NAME, "oss://b/?access_key_secret=hIdDeN123"))


def test_plain_values_stay_readable() -> None:
    statement = parse_arguments(
        [*NAME, "-project", "p", "-Dscript=s3://b/x.py", "-DjobName=my job", "-Dk"]
    )
    assert statement.text == (
        "PAI -name tensorflow -project p -Dscript=s3://b/x.py -DjobName='my job' -Dk=true"
    )


# A key, name or option value cannot hold what the grammar gives a meaning to.
plain_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,9}", fullmatch=True)
ugly = st.text(
    st.sampled_from("ab \n\t\r\f'\"\\;#-()=,u0D中\U0001f600\x00\x0b{}$:?&é"), max_size=12
)
values = st.one_of(
    ugly, st.text(max_size=12), st.sampled_from(["-DserviceSelection=x", "--a", "\\u0041", "a-"])
)


@pytest.mark.proof_golden
@settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 100, deadline=None)
@given(
    name=plain_names,
    project=st.none() | plain_names,
    given_parameters=st.dictionaries(plain_names, values, max_size=5),
    separate=st.booleans(),
)
def test_the_text_parses_to_the_same_command(
    name: str, project: str | None, given_parameters: dict[str, str], separate: bool
) -> None:
    words = ["-name", name]
    if project is not None:
        words += [f"-project={project}"]
    for key, value in given_parameters.items():
        # The next word begins with `-` or is none, so that an empty value stays empty.
        words += ["-D", f"{key}={value}"] if separate else [f"-D{key}={value}"]
    statement = parse_arguments(words)
    assert statement.parameters == given_parameters
    assert parse(statement.text) == [Statement(statement.text, name, project, given_parameters)]


@pytest.mark.proof_golden
@settings(max_examples=EXAMPLES, derandomize=EXAMPLES == 100, deadline=None)
@given(
    value=st.from_regex(r"[a-z{}:,; '\\()#-]{1,12}", fullmatch=True).filter(
        lambda value: value.strip() == value and not value.startswith("-")
    )
)
def test_option_values_come_back_too(value: str) -> None:
    statement = parse_arguments([*NAME, f"-jobname={value}", "-cost"])
    (parsed,) = parse(statement.text)
    assert parsed.options == {"cost": "true", "jobname": value}
