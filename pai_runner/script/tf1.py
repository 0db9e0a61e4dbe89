"""TensorFlow 1 scripts on TensorFlow 2: what `import tensorflow` gives to the script's own modules.

`sys.modules["tensorflow"]` stays the real module, for installed packages and for TensorFlow
itself. Only an import statement that stands in one of the script's own files gets another one:
TensorFlow's compat.v1 under the name `tensorflow`. `importlib.import_module("tensorflow")` names
no importing file and gives the real module.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# What TensorFlow 2 has under no name, and why.
_GONE = {
    "contrib": "TensorFlow 2 has no tf.contrib, and nothing here stands in for it yet",
    "examples": "TensorFlow 2 has no tensorflow.examples, and nothing here stands in for it yet",
    "estimator": "tf.estimator left TensorFlow with 2.16: run the script under TensorFlow 2.15",
}
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INSTALLED = frozenset(("site-packages", "dist-packages"))


class TensorFlow1(ModuleType):
    """The module `tensorflow` as TensorFlow 1 had it, over the real one of TensorFlow 2.

    Names come from compat.v1; submodules that compat.v1 does not list, such as `python` and
    `core`, are the real ones. What a script sets on the module stays on it.
    """

    def __init__(self, real: ModuleType) -> None:
        super().__init__("tensorflow", real.__doc__)
        self._v1 = real.compat.v1
        self.__all__ = [name for name in dir(self._v1) if not name.startswith("_")]
        for name in ("__file__", "__loader__", "__path__", "__spec__", "__version__"):
            setattr(self, name, getattr(real, name))
        # compat.v1 has a `compat` of its own, which holds less.
        self.compat = real.compat

    def __getattr__(self, name: str) -> Any:
        submodule = sys.modules.get(f"tensorflow.{name}")
        if hasattr(self._v1, name):
            value = getattr(self._v1, name)
        elif submodule is not None:
            value = submodule
        else:
            raise AttributeError(self._missing(name), name=name, obj=self)
        # Kept, so that the next look-up does not come here; compat.v1's own is a slow one.
        setattr(self, name, value)
        return value

    def __dir__(self) -> Iterable[str]:
        return sorted({*self.__dict__, *dir(self._v1)})

    def find(self, path: Sequence[str]) -> ModuleType | None:
        """Return compat.v1's module at `path`, for example ["keras", "layers"], if it has one."""
        if path and (path[0] == "compat" or not hasattr(self._v1, path[0])):
            return None
        module: object = self
        for name in path:
            module = getattr(module, name, None)
        return module if isinstance(module, ModuleType) else None

    def _missing(self, name: str) -> str:
        reason = _GONE.get(
            name, f"TensorFlow {self.__version__} keeps no such name of TensorFlow 1"
        )
        return f"module 'tensorflow' has no attribute '{name}': {reason}"


class Importer:
    """An `__import__` that answers `tensorflow` with a `TensorFlow1` in the script's own files."""

    def __init__(self, source_folders: Sequence[str]) -> None:
        self._folders = [os.path.join(os.path.realpath(folder), "") for folder in source_folders]
        self._own: dict[str, bool] = {}
        self._import = builtins.__import__
        self._module: TensorFlow1 | None = None

    def import_module(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Do what an import statement does; called by Python in the place of `__import__`."""
        top, *path = name.split(".")
        if top != "tensorflow" or level or not self._is_own(globals):
            return self._import(name, globals, locals, fromlist or (), level)
        self._import("tensorflow")
        if self._module is None:
            raise ImportError("tensorflow was imported before its TensorFlow 1 API could be set up")
        names = fromlist or ()
        self._refuse_what_is_gone(path[:1] or names)
        module = self._module.find(path)
        if module is None or not all(name == "*" or hasattr(module, name) for name in names):
            real = self._import(name, globals, locals, names, 0)
            module = real if path else self._module
        return module if names else self._module

    def on_tensorflow(self, real: ModuleType) -> None:
        """Turn the real module, just imported, to TensorFlow 1's behaviour."""
        logging = real.compat.v1.logging
        verbosity = logging.get_verbosity()
        # A warning that one of the switches is deprecated is nothing to the script's author.
        logging.set_verbosity(logging.ERROR)
        real.compat.v1.disable_v2_behavior()
        logging.set_verbosity(verbosity)
        self._module = TensorFlow1(real)

    def _is_own(self, globals: Mapping[str, Any] | None) -> bool:
        file = globals.get("__file__") if globals else None
        if not isinstance(file, str):
            return False
        if file not in self._own:
            self._own[file] = self._lies_in_folders(os.path.realpath(file))
        return self._own[file]

    def _lies_in_folders(self, path: str) -> bool:
        if path.startswith(os.path.join(_PACKAGE, "")):
            return False
        return any(
            path.startswith(folder) and _INSTALLED.isdisjoint(path[len(folder) :].split(os.sep))
            for folder in self._folders
        )

    def _refuse_what_is_gone(self, submodules: Sequence[str]) -> None:
        for name in submodules:
            if name in _GONE and not hasattr(self._module, name):
                raise ModuleNotFoundError(
                    f"No module named 'tensorflow.{name}': {_GONE[name]}",
                    name=f"tensorflow.{name}",
                )


def install(source_folders: Sequence[str]) -> Callable[[ModuleType], None]:
    """Give TensorFlow 1's API to the modules under `source_folders`, from the next import on.

    Returns what is to be done with the real `tensorflow` as soon as it is there.
    """
    # TensorFlow 1's layers are in Keras 2: tf_keras, or TensorFlow's own Keras up to 2.15.
    if find_spec("tf_keras") is not None:
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    else:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    importer = Importer(source_folders)
    builtins.__import__ = importer.import_module
    return importer.on_tensorflow
