"""Reads a script and its own modules, as far as running it would reach them.

The source is parsed, never imported. Code that cannot run is passed over: a module's
`if __name__ == "__main__":` part unless it is the script itself, and functions of other modules
whose name nothing mentions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pai_runner.errors import SetupError
from pai_runner.run.source_walk import Context, chain, walk

# A script with more modules than this has a library in its folder, which would take seconds.
_MOST_MODULES = 400

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A file of the script. `name` is dotted, `__main__` for the script itself."""

    name: str
    path: Path
    shown: str
    tree: ast.Module = field(repr=False)

    @property
    def is_entry(self) -> bool:
        return self.name == "__main__"

    def place(self, node: ast.AST) -> str:
        """Return where `node` stands, for example `train.py:12`."""
        return f"{self.shown}:{getattr(node, 'lineno', 1)}"

    def absolute(self, node: ast.ImportFrom) -> str:
        """Return the dotted name of the module that `from … import` names, "" if it has none."""
        if not node.level:
            return node.module or ""
        package = [] if self.is_entry else self.name.split(".")
        if self.path.name != "__init__.py":
            package = package[:-1]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, *(node.module.split(".") if node.module else ())])


class Node(NamedTuple):
    """A node of code that may run: an import, an assignment, a function, a call or a name."""

    ast: ast.AST
    module: Module
    context: Context

    @property
    def place(self) -> str:
        return self.module.place(self.ast)


@dataclass(frozen=True)
class Foreign:
    """A module that is imported and is no file of the script."""

    name: str
    place: str


@dataclass(frozen=True)
class Sources:
    """A script's code: `nodes` in the order of reading, the script's own top level first.

    `unknown` says, a line each, what could not be followed.
    """

    nodes: tuple[Node, ...]
    foreign: tuple[Foreign, ...]
    unknown: tuple[str, ...]


def read_sources(entry: Path, roots: Sequence[Path]) -> Sources:
    """Return the code of the script `entry` and of the modules it imports from `roots`.

    Its own folder is searched first, as Python does. Raises SetupError where the script, or a
    module that it surely imports, cannot be read or is no Python 3.
    """
    reader = _Reader([entry.parent, *(root for root in roots if root != entry.parent)])
    reader.read_script(entry)
    return Sources(tuple(reader.nodes), tuple(reader.foreign), tuple(reader.unknown))


# ====== Parsing ======


def parse(path: Path, shown: str) -> ast.Module:
    """Return the syntax tree of a file. Raises SetupError, with file and line."""
    try:
        return ast.parse(path.read_bytes(), shown)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}", "check -Dscript") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        text = (getattr(error, "text", None) or "").strip()
        message = getattr(error, "msg", None) or str(error)
        quoted = f": {text}" if text else ""
        if _is_python_2(message, text):
            raise SetupError(
                f"{path}:{line}: this is Python 2{quoted}",
                "Python 2 scripts are not run yet: convert it, for example with 2to3",
            ) from error
        raise SetupError(f"{path}:{line}: {message}{quoted}", "correct the script") from error


# What Python 3 says of Python 2's statements, and how lines that it has no words for look.
_PYTHON_2_MESSAGES = (
    "Missing parentheses in call to",
    "multiple exception types must be parenthesized",
    "leading zeros in decimal integer literals",
)
_PYTHON_2_LINE = re.compile(
    r"^(print\s+[^=(\s]|print\s*>>|exec\s+[^=(\s]|raise\s+[\w.]+\s*,)"
    r"|^except\s+[^:]+,\s*\w+\s*:|[\w\])]\s*<>\s*[\w\[(]|\b\d+[lL]\b"
)


def _is_python_2(message: str, line: str) -> bool:
    return message.startswith(_PYTHON_2_MESSAGES) or _PYTHON_2_LINE.search(line) is not None


# ====== Finding what may run ======


@dataclass(frozen=True)
class _Unit:
    """Code that runs as a whole: a module's top level, or a function's body.

    `certain` tells whether it surely runs.
    """

    module: Module
    body: Sequence[ast.AST]
    certain: bool


