"""A PAI command that a shell has already split into words, and the way back to one text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pai_runner.command.grammar import (
    OPTIONS,
    OPTIONS_SHOWN,
    Statement,
    shown,
    stray_hint,
    unknown_option,
)
from pai_runner.errors import UsageError

_OPTION_WORDS = {f"-{option}" for option in OPTIONS if option != "D"}
_WHOLE_COMMAND = re.compile(r"\s*(pai\s|-\S+\s.*\s-)", re.IGNORECASE | re.DOTALL)
# What odpscmd's splitter leaves alone without quotes.
_PLAIN = re.compile(r"(?!.*-[-D])[\w./:,@%+=&?*$-]*[\w./:,@%+=&?*$]", re.ASCII)


def parse_arguments(arguments: Sequence[str]) -> Statement:
    """Return the command whose words are `arguments`.

    Every word is literal: no comment, quote, `;` or escape rule applies. `-name x`, `-name=x`,
    `-Dk=v` and `-D k=v` are alike, `-Dk` is "true", and an empty `-Dk=` takes the next word as
    its value unless that begins with `-`. The text of the statement is made to parse to the same
    parameters. Raises UsageError.
    """
    words = list(arguments)
    if words and words[0].lower() == "pai":
        del words[0]
    options: dict[str, str] = {}
    parameters: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.startswith("-D"):
            name, value = _parameter(word, words)
            parameters[name] = value
            continue
        head, equals, value = word.partition("=")
        _check_option(word, head, equals)
        option = head[1:]
        if option in options:
            raise UsageError(f"-{option} is given twice", "leave one of them out")
        if not equals:
            value = "true" if option == "cost" else _next(word, words)
        options[option] = value
    name = options.pop("name", "")
    if not name:
        raise UsageError("-name is missing", "write: pai -name tensorflow -Dscript=...")
    project = options.pop("project", None)
    return Statement(render(name, project, parameters, options), name, project, parameters, options)


def render(
    name: str, project: str | None, parameters: Mapping[str, str], options: Mapping[str, str]
) -> str:
    """Return a command's text, quoted so that parsing it gives the same values back.

    A name with blanks, quotes, parentheses or `=` cannot be written in odpscmd's grammar.
    """
    words = ["PAI", _rendered("-name", name, " ")]
    if project is not None:
        words.append(_rendered("-project", project, " "))
    for option, value in options.items():
        words.append("-cost" if option == "cost" else _rendered(f"-{option}", value, " "))
    words += [_rendered(f"-D{key}", value, "=") for key, value in parameters.items()]
    return " ".join(words)


def _rendered(option: str, value: str, separator: str) -> str:
    # After a blank, `-x` would be an option and `x=` would take the next word.
    if _PLAIN.fullmatch(value) and (separator == "=" or ("=" not in value and value[0] != "-")):
        return f"{option}{separator}{value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    # odpscmd looks for the parameters that it cuts out inside quotes too.
    return f"{option}='" + escaped.replace("-D", "-\\u0044") + "'"


def _parameter(word: str, rest: list[str]) -> tuple[str, str]:
    written = word.removeprefix("-D") or _next("-D", rest)
    name, equals, value = written.partition("=")
    if not name:
        raise UsageError(f"`{shown(word)}` names no parameter", "write -Dname=value")
    if not equals:
        return name, "true"
    # PAI's own documents write -Dscript= 'file://...'.
    if not value and rest and not rest[0].startswith("-"):
        value = rest.pop(0)
    return name, value


def _next(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("-"):
        raise UsageError(f"{option} has no value", f"the options are {OPTIONS_SHOWN}")
    return rest.pop(0)


def _check_option(word: str, head: str, equals: str) -> None:
    if head in _OPTION_WORDS:
        if head == "-cost" and equals:
            raise UsageError("-cost takes no value", "write -cost alone")
        return
    if _WHOLE_COMMAND.match(word):
        raise UsageError(
            f"a whole command is given as one word: `{shown(word)}`",
            "pass a whole command with -e: pai -e 'PAI -name tensorflow -Dscript=...;'",
        )
    if word.startswith("--"):
        raise UsageError(
            f"`{shown(word)}` is not an option of pai",
            "see pai --help; the script's own flags go into -DuserDefinedParameters='--flag=value'",
        )
    if word.startswith("-"):
        raise UsageError(*unknown_option(word))
    raise UsageError(f"`{shown(word)}` belongs to no parameter", stray_hint(word))
