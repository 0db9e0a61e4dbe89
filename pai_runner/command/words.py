"""What userDefinedParameters and a hyperParameters file hold."""

from __future__ import annotations

import re

from pai_runner.errors import ParameterError

# The pieces of a word, by xargs' rules: plain characters, '...', "..." (neither over a line
# end), and a backslash with the character that it quotes. The alternatives never overlap.
_WORD = re.compile(r"""(?:[^ \t\n\\'"]+|'[^'\n]*'|"[^"\n]*"|\\(?:.|\Z))+""", re.DOTALL)
_QUOTING = re.compile(r"""\\(.?)|'([^'\n]*)'|"([^"\n]*)\"""", re.DOTALL)
# A word ends at a blank, tab or line end; before a word these are skipped as well.
_SPACE = re.compile(r"[ \t\n\v\f\r]*")
_LINE_END = re.compile(r"\r\n|\r|\n")


def split_words(text: str) -> list[str]:
    """Return the words of `text`, as xargs splits its standard input (POSIX xargs, GNU 4.9).

    '...' and "..." group, a backslash outside quotes quotes the next character, a line end
    separates, nothing is expanded. As with xargs, an empty '' that ends the text is no word,
    and neither is a last backslash. Raises ParameterError for a quote that is not closed on its
    line (xargs overlooks one that is the last character; here it is an error too), and for a NUL
    character.
    """
    if "\0" in text:
        raise ParameterError(
            "userDefinedParameters",
            "userDefinedParameters holds a NUL character, which no argument can hold",
            "leave it out",
        )
    words: list[str] = []
    position = _end(_SPACE, text, 0)
    while position < len(text):
        end = _end(_WORD, text, position)
        if text[end : end + 1] in ("'", '"'):
            raise _unclosed(text, end)
        word = _QUOTING.sub(
            lambda piece: "".join(group or "" for group in piece.groups()), text[position:end]
        )
        if word or end < len(text):
            words.append(word)
        position = _end(_SPACE, text, end)
    return words


def parse_hyper_parameters(text: str, where: str) -> list[tuple[str, str]]:
    """Return the names and values of a hyperParameters file, in its order.

    A line is `name=value`; blanks around both, one pair of double quotes around the value and
    dashes before the name are taken off, because people write them. Blank lines and lines that
    begin with `#` are skipped, a byte order mark and any kind of line end are accepted. `where`
    names the file in errors. Raises ParameterError for any other line.
    """
    pairs = []
    for number, line in enumerate(_LINE_END.split(text.removeprefix("\ufeff")), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        name = name.lstrip("-")
        if not equals or not name or len(name.split()) > 1:
            raise ParameterError(
                "hyperParameters",
                f"{where}, line {number}: not of the form name=value",
                "write one name=value a line, for example learning_rate=0.01",
            )
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        pairs.append((name, value))
    return pairs


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _unclosed(text: str, at: int) -> ParameterError:
    kind = "single" if text[at] == "'" else "double"
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return ParameterError(
        "userDefinedParameters",
        f"userDefinedParameters, line {line}, column {column}: the {kind} quote is not closed on "
        "its line",
        "userDefinedParameters is split as xargs does it: write \\' or \\\" for a quote that "
        "belongs to a value",
    )
