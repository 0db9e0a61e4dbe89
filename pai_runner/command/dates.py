"""Dates in commands: names that are assigned to date expressions, and their places in a text.

As in DataWorks the text is filled before it is parsed, and quotes protect nothing. What is filled
in is not looked at again. Comments stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pai_runner.command.date_expressions import (
    BUILT_IN,
    FORMS,
    Instant,
    assigned_value,
    evaluate,
    instant,
    shifted,
    system_value,
)
from pai_runner.command.grammar import comments, error_at, shown
from pai_runner.errors import UsageError, nearest

__all__ = ["Filled", "Instant", "assignment", "assignments_in", "fill", "instant"]

# DataWorks has names for a whole workflow or workspace, too; here they are assigned like others.
_NAME = re.compile(r"((workflow|workspace)\.)?[A-Za-z0-9_]+", re.ASCII)
_ASSIGNMENT = "an assignment is written day=$[yyyymmdd-1], without blanks around the ="
# A comment of assignments, and its words: an expression may hold blanks, a constant may not.
_PARAM = re.compile(r"--\s*@param\b(?P<words>.*)", re.DOTALL)
_BRACKETS = r"\$\[[^\[\]\r\n]*\]|\$\{[^{}\r\n]*\}"
_WORD = re.compile(rf"(?:{_BRACKETS}|\S)+")
# What nobody writes behind `$[` or `${` who does not mean a date. A `_` goes on in a shell's name.
_DATE_BEGUN = (
    r"(?i:bdp\.system\.|(?:add_months|(?=[ymdhis]*(?:yyy|mmdd|hh24|hh12))[ymdhis\d]+)(?!\w))"
)
# The places in a text. A `$` within [...] is a shell's; the name in it is still a place. What is
# begun and is no place is an error, for the text would be used with it as it is.
_PLACE = re.compile(
    r"\$\{(?P<name>[^{}\r\n]*)\}|\$\[[^\[\]$\r\n]*\]"
    rf"|(?P<begun>\$[\[{{][ \t]*{_DATE_BEGUN}[^\s'\";]*)",
    re.ASCII,
)
# `${bizdate-1}`, which stands in EasyRec's documents and in many commands.
_SHIFTED = re.compile(
    rf"(?P<name>{_NAME.pattern})\s*(?P<sign>[+-])\s*(?P<days>\d{{1,9}})", re.ASCII
)
# DataWorks takes this name for the business date whatever is assigned to it.
_ALWAYS_BIZDATE = "date"


@dataclass(frozen=True)
class Filled:
    """A text whose dates are filled in, and what there is to say about how it was done."""

    text: str = field(repr=False)
    notices: tuple[str, ...] = ()


def assignment(text: str) -> tuple[str, str]:
    """Return the name and the right side of `day=$[yyyymmdd-1]`. Raises UsageError.

    A name is made of letters, digits and `_`; `workflow.` or `workspace.` may stand before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not value or _NAME.fullmatch(name) is None:
        raise UsageError(f"`{shown(text)}` does not assign a value to a name", _ASSIGNMENT)
    whole = _WORD.match(value)
    if whole is None or whole.end() < len(value):
        raise UsageError(
            f"the value of `{name}` holds a blank",
            "assign two names and write ${day} ${time} in the text",
        )
    return name, value


def assignments_in(text: str) -> dict[str, str]:
    """Return what the lines `-- @param day=$[yyyymmdd-1] hour=$[hh24]` of `text` assign.

    Raises CommandError, with the line, for what is no assignment and a name that is given twice.
    """
    found: dict[str, str] = {}
    if "@param" not in text:
        return found
    for start, end in comments(text):
        line = _PARAM.fullmatch(text, start, end)
        if line is None:
            continue
        for word in _WORD.finditer(text, line.start("words"), end):
            try:
                name, value = assignment(word[0])
                if value[-1] in ";,":
                    raise UsageError(
                        f"the value of `{name}` ends with `{value[-1]}`, which would be part of it",
                        "leave it out: blanks are between assignments, and nothing ends the line",
                    )
            except UsageError as error:
                raise error_at(text, word.start(), error.message, error.hint) from error
            if name in found:
                message = f"`{name}` is assigned a second time"
                raise error_at(text, word.start(), message, "leave one of them out")
            found[name] = value
    return found


