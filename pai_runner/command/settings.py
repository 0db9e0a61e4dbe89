"""`set odps.pai.property.K=V;`: a parameter for the PAI commands that follow in the same text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from pai_runner.command.grammar import Statement

_PREFIX = "odps.pai.property."
# odpscmd's SetCommand: the value is the rest of the line, quotes included, and is not empty.
_SET = re.compile(r"set\s+(?P<key>\S+?)\s*=\s*(?P<value>\S.*)", re.IGNORECASE | re.ASCII)


def apply_settings(statements: Iterable[Statement]) -> list[Statement]:
    """Return the statements with what `set odps.pai.property.K=V` says put into the later ones.

    It adds -DK=V or takes the place of a given one. The `set` statements stay where they are:
    `property_setting` tells which of them were applied.
    """
    settings: dict[str, str] = {}
    applied = []
    for statement in statements:
        setting = property_setting(statement)
        if setting is not None:
            settings[setting[0]] = setting[1]
        if statement.name is not None and settings:
            statement = replace(statement, parameters={**statement.parameters, **settings})
        applied.append(statement)
    return applied


def property_setting(statement: Statement) -> tuple[str, str] | None:
    """Return K and V when the statement is `set odps.pai.property.K=V`, else None."""
    found = None if statement.name is not None else _SET.fullmatch(statement.text)
    if found is None or not found["key"].startswith(_PREFIX):
        return None
    return found["key"][len(_PREFIX) :], found["value"].strip()
