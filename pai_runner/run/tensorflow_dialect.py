"""Which of TensorFlow's APIs a script is written for."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Literal

from pai_runner.run.script_sources import Node
from pai_runner.run.source_names import Origins
from pai_runner.run.tensorflow_names import ONLY_V1, ONLY_V2, USUAL_IN_V2, dotted

Api = Literal["v1", "v2"]


@dataclass(frozen=True)
class TfApi:
    """The API that `import tensorflow` gives to a script, and in a sentence why."""

    api: Api
    reason: str


@dataclass(frozen=True)
class Dialect:
    """What a script's use of TensorFlow tells: for each kind the first use, "" for none.

    `switch` is a call that chooses the behaviour itself, `compat` an import of compat.v1,
    `placeholder` one of compat.v1's, which eager execution refuses.
    """

    only_v1: str = ""
    only_v2: str = ""
    usual_in_v2: str = ""
    switch: str = ""
    compat: str = ""
    placeholder: str = ""


def choose_api(dialect: Dialect, forced: str, algorithm_api: str) -> TfApi:
    """Return the API for a script of this dialect.

    `forced` is -DtfApi (`v1`, `v2`, anything else leaves the choice), `algorithm_api` what the
    algorithm's name stands for. The source's own word goes before the algorithm's.
    """
    if forced in ("v1", "v2"):
        return TfApi("v1" if forced == "v1" else "v2", f"-DtfApi={forced} asks for it")
    if dialect.switch:
        return TfApi("v2", f"the script chooses for itself: {dialect.switch}")
    # A script with names of both makes its own way by tf.__version__, which is 2.
    if dialect.only_v2:
        return TfApi("v2", f"only TensorFlow 2 has what the script uses: {dialect.only_v2}")
    if dialect.only_v1:
        return TfApi("v1", f"only TensorFlow 1 has what the script uses: {dialect.only_v1}")
    if dialect.compat and dialect.placeholder and not dialect.usual_in_v2:
        return TfApi("v1", f"the script builds graphs, not eagerly: {dialect.placeholder}")
    if dialect.compat:
        return TfApi("v2", f"the script chooses for itself: {dialect.compat}")
    if dialect.usual_in_v2:
        return TfApi("v2", f"the script is written for TensorFlow 2: {dialect.usual_in_v2}")
    version = "1" if algorithm_api == "v1" else "2"
    return TfApi(
        "v1" if algorithm_api == "v1" else "v2",
        f"the source does not tell, and the algorithm's name stands for TensorFlow {version}",
    )


_V1 = dotted(ONLY_V1)
_V2 = dotted(ONLY_V2)
_USUAL = dotted(USUAL_IN_V2)
# Methods that only TensorFlow 1's objects have, and only eager tensors.
_V1_METHODS = frozenset(("make_initializable_iterator", "make_one_shot_iterator"))
_EAGER_METHODS = frozenset(("numpy",))
_SWITCHES = frozenset(
    f"{verb}_{what}"
    for verb in ("disable", "enable")
    for what in ("eager_execution", "v2_behavior")
)
_COMPAT = "tensorflow.compat.v1"


class DialectReader:
    """Collects a script's uses of TensorFlow from its nodes."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._found: dict[str, str] = {}

    @property
    def dialect(self) -> Dialect:
        return Dialect(**self._found)

    def meet(self, node: Node) -> None:
        """Take in a node of the script's code."""
        part = node.ast
        if isinstance(part, ast.Attribute):
            self._meet_name(self._origins.dotted(part, node.module), node)
        elif isinstance(part, ast.Import):
            for alias in part.names:
                self._meet_import(alias.name, node)
        elif isinstance(part, ast.ImportFrom):
            for alias in part.names:
                self._meet_import(f"{node.module.absolute(part)}.{alias.name}", node)
        elif isinstance(part, ast.Assign):
            # `tf = tf.compat.v1`
            if self._origins.dotted(part.value, node.module) == _COMPAT:
                self._note("compat", node)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            self._meet_method(part, part.func.attr, node)

    def _meet_import(self, name: str, node: Node) -> None:
        if name in (_COMPAT, "tensorflow.compat.v2"):
            self._note("compat" if name == _COMPAT else "switch", node)
        elif name.startswith("tensorflow."):
            self._meet_name(name, node)

    def _meet_name(self, name: str, node: Node) -> None:
        top, _, path = name.partition(".")
        if top != "tensorflow" or not path:
            return
        if path.startswith("compat.v1."):
            below = path.removeprefix("compat.v1.")
            if below in _SWITCHES:
                self._note("switch", node)
            elif below in ("placeholder", "sparse_placeholder"):
                self._note("placeholder", node)
            elif _stands_for(below, _USUAL):
                self._note("usual_in_v2", node)
        elif _stands_for(path, _V1):
            self._note("only_v1", node)
        elif _stands_for(path, _V2):
            self._note("only_v2", node)
        elif _stands_for(path, _USUAL):
            self._note("usual_in_v2", node)

    def _meet_method(self, call: ast.Call, name: str, node: Node) -> None:
        if name in _V1_METHODS:
            self._note("only_v1", node, f".{name}()")
        elif name in _EAGER_METHODS and not call.args:
            self._note("usual_in_v2", node, f".{name}()")

    def _note(self, kind: str, node: Node, shown: str = "") -> None:
        if kind not in self._found:
            self._found[kind] = f"{shown or ast.unparse(node.ast)} ({node.place})"


def _stands_for(path: str, names: frozenset[str]) -> bool:
    """Tell whether `path`, or a module above it, is one of `names`."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in names for length in range(1, len(parts) + 1))
