"""Goes through code that runs together, and notes what stands around each node."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

Loop = ast.For | ast.AsyncFor | ast.comprehension


class Context(NamedTuple):
    """What stands around a node: the loops, outermost first, and whether it may not run."""

    loops: tuple[Loop, ...] = ()
    conditional: bool = False
    tried: bool = False
    in_class: bool = False


_Part = tuple[ast.AST, Context]


def walk(body: Sequence[ast.AST], is_entry: bool) -> Iterator[_Part]:
    """Yield imports, assignments, functions, calls and names of code that runs with `body`.

    They come in order, each before its parts. The functions' own bodies are left out, and so is
    what only other kinds of running reach: the part under `__name__ == "__main__"` unless
    `is_entry`, and the one for type checkers.
    """
    stack: list[_Part] = [(node, Context()) for node in reversed(body)]
    while stack:
        node, context = stack.pop()
        kind = type(node)
        if kind in _KEPT:
            yield node, context
        if kind is ast.If:
            children = _branches(cast("ast.If", node), context, is_entry)
        elif kind in _SPECIAL:
            children = _SPECIAL[kind](node, context)
        else:
            children = _parts(node, context)
        children.reverse()
        stack += children


def chain(node: ast.AST) -> list[str]:
    """Return the names of `a.b.c`, or none for an expression that is no such chain."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def _parts(node: ast.AST, context: Context) -> list[_Part]:
    """Return all that `node` is made of, but for what holds nothing of interest."""
    return [(child, context) for child in ast.iter_child_nodes(node) if type(child) not in _LEAVES]


def _of_function(node: ast.AST, context: Context) -> list[_Part]:
    function = cast("ast.FunctionDef", node)
    outside = [*function.decorator_list, *function.args.defaults, *function.args.kw_defaults]
    return [(child, context) for child in outside if child is not None]


def _of_class(node: ast.AST, context: Context) -> list[_Part]:
    return _parts(node, context._replace(in_class=True))


def _of_try(node: ast.AST, context: Context) -> list[_Part]:
    tried = cast("ast.Try", node)
    inner = context._replace(tried=True)
    rest = [*tried.handlers, *tried.orelse, *tried.finalbody]
    return [*((child, inner) for child in tried.body), *((child, context) for child in rest)]


def _of_condition(node: ast.AST, context: Context) -> list[_Part]:
    return _parts(node, context._replace(conditional=True))


def _of_loop(node: ast.AST, context: Context) -> list[_Part]:
    loop = cast("ast.For", node)
    inner = context._replace(loops=(*context.loops, loop))
    return [(loop.iter, context), *((child, inner) for child in [*loop.body, *loop.orelse])]


def _of_comprehension(node: ast.AST, context: Context) -> list[_Part]:
    generators = cast("ast.ListComp", node).generators
    return _parts(node, context._replace(loops=(*context.loops, *generators)))


_KEPT = frozenset(
    (
        ast.Assign,
        ast.AsyncFunctionDef,
        ast.Attribute,
        ast.Call,
        ast.FunctionDef,
        ast.Import,
        ast.ImportFrom,
        ast.Name,
    )
)
_LEAVES = frozenset((ast.Constant, ast.Load, ast.Store, ast.Pass))
_SPECIAL: Mapping[type[ast.AST], Callable[[ast.AST, Context], list[_Part]]] = {
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef), _of_function),
    **dict.fromkeys((ast.For, ast.AsyncFor), _of_loop),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp), _of_comprehension),
    **dict.fromkeys((ast.ExceptHandler, ast.IfExp, ast.BoolOp, ast.match_case), _of_condition),
    ast.ClassDef: _of_class,
    ast.Try: _of_try,
}


def _branches(node: ast.If, context: Context, is_entry: bool) -> list[_Part]:
    maybe = context._replace(conditional=True)
    test: list[_Part] = [(node.test, context)]
    if _is_main_guard(node.test):
        taken = node.body if is_entry else node.orelse
        return test + [(child, context) for child in taken]
    if "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", "")):
        return test + [(child, context) for child in node.orelse]
    return test + [(child, maybe) for child in [*node.body, *node.orelse]]


def _is_main_guard(test: ast.expr) -> bool:
    if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
        return False
    sides = [test.left, *test.comparators]
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides) and any(
        isinstance(side, ast.Constant) and side.value == "__main__" for side in sides
    )
