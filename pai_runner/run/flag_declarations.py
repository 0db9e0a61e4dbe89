"""Which flags a script's code declares, by the parser that it declares them to."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pai_runner.run.script_sources import Node
from pai_runner.run.source_names import Constants, Origins


class Form(Enum):
    """How a flag takes a value."""

    VALUE = "--name=value"
    SWITCH = "--name=true, --noname"
    PAIR = "--name, --no-name"
    ON = "--name means true"
    OFF = "--name means false"
    BARE = "--name takes no value"


@dataclass(frozen=True)
class Flag:
    """A flag that the script declares.

    `name` is without dashes, `spelling` with them, `negative` the spelling that says no.
    `variable` is where argparse keeps the value. `certain` is False when the declaration may not
    be reached. `place` is for example `train.py:12`.
    """

    name: str
    parser: str
    form: Form
    spelling: str
    negative: str
    variable: str
    certain: bool
    place: str


class Declarations:
    """Collects flags, and which parsers are at work, from the nodes of a script."""

    def __init__(self, origins: Origins, constants: Constants) -> None:
        self.flags: list[Flag] = []
        self.parsers: set[str] = set()
        # Parsers that are told to leave words alone that they do not know, and those that refuse.
        self.tolerant: set[str] = set()
        self.strict: set[str] = set()
        self.unknown: list[str] = []
        # Flags that the code reads from absl's FLAGS, with the place.
        self.reads: dict[str, str] = {}
        self._origins = origins
        self._constants = constants
        # Variables that hold the parser of a sub-command: its flags stand after the command.
        self._sub_parsers: set[tuple[str, str]] = set()
        self._sub_commands: set[int] = set()

    def meet(self, node: Node) -> None:
        """Take in a node of the script's code."""
        part = node.ast
        if isinstance(part, ast.Call):
            self._meet_call(part, node)
        elif isinstance(part, ast.Attribute):
            self._meet_attribute(part, node)
        elif isinstance(part, ast.Assign):
            self._meet_assignment(part, node)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            self._meet_function(part, node)

    # ------ absl ------

    def _meet_attribute(self, part: ast.Attribute, node: Node) -> None:
        dotted = self._origins.dotted(part, node.module)
        if dotted == "sys.argv":
            self.parsers.add("sys.argv")
        elif dotted.startswith(_ABSL):
            self.parsers.add("absl")
        owner, _, name = dotted.rpartition(".")
        if owner == "FLAGS" or owner.endswith(".FLAGS"):
            self.reads.setdefault(name, node.place)

    def _absl(self, call: ast.Call, name: str, node: Node) -> None:
        self.parsers.add("absl")
        position = {"DEFINE": 1, "DEFINE_multi": 2}.get(name, 0)
        given = _argument(call, position, "name", "flag_name")
        texts = None
        if given is not None and name != "DEFINE_flag":
            texts = self._constants.texts(given, node)
        if texts is None:
            self.unknown.append(f"{node.place}: the flag's name is not written out")
        form = Form.SWITCH if name in ("DEFINE_bool", "DEFINE_boolean") else Form.VALUE
        for text in texts or ():
            self._add(node, "absl", form, f"--{text}", f"--no{text}", text)

    # ------ argparse and optparse ------

    def _argparse(self, call: ast.Call, parser: str, node: Node) -> None:
        self.parsers.add(parser)
        if self._is_sub_parser(getattr(call.func, "value", call.func), node):
            return
        options = [text for word in call.args for text in self._option(word, node)]
        form = self._argparse_form(call)
        spellings = [text for text in options if text.startswith("-") and len(text) > 2]
        if not spellings:
            return
        first = next((text for text in spellings if text.startswith("--")), spellings[0])
        given = _argument(call, None, "dest")
        dest = self._constants.texts(given, node) if given is not None else None
        variable = dest[0] if dest else first.lstrip("-").replace("-", "_")
        for text in spellings:
            negative = f"--no-{text[2:]}" if form is Form.PAIR else ""
            self._add(node, parser, form, text, negative, variable)

    def _option(self, word: ast.expr, node: Node) -> tuple[str, ...]:
        texts = self._constants.texts(word, node)
        if texts is None:
            self.unknown.append(f"{node.place}: the option's name is not written out")
        return texts or ()

    def _argparse_form(self, call: ast.Call) -> Form:
        action = _argument(call, None, "action")
        if action is None:
            return Form.VALUE
        if isinstance(action, ast.Constant):
            return _ACTIONS.get(str(action.value), Form.VALUE)
        is_pair = getattr(action, "attr", getattr(action, "id", "")) == "BooleanOptionalAction"
        return Form.PAIR if is_pair else Form.VALUE

    def _meet_assignment(self, part: ast.Assign, node: Node) -> None:
        if self._is_sub_parser(part.value, node):
            for target in part.targets:
                if isinstance(target, ast.Name):
                    self._sub_parsers.add((node.module.name, target.id))

    def _is_sub_parser(self, expression: ast.expr, node: Node) -> bool:
        """Tell whether this is the parser of a sub-command, or a group of its arguments."""
        if isinstance(expression, ast.Name):
            return (node.module.name, expression.id) in self._sub_parsers
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            method = expression.func.attr
            return method == "add_parser" or (
                method in ("add_argument_group", "add_mutually_exclusive_group")
                and self._is_sub_parser(expression.func.value, node)
            )
        return False

    # ------ click ------

    def _meet_function(self, part: ast.FunctionDef | ast.AsyncFunctionDef, node: Node) -> None:
        """Note a click command, and pass over the options of a group's sub-command."""
        calls = [word for word in part.decorator_list if isinstance(word, ast.Call)]
        of_a_group = False
        for word in part.decorator_list:
            call = word.func if isinstance(word, ast.Call) else word
            name = self._origins.dotted(call, node.module)
            if name in ("click.command", "click.group"):
                self.parsers.add("click")
                settings = ast.unparse(word)
                loose = "ignore_unknown_options" in settings and "allow_extra_args" in settings
                (self.tolerant if loose else self.strict).add("click")
            elif name.endswith((".command", ".group")):
                of_a_group = True
        if of_a_group:
            self._sub_commands.update(id(call) for call in calls)

    def _click(self, call: ast.Call, node: Node) -> None:
        if id(call) in self._sub_commands:
            return
        words = [text for word in call.args for text in self._option(word, node)]
        form = Form.VALUE
        if _is_true(_argument(call, None, "is_flag")):
            form = Form.ON
        elif any(_argument(call, None, name) is not None for name in ("count", "flag_value")):
            form = Form.BARE
        for word in words:
            positive, _, negative = (text.strip() for text in word.partition("/"))
            if positive.startswith("--"):
                shape = Form.PAIR if negative else form
                self._add(node, "click", shape, positive, negative, positive[2:])

    # ------ any ------

    def _meet_call(self, call: ast.Call, node: Node) -> None:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if _DEFINE.fullmatch(name):
            self._absl(call, name, node)
        elif name == "add_argument":
            self._argparse(call, "argparse", node)
        elif name == "add_option":
            self._argparse(call, "optparse", node)
        elif name in ("parse_args", "parse_intermixed_args"):
            self.strict.add("argparse")
        elif name in ("parse_known_args", "parse_known_intermixed_args"):
            self.tolerant.add("argparse")
        else:
            dotted = self._origins.dotted(call.func, node.module)
            self.parsers.update(_OTHERS.get(dotted, ()))
            if dotted == "click.option":
                self._click(call, node)

    def _add(
        self, node: Node, parser: str, form: Form, spelling: str, negative: str, variable: str
    ) -> None:
        certain = not node.context.conditional
        name = spelling.lstrip("-")
        self.flags.append(
            Flag(name, parser, form, spelling, negative, variable, certain, node.place)
        )


