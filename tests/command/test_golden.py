"""360 texts with what odpscmd's own front end makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pai_runner.command import parse, parse_statement, split
from pai_runner.errors import CommandError

pytestmark = pytest.mark.proof_golden

DATA = Path(__file__).parents[1] / "data"
ENTRIES: list[dict[str, Any]] = [
    entry
    for name in ("pai_commands.json", "pai_commands_edge_cases.json")
    for entry in json.loads((DATA / name).read_text(encoding="utf-8"))
]


def test_there_are_360_texts() -> None:
    assert len(ENTRIES) == 360


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_every_statement_agrees_with_odpscmd(entry: dict[str, Any]) -> None:
    text, expected = entry["text"], entry["statements"]
    if any("error" in statement for statement in expected):
        with pytest.raises(CommandError):
            parse(text)
    else:
        assert parse(text) == [parse_statement(span) for span in split(text)]
    if expected[0]["text"] is None:
        with pytest.raises(CommandError, match="never closed"):
            split(text)
        return
    spans = split(text)
    assert [span.text for span in spans] == [statement["text"] for statement in expected]
    for span, statement in zip(spans, expected, strict=True):
        if "error" in statement:
            with pytest.raises(CommandError):
                parse_statement(span)
            continue
        parsed = parse_statement(span)
        assert parsed.text == statement["text"]
        assert parsed.name == statement.get("name")
        assert parsed.project == statement.get("project")
        assert parsed.parameters == (statement.get("parameters") or {})
        assert (parsed.name is None) == bool(statement.get("not_pai"))