def fill(
    text: str, assignments: Mapping[str, str], instant: Instant, *, literal: bool = False
) -> Filled:
    """Return `text` with the dates of `instant` in it.

    `${bdp.system.bizdate}` and `${bdp.system.cyctime}` are built in, and so is `${date}`, the
    business date. `${name}` is what is assigned to it. A date expression that stands in the text
    itself is evaluated, and `${name-1}` is the day before the date that is assigned to the name:
    both with a notice. Blanks next to the braces do not count. Other `$[...]` and `${...}` are left
    alone, as a shell's. `literal` texts, words that a shell has split, have no comments.

    Raises UsageError for a name that is not assigned and for an expression that is wrong, is not
    closed or holds another one, with line and column (CommandError) unless the text is literal.
    """
    filling = _Filling(assignments, instant)
    if "$" not in text:
        return Filled(text)
    pieces, position = [], 0
    for start, end in [*([] if literal else comments(text)), (len(text), len(text))]:
        for place in _PLACE.finditer(text, position, start):
            try:
                value = filling.value(place)
            except UsageError as error:
                if literal:
                    raise UsageError(f"`{shown(text)}`: {error.message}", error.hint) from error
                raise error_at(text, place.start(), error.message, error.hint) from error
            pieces += [text[position : place.start()], place[0] if value is None else value]
            position = place.end()
        pieces.append(text[position:end])
        position = end
    return Filled("".join(pieces), tuple(filling.notices))


class _Filling:
    """The values of all names at an instant, and the notices that come up, each once."""

    def __init__(self, assignments: Mapping[str, str], instant: Instant) -> None:
        self.instant = instant
        self.notices: dict[str, None] = {}
        self._values: dict[str, str] = {_ALWAYS_BIZDATE: system_value("bizdate", instant)}
        for name, expression in assignments.items():
            value = _assigned(name, expression, instant)
            if self._values.setdefault(name, value) != value:
                raise UsageError(
                    f"`{name}` is always the business date in DataWorks, not `{shown(expression)}`",
                    "give another date another name",
                )

    def value(self, place: re.Match[str]) -> str | None:
        """Return what stands at a place; None when it is not for us. Raises UsageError."""
        if place["begun"] is not None:
            raise UsageError(
                f"`{shown(place[0])}` is no whole date expression: a bracket, a `$` or the end of "
                "the line comes before it is closed",
                FORMS,
            )
        name = None if place["name"] is None else place["name"].strip()
        if name in BUILT_IN:
            return system_value(BUILT_IN[name][1:], self.instant)
        if name in self._values:
            return self._values[name]
        shift = _SHIFTED.fullmatch(name or "")
        if shift is not None and shift["name"] in self._values:
            return self._shifted(place[0], shift)
        value = evaluate(place[0], self.instant)
        if value is not None:
            self.notices[
                f"`{place[0]}` stands in the text itself and is {value}; in DataWorks it has to be "
                f"assigned to a name: x={place[0]}, and ${{x}} in the text"
            ] = None
        elif shift is not None:
            raise self._unassigned(shift["name"])
        elif name is not None and (_NAME.fullmatch(name) or name.startswith("bdp.system.")):
            raise self._unassigned(name)
        return value

    def _shifted(self, place: str, shift: re.Match[str]) -> str:
        name = shift["name"]
        value = shifted(self._values[name], int(shift["sign"] + shift["days"]))
        if value is None:
            raise UsageError(
                f"`{place}` counts days, and what is assigned to `{name}` is no yyyymmdd date",
                "assign a yyyymmdd date to it, for example $bizdate",
            )
        self.notices[
            f"`{place}` is {value}, counted in days from `{name}`; DataWorks' own documents do not "
            "have this form"
        ] = None
        return value

    def _unassigned(self, name: str) -> UsageError:
        close = nearest(name, [*self._values, *BUILT_IN])
        meant = f"; did you mean `{close[0]}`?" if close else ""
        assigned = ", ".join(f"`{one}`" for one in self._values if one != _ALWAYS_BIZDATE)
        built_in = ", ".join(f"${{{one}}}" for one in [*BUILT_IN, _ALWAYS_BIZDATE])
        return UsageError(
            f"nothing is assigned to `{name}`{meant}",
            f"assign it with --param '{name}=VALUE' or a line `-- @param {name}=VALUE`, for "
            f"example $bizdate; assigned: {assigned or 'nothing'}; built in: {built_in}",
        )


def _assigned(name: str, expression: str, instant: Instant) -> str:
    try:
        return assigned_value(expression, instant)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from error