_DEFINE = re.compile(r"DEFINE(_\w+)?")
_ABSL = (
    "absl.app",
    "absl.flags",
    "gflags",
    "tensorflow.app",
    "tensorflow.flags",
    "tensorflow.compat.v1.app",
    "tensorflow.compat.v1.flags",
    "tensorflow.python.platform.app",
    "tensorflow.python.platform.flags",
)
_ACTIONS: Mapping[str, Form] = {
    "store_true": Form.ON,
    "store_false": Form.OFF,
    **dict.fromkeys(
        ("append_const", "callback", "count", "help", "store_const", "version"), Form.BARE
    ),
}
# Parsers whose flags are not read; they are noted all the same.
_OTHERS: Mapping[str, tuple[str, ...]] = {
    "argparse.ArgumentParser": ("argparse",),
    "fire.Fire": ("fire",),
    "getopt.getopt": ("getopt",),
    "getopt.gnu_getopt": ("getopt",),
    "optparse.OptionParser": ("optparse",),
    "typer.Typer": ("typer",),
    "typer.run": ("typer",),
}


def _argument(call: ast.Call, position: int | None, *keywords: str) -> ast.expr | None:
    if position is not None and len(call.args) > position:
        return call.args[position]
    return next((word.value for word in call.keywords if word.arg in keywords), None)


def _is_true(expression: ast.expr | None) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is True
