"""Text -> statements, as odpscmd's own front end reads them.

The rules are those of odpscmd's CommandSplitter (comments, quotes, `;`), PAICommand (`k=v` put
together, escapes) and commons-cli's GnuParser (options and their values).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pai_runner.errors import CommandError, nearest
from pai_runner.secret import redact

# The options of a PAI statement, and how many values each takes. -D takes a name and a value.
OPTIONS = {
    "name": 1,
    "project": 1,
    "lineage": 1,
    "cost": 0,
    "jobname": 1,
    "alink_version": 1,
    "D": 2,
}
OPTIONS_SHOWN = "-name, -project, -lineage, -cost, -jobname, -alink_version, -Dname=value"

# odpscmd cuts these out of the text itself, before it looks at quotes.
SERVICE_PARAMETERS = ("serviceSelection", "dlcParameters", "tableTokenLife")

_PIECE = re.compile(
    r"""
      (?P<comment> --[^\r\n]* | -\Z )          # a lone last `-` is lost, as in odpscmd
    | (?P<end> ; )
    | (?P<newline> [\r\n]+ )
    | (?P<blank> [ \t\f]+ )
    | (?P<parenthesis> [()] )
    | (?P<quoted> '[^'\\]*(?:\\.[^'\\]*)*' | "[^"\\]*(?:\\.[^"\\]*)*" )
    | (?P<unclosed> ['"] )
    | (?P<word> (?: [^ \t\f\r\n;()'"-] | -(?!-|\Z) )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_LINE_COMMENT = re.compile(r"#[^\r\n]*")
_PAI = re.compile(r"PAI(\s.*)?", re.IGNORECASE | re.DOTALL | re.ASCII)
_LINE_END = re.compile(r"\r\n|\r|\n")
# What Java's String.trim takes away.
_TRIMMED = "".join(map(chr, range(0x21)))


@dataclass(frozen=True)
class Statement:
    """One statement of a text.

    `name` is None when it is not a PAI command, `project` when none is given. `parameters` are
    the -D ones as typed, the last of a duplicate; `options` the others that were given (lineage,
    cost, jobname, alink_version). Its repr shows no values, because any of them may be secret.
    """

    text: str = field(repr=False)
    name: str | None
    project: str | None
    parameters: dict[str, str] = field(repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Span:
    """The text of one statement without its comments, and where it stands in the whole text.

    `offsets` holds the place in `source` of every character of `text`.
    """

    text: str
    source: str = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)

    def cut(self, start: int, end: int) -> Span:
        """Return the part from `start` to before `end`."""
        return replace(self, text=self.text[start:end], offsets=self.offsets[start:end])

    def error(self, message: str, at: int, hint: str | None = None) -> CommandError:
        """Return the error that stands at the character `at` of this span."""
        return error_at(self.source, self.offsets[at] if self.offsets else 0, message, hint)


class _Token(NamedTuple):
    text: str
    at: int


# ====== Text -> statements ======


def parse(text: str) -> list[Statement]:
    """Return the statements of `text`, in order, as odpscmd reads them.

    A statement that is not a PAI command has `name` None. Raises CommandError, with line and
    column, for the first malformed statement; a quote that is never closed spoils the whole text.
    """
    return [parse_statement(span) for span in split(text)]


def split(text: str) -> list[Span]:
    """Return the statements' texts: comments taken out, cut at each `;` outside quotes, trimmed.

    Empty ones are left out. Raises CommandError for a quote that is never closed.
    """
    # As `odpscmd -e` and `-f` do: it saves the last character of a text that ends in `-`.
    source = text if text.endswith(";") else text + ";"
    spans: list[Span] = []
    offsets: list[int] = []
    for kind, start, end in _pieces(source):
        if kind == "unclosed":
            raise error_at(
                source,
                start,
                f"the quote {source[start]} is never closed",
                "a quote that belongs to the value is written \\' or \\\" inside quotes",
            )
        if kind == "end":
            spans.append(_trimmed(source, offsets))
            offsets = []
        elif kind != "comment":
            offsets.extend(range(start, end))
    spans.append(_trimmed(source, offsets))
    return [span for span in spans if span.text]


def comments(text: str) -> list[tuple[int, int]]:
    """Return where the comments of `text` stand, in order: their starts and ends."""
    return [(start, end) for kind, start, end in _pieces(text) if kind == "comment"]


def parse_statement(span: Span) -> Statement:
    """Return what the statement says. Raises CommandError."""
    if _PAI.fullmatch(span.text) is None:
        return Statement(span.text, None, None, {})
    kept = _without_service_parameters(span)
    words = _joined(kept, _tokens(kept))
    if len(words) < 2:
        raise span.error("the command says nothing but PAI", 0, "write: PAI -name tensorflow ...;")
    given, stray = _options(kept, _flat(words))
    if len(stray) > 1:
        raise _stray_error(kept, stray[1])
    # The last of a duplicate parameter wins, the first of a duplicate option.
    parameters = {
        values[0]: values[1] if len(values) > 1 else "true"
        for option, values in given
        if option == "D"
    }
    options = {
        option: values[0] if values else "true"
        for option, values in reversed(given)
        if option != "D"
    }
    name = options.pop("name", None)
    if name is None:
        raise span.error("-name is missing", 0, "write: PAI -name tensorflow ...;")
    return Statement(span.text, name, options.pop("project", None), parameters, options)


def _pieces(text: str) -> Iterator[tuple[str, int, int]]:
    position, line_start = 0, True
    while position < len(text):
        comment = _LINE_COMMENT.match(text, position) if line_start else None
        piece = comment or _PIECE.match(text, position)
        assert piece is not None  # the alternatives cover every character
        kind = "comment" if comment else str(piece.lastgroup)
        yield kind, position, piece.end()
        position = piece.end()
        line_start = kind == "newline" or (kind == "blank" and line_start)


def _trimmed(source: str, offsets: list[int]) -> Span:
    text = "".join(source[offset] for offset in offsets)
    start = len(text) - len(text.lstrip(_TRIMMED))
    return Span(text, source, tuple(offsets)).cut(start, start + len(text.strip(_TRIMMED)))


def _without_service_parameters(span: Span) -> Span:
    for name in SERVICE_PARAMETERS:
        start = span.text.find(f"-D{name}")
        if start < 0:
            continue
        end = span.text.find("-D", start + 1)
        rest = span.cut(end, len(span.text)) if end >= 0 else span.cut(0, 0)
        head = span.cut(0, start)
        span = replace(span, text=head.text + rest.text, offsets=head.offsets + rest.offsets)
    return span


# ====== Statement -> words ======


def _tokens(span: Span) -> list[_Token]:
    tokens = []
    for kind, start, end in _pieces(span.text):
        if kind == "unclosed":  # only where a service parameter was cut out of a quoted value
            raise span.error(f"the quote {span.text[start]} is never closed", start)
        if kind in ("word", "quoted", "parenthesis"):
            text = span.text[start:end].strip(_TRIMMED)
            if text:
                tokens.append(_Token(text, start))
    return tokens


def _joined(span: Span, tokens: list[_Token]) -> list[_Token]:
    """Join a token that ends in its first `=` with the next, and take off the value's quotes."""
    joined = []
    rest = iter(tokens)
    for token in rest:
        key, equals, value = token.text.partition("=")
        if not equals:
            joined.append(token)
            continue
        if not value:
            value = next(rest, token._replace(text="")).text
        joined.append(_Token(f"{key}={_unquoted(span, value, token.at)}", token.at))
    return joined


def _unquoted(span: Span, value: str, at: int) -> str:
    if value == "'":
        raise span.error("a single quote stands where a value should", at)
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    try:
        return _unescaped(value)
    except ValueError as error:
        raise span.error(str(error), at, "write \\\\u for a backslash and a u") from error


_ESCAPE = re.compile(r"\\(?:u(?P<code>.{4})|(?P<cut>u.{0,3}\Z)|(?P<character>.)|\Z)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CODE = re.compile(r"[+-]?[0-9A-Fa-f]+")


def _unescaped(value: str) -> str:
    """Undo Java's escapes, as StringEscapeUtils.unescapeJava of commons-lang 2 does."""

    def character(escape: re.Match[str]) -> str:
        if escape["code"] is not None:
            if _CODE.fullmatch(escape["code"]) is None:
                raise ValueError(f"`\\u{escape['code']}` is not a character")
            return chr(int(escape["code"], 16) & 0xFFFF)
        if escape["cut"] is not None:
            return ""
        found = escape["character"]
        return "\\" if found is None else _ESCAPED.get(found, found)

    result = _ESCAPE.sub(character, value)
    if "\\u" not in value:
        return result
    # Two \u of a character beyond U+FFFF make one; a lone half is no character at all.
    return result.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# ====== Words -> options ======


def _option(word: str) -> str | None:
    if not word.startswith("-"):
        return None
    name = word[2:] if word.startswith("--") else word[1:]
    return name if name in OPTIONS else None


def _flat(words: list[_Token]) -> list[_Token]:
    """Part `-name=x` and `-Dk=v` into the option and its value."""
    flat = []
    for word in words:
        head, equals, tail = word.text.partition("=")
        if _option(word.text) is not None:
            flat.append(word)
        elif equals and _option(head) is not None:
            flat += [word._replace(text=head), word._replace(text=tail)]
        elif word.text.startswith("-D"):
            flat += [word._replace(text="-D"), word._replace(text=word.text[2:])]
        else:
            flat.append(word)
    return flat


def _options(span: Span, words: list[_Token]) -> tuple[list[tuple[str, list[str]]], list[_Token]]:
    """Return each option with its values, and the words that belong to none."""
    given: list[tuple[str, list[str]]] = []
    stray: list[_Token] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word.text == "--":
            stray += [rest for rest in words[position:] if rest.text != "--"]
            break
        if word.text == "-" or not word.text.startswith("-"):
            stray.append(word)
            continue
        option = _option(word.text)
        if option is None:
            raise _unknown_option(span, word)
        values: list[str] = []
        while (room := OPTIONS[option] - len(values)) and position < len(words):
            if _option(words[position].text) is not None:
                break
            values += _double_quotes_off(words[position].text).split("=", room - 1)
            position += 1
        if OPTIONS[option] and not values:
            raise span.error(f"-{option} has no value", word.at)
        given.append((option, values))
    return given, stray


def _double_quotes_off(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        return text[1:-1]
    return text


# ====== Errors ======


def shown(text: str) -> str:
    """Return `text` as an error may show it: short, on one line and without secrets."""
    line = " ".join(redact(text).split())
    return line if len(line) <= 60 else line[:57] + "..."


def error_at(source: str, offset: int, message: str, hint: str | None = None) -> CommandError:
    """Return the error that stands at the character `offset` of the whole text `source`."""
    lines = _LINE_END.split(source[:offset])
    return CommandError(message, len(lines), len(lines[-1]) + 1, hint)


def unknown_option(word: str) -> tuple[str, str]:
    """Return the message and the hint for an option that PAI does not have."""
    close = nearest(word.split("=")[0].lstrip("-"), OPTIONS)
    meant = f"; did you mean -{close[0]}?" if close else ""
    return (
        f"`{shown(word)}` is not an option of PAI{meant}",
        f"the options are {OPTIONS_SHOWN}",
    )


def _unknown_option(span: Span, word: _Token) -> CommandError:
    message, hint = unknown_option(word.text)
    return span.error(message, word.at, hint)


def _stray_error(span: Span, word: _Token) -> CommandError:
    hint = stray_hint(word.text, span.text[word.at - 1 : word.at])
    return span.error(f"`{shown(word.text)}` belongs to no parameter", word.at, hint)


def stray_hint(word: str, before: str = "") -> str:
    """Return how to mend a word that belongs to no parameter; `before` is the character before."""
    if word[:1] in ("–", "—", "−"):
        return f"`{word[0]}` is not the `-` of an option; a copied text often has it"
    if any(quote in word for quote in "‘’“”"):
        return "typographic quotes are not quotes here; write ' or \""
    if word == "\\":
        return "a command goes on over line ends by itself; leave the \\ out"
    if word[:1] in ("'", '"') or before in ("'", '"'):
        return 'put the whole value into \'...\', or write \\" for a quote inside "..."'
    if word in ("(", ")"):
        return "a value with parentheses needs quotes: -Dname='f(1)'"
    return "a parameter is written -Dname=value, with quotes when the value has blanks"