class _Reader:
    def __init__(self, roots: Sequence[Path]) -> None:
        self.nodes: list[Node] = []
        self.foreign: list[Foreign] = []
        self.unknown: list[str] = []
        self._roots = roots
        self._modules: dict[str, Module | None] = {}
        self._pending: list[_Unit] = []
        # Functions that nothing has mentioned yet, by module and name, and methods by name.
        self._functions: dict[tuple[str, str], list[_Unit]] = defaultdict(list)
        self._methods: dict[str, list[_Unit]] = defaultdict(list)
        self._names: set[tuple[str, str]] = set()
        self._attributes: set[str] = set()
        # What an import binds in a module: another module's name, or a module ("" for a name).
        self._aliases: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        self._stars: dict[str, set[str]] = defaultdict(set)

    def read_script(self, entry: Path) -> None:
        module = Module("__main__", entry, entry.name, parse(entry, entry.name))
        self._modules["__main__"] = module
        self._pending.append(_Unit(module, module.tree.body, certain=True))
        while self._pending:
            self._read(self._pending.pop(0))

    def _read(self, unit: _Unit) -> None:
        for part, context in walk(unit.body, unit.module.is_entry):
            self.nodes.append(Node(part, unit.module, context))
            if isinstance(part, _Function):
                self._meet_function(part, unit.module, context)
            elif isinstance(part, ast.Import | ast.ImportFrom):
                self._meet_import(part, unit, context)
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
                self._mention(unit.module.name, part.id)
            elif isinstance(part, ast.Attribute):
                self._meet_attribute(part, unit.module)
            elif isinstance(part, ast.Call):
                self._meet_call(part, unit)

    # ------ functions ------

    def _meet_function(self, function: _Function, module: Module, context: Context) -> None:
        unit = _Unit(module, function.body, certain=False)
        name = function.name
        if context.in_class:
            mentioned = name in self._attributes or name.startswith("__")
        else:
            mentioned = (module.name, name) in self._names
        if module.is_entry or function.decorator_list or mentioned:
            self._pending.append(unit)
        elif context.in_class:
            self._methods[name].append(unit)
        else:
            self._functions[module.name, name].append(unit)

    def _mention(self, module: str, name: str) -> None:
        if (module, name) in self._names:
            return
        self._names.add((module, name))
        self._pending += self._functions.pop((module, name), ())
        for other, original in self._aliases[module, name]:
            self._mention(other, original)
        for other in self._stars[module]:
            self._mention(other, name)

    def _meet_attribute(self, node: ast.Attribute, module: Module) -> None:
        self._attributes.add(node.attr)
        self._pending += self._methods.pop(node.attr, ())
        first, *rest = chain(node.value) or [""]
        for source, original in self._aliases.get((module.name, first), ()):
            owner = ".".join(part for part in [source, original, *rest] if part)
            if self._modules.get(owner) is not None:
                self._mention(owner, node.attr)

    # ------ imports ------

    def _meet_import(
        self, node: ast.Import | ast.ImportFrom, unit: _Unit, context: Context
    ) -> None:
        sure = unit.certain and not context.conditional and not context.tried
        place = unit.module.place(node)
        here = unit.module.name
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._import(alias.name, place, sure)
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                self._aliases[here, alias.asname or bound].add((bound, ""))
            return
        source = unit.module.absolute(node)
        own = self._import(source, place, sure) if source else None
        for alias in node.names:
            below = f"{source}.{alias.name}" if source else alias.name
            if alias.name == "*":
                self._star(here, source)
            elif (own is not None or self._is_package(source)) and self._find(below):
                self._import(below, place, sure)
                self._alias(here, alias.asname or alias.name, below, "")
            else:
                self._alias(here, alias.asname or alias.name, source, alias.name)

    def _alias(self, module: str, name: str, source: str, original: str) -> None:
        self._aliases[module, name].add((source, original))
        if (module, name) in self._names:
            self._mention(source, original)

    def _star(self, module: str, source: str) -> None:
        self._stars[module].add(source)
        for mentioning, name in list(self._names):
            if mentioning == module:
                self._mention(source, name)

    def _meet_call(self, call: ast.Call, unit: _Unit) -> None:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name not in ("import_module", "__import__") or not call.args:
            return
        target = call.args[0]
        place = unit.module.place(call)
        if isinstance(target, ast.Constant) and isinstance(target.value, str):
            self._import(target.value, place, sure=False)
        else:
            self.unknown.append(f"{place}: a module is imported by a name that is made as it runs")

    def _import(self, name: str, place: str, sure: bool) -> Module | None:
        """Read the module `name` and the packages above it; return it if it is the script's."""
        parts = name.split(".")
        found = None
        for length in range(1, len(parts) + 1):
            dotted = ".".join(parts[:length])
            if dotted not in self._modules:
                self._modules[dotted] = self._load(dotted, sure)
            found = self._modules[dotted]
        if self._find(parts[0]) is None and not self._is_package(parts[0]):
            self.foreign.append(Foreign(name, place))
        return found

    def _load(self, name: str, sure: bool) -> Module | None:
        path = self._find(name)
        if path is None:
            return None
        if len(self._modules) > _MOST_MODULES:
            self.unknown.append(f"only the first {_MOST_MODULES} modules of the script are read")
            return None
        shown = self._shown(path)
        try:
            module = Module(name, path, shown, parse(path, shown))
        except SetupError as error:
            if sure:
                raise
            # It may never be imported, or the script may be ready for its failing.
            self.unknown.append(str(error))
            return None
        self._pending.append(_Unit(module, module.tree.body, certain=sure))
        return module

    def _find(self, name: str) -> Path | None:
        relative = Path(*name.split("."))
        for root in self._roots:
            for candidate in (root / relative / "__init__.py", root / f"{relative}.py"):
                if candidate.is_file():
                    return candidate
        return None

    def _is_package(self, name: str) -> bool:
        """Tell whether `name` is a folder of the script's without an __init__.py."""
        if not name or name.partition(".")[0] in sys.stdlib_module_names:
            return False
        return any((root / Path(*name.split("."))).is_dir() for root in self._roots)

    def _shown(self, path: Path) -> str:
        for root in self._roots:
            if path.is_relative_to(root):
                return str(path.relative_to(root))
        return path.name
