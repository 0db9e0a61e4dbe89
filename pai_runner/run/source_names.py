"""What names and simple expressions of a script stand for, as far as reading it tells."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from itertools import product

from pai_runner.run.script_sources import Module, Node
from pai_runner.run.source_walk import Context, Loop, chain


class Origins:
    """Where a module's names come from: after `import a.b as c`, `c.d` is `a.b.d`.

    Nodes are learned in the order in which they run; the first binding of a name counts.
    """

    def __init__(self) -> None:
        self._origins: dict[tuple[str, str], str] = {}

    def learn(self, node: Node) -> None:
        """Take in what an import or an assignment binds."""
        part, module = node.ast, node.module
        if isinstance(part, ast.Import):
            for alias in part.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                self._bind(module, alias.asname or bound, bound)
        elif isinstance(part, ast.ImportFrom):
            for alias in part.names:
                origin = f"{module.absolute(part)}.{alias.name}".lstrip(".")
                self._bind(module, alias.asname or alias.name, origin)
        elif isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            origin = self.dotted(part.value, module)
            if origin:
                self._bind(module, part.targets[0].id, origin)

    def dotted(self, expression: ast.AST, module: Module) -> str:
        """Return what `a.b.c` stands for, dotted, or "" for another kind of expression."""
        names = chain(expression)
        if not names:
            return ""
        return ".".join([self._origins.get((module.name, names[0]), names[0]), *names[1:]])

    def _bind(self, module: Module, name: str, origin: str) -> None:
        self._origins.setdefault((module.name, name), origin)


class Constants:
    """The texts that an expression may have: written out, in a constant, or in a loop's list."""

    def __init__(self) -> None:
        # None for a name that is bound more than once.
        self._constants: dict[tuple[str, str], ast.expr | None] = {}

    def learn(self, node: Node) -> None:
        """Take in what an assignment binds."""
        part = node.ast
        if isinstance(part, ast.Assign):
            for target in part.targets:
                if isinstance(target, ast.Name):
                    place = (node.module.name, target.id)
                    self._constants[place] = None if place in self._constants else part.value

    def texts(self, expression: ast.expr, node: Node) -> tuple[str, ...] | None:
        """Return every text that `expression`, standing at `node`, takes; None if unknown."""
        return self._texts(expression, node.module, node.context)

    def _texts(
        self, expression: ast.expr, module: Module, context: Context
    ) -> tuple[str, ...] | None:
        if isinstance(expression, ast.Constant):
            return (expression.value,) if isinstance(expression.value, str) else None
        if isinstance(expression, ast.Name):
            for loop in reversed(context.loops):
                if _binds(loop.target, expression.id):
                    return self._in_loop(expression.id, loop, module)
            constant = self._constants.get((module.name, expression.id))
            # What a constant is made of was bound before it: loops around its use do not matter.
            return None if constant is None else self._texts(constant, module, Context())
        if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Add):
            return self._joined([expression.left, expression.right], module, context)
        if isinstance(expression, ast.JoinedStr):
            return self._joined(expression.values, module, context)
        if isinstance(expression, ast.FormattedValue) and expression.format_spec is None:
            return self._texts(expression.value, module, context)
        return None

    def _joined(
        self, parts: Sequence[ast.expr], module: Module, context: Context
    ) -> tuple[str, ...] | None:
        choices = []
        for part in parts:
            texts = self._texts(part, module, context)
            if texts is None:
                return None
            choices.append(texts)
        return tuple("".join(words) for words in product(*choices))

    def _in_loop(self, name: str, loop: Loop, module: Module) -> tuple[str, ...] | None:
        items = self._items(loop.iter, module)
        if items is None:
            return None
        found: list[str] = []
        for item in items:
            value = _bound_to(loop.target, item, name)
            if not isinstance(value, str):
                return None
            found.append(value)
        return tuple(found)

    def _items(self, expression: ast.expr, module: Module) -> list[object] | None:
        """Return what a loop goes over: a literal, a constant, or the items() of one."""
        method = ""
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            method, expression = expression.func.attr, expression.func.value
        if isinstance(expression, ast.Name):
            expression = self._constants.get((module.name, expression.id)) or expression
        try:
            literal = ast.literal_eval(expression)
        except (ValueError, TypeError):
            return None
        if isinstance(literal, dict) and method in ("", "items", "keys", "values"):
            return list(getattr(literal, method)() if method else literal)
        if isinstance(literal, list | tuple | set) and not method:
            return list(literal)
        return None


def _binds(target: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(target))


def _bound_to(target: ast.expr, item: object, name: str) -> object:
    """Return what `name` is when `target` is assigned `item`; None if that does not fit."""
    if isinstance(target, ast.Name):
        return item if target.id == name else None
    if not isinstance(target, ast.Tuple | ast.List) or not isinstance(item, tuple | list):
        return None
    for part, value in zip(target.elts, item, strict=False):
        if _binds(part, name):
            return _bound_to(part, value, name)
    return None
