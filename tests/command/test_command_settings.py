"""`set odps.pai.property.K=V;`"""

from __future__ import annotations

import pytest

from pai_runner.command import apply_settings, parse, property_setting


def test_a_setting_adds_and_overrides_in_later_statements_only() -> None:
    text = (
        "pai -name a -Dk=1; set odps.pai.property.k=2; set odps.pai.property.new=x y;"
        "pai -name b -Dk=1 -Dother=3; SET odps.pai.property.k = 4; pai -name c"
    )
    statements = parse(text)
    applied = apply_settings(statements)
    assert [statement.parameters for statement in applied if statement.name] == [
        {"k": "1"},
        {"k": "2", "other": "3", "new": "x y"},
        {"k": "4", "new": "x y"},
    ]
    assert [statement.text for statement in applied] == [statement.text for statement in statements]


def test_the_parser_itself_applies_nothing() -> None:
    assert parse("set odps.pai.property.k=2; pai -name b")[1].parameters == {}


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("set odps.pai.property.k=v", ("k", "v")),
        ("Set  odps.pai.property.k = 'v w' ", ("k", "'v w'")),
        ("set odps.pai.property.k=a=b", ("k", "a=b")),
        ("set odps.running.cluster=AY100G", None),
        ("set odps.pai.property.k=", None),
        ("set ODPS.pai.property.k=v", None),
        ("setodps.pai.property.k=v", None),
        ("alias odps.pai.property.k=v", None),
        ("set odps.pai.property.k=v\nw", None),
        ("pai -name x", None),
    ],
)
def test_which_statement_is_a_setting(text: str, setting: tuple[str, str] | None) -> None:
    assert property_setting(parse(text)[0]) == setting
