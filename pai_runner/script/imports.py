"""What happens in the script's process when the script imports certain modules.

Nothing heavy is imported on the script's behalf: TensorFlow gets its file systems and its
TensorFlow 1 face at the moment the script imports it, and only if the job needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pai_runner.errors import PaiError, SetupError
from pai_runner.script.handover import Mount
from pai_runner.secret import remember

Action = Callable[[ModuleType], object]


class NotPreparedError(SetupError):
    """What the script imports could not be made ready for it; the script itself did nothing."""


class Settings:
    """What this process, and each that multiprocessing spawns from it, does on imports.

    `source_folders` are the folders of the script's own modules, `heartbeat` the file whose time
    says when the job last moved.
    """

    def __init__(
        self,
        tf_api: str,
        source_folders: Sequence[str],
        mounts: Sequence[Mount],
        secrets: Sequence[str],
        heartbeat: str,
    ) -> None:
        self.tf_api = tf_api
        self.source_folders = tuple(source_folders)
        self.mounts = tuple(mounts)
        self.secrets = tuple(secrets)
        self.heartbeat = heartbeat

    def plain(self) -> tuple[Any, ...]:
        """Return the settings as builtin values, which any process can unpickle."""
        mounts = [(mount.prefix, mount.protocol, mount.options) for mount in self.mounts]
        return self.tf_api, self.source_folders, mounts, self.secrets, self.heartbeat

    @classmethod
    def from_plain(cls, values: tuple[Any, ...]) -> Settings:
        """Return the settings that `plain` gave."""
        tf_api, source_folders, mounts, secrets, heartbeat = values
        return cls(tf_api, source_folders, [Mount(*mount) for mount in mounts], secrets, heartbeat)

    def beat(self) -> None:
        """Note that the job moved."""
        try:
            with open(self.heartbeat, "ab"):
                os.utime(self.heartbeat)
        except OSError as error:
            # What moved has succeeded: that the record's disk is full must not make it fail.
            print(f"pai: the heartbeat cannot be written: {error}", file=sys.stderr)


class AfterImport:
    """A finder that runs an action on a module right after the module's own code has run.

    It asks the other finders for the module, so that it is found as it would be without us, and
    leaves the module's loader as it was.
    """

    def __init__(self, actions: Mapping[str, Action]) -> None:
        self._actions = actions

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that an action waits for, None for any other."""
        action = self._actions.get(name)
        if action is None:
            return None
        spec = self._find(name, path, target)
        if spec is not None and spec.loader is not None:
            _run_after(spec.loader, action)
        return spec

    def _find(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


def _run_after(loader: object, action: Action) -> None:
    """Make `loader` run `action` after it has executed a module, once."""
    execute = loader.exec_module  # type: ignore[attr-defined]

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # type: ignore[attr-defined]
        execute(module)
        try:
            action(module)
        except PaiError as error:
            raise NotPreparedError(error.message, error.hint) from error

    loader.exec_module = exec_module  # type: ignore[attr-defined]


def install(settings: Settings) -> None:
    """Prepare this process for the script's imports, as `settings` say.

    A job with local folders alone, whose script uses TensorFlow 2's names, needs nothing.
    """
    for value in settings.secrets:
        remember(value)
    on_tensorflow: list[Action] = []
    if settings.tf_api == "v1":
        from pai_runner.script import tf1

        on_tensorflow.append(tf1.install(settings.source_folders))
    if settings.mounts:
        from pai_runner.storage.mounts import serve_mounts

        serve_mounts(settings.mounts)
        on_tensorflow.append(lambda _: _register_file_systems(settings))
    actions: dict[str, Action] = {}
    if on_tensorflow:
        actions["tensorflow"] = lambda module: [action(module) for action in on_tensorflow]
        actions["multiprocessing.spawn"] = lambda module: _inherit(module, settings)
    if any(mount.protocol == "oss" for mount in settings.mounts):
        actions["fsspec"] = lambda module: _mount_oss(module, settings)
    if actions:
        _after_import(actions)


def _after_import(actions: Mapping[str, Action]) -> None:
    for name, action in actions.items():
        if name in sys.modules:
            action(sys.modules[name])
    sys.meta_path.insert(0, AfterImport(actions))


def _register_file_systems(settings: Settings) -> None:
    from pai_runner.script.failure import report_loss
    from pai_runner.script.filesystem import register

    def lose(what: str) -> None:
        report_loss(what, os.path.dirname(settings.heartbeat))

    register(settings.mounts, on_change=settings.beat, on_loss=lose)


def _mount_oss(fsspec: ModuleType, settings: Settings) -> None:
    from pai_runner.script.mounted import serve

    serve(fsspec, settings.mounts)


def _inherit(spawn: ModuleType, settings: Settings) -> None:
    from pai_runner.script.children import inherit

    inherit(spawn, settings)
