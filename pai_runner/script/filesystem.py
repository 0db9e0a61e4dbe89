"""TensorFlow's own file layer on fsspec: `s3://` paths in all of TensorFlow.

`register` gives TensorFlow one file system per protocol of the job's mounts. They behave as
TensorFlow's local file system does, as far as an object store can:

- Written files are staged on the local disk (TMPDIR) and uploaded whole when they are closed; a
  name that TensorFlow renames (`….tempstate7`, `….tmp<32 hex>`, a checkpoint's parts) is uploaded
  at the rename, so a checkpoint is one request for each file of it. A write that fails is never
  uploaded. Appending fetches the file first.
- What this process has written and not uploaded yet is there for this process: it can be
  listed, flushed bytes can be read. Directories that it made exist for it, even when empty;
  nothing is uploaded for them.
- A file that is synced while it is written (event files) is uploaded at most every
  PAI_EVENT_UPLOAD_SECONDS (default 30), and when it is closed.
- At a normal end of the process what is still open is uploaded, as a local disk would have it.
  A killed process leaves its files `pai-<process>-…` in TMPDIR.
- A forked child makes its own connections. It sees what was uploaded, and the parent's open
  writers stay the parent's.

It differs where an object store cannot sensibly follow, or only at the price of requests at
every write: writing into a directory that was never made works, as does `mkdir` below one; that
a name or a part of it is already a file or a directory is noticed on writing only if this
process made it; copying or renaming a directory is no atomic step; an open reader keeps the
size that the file had when it was opened. `//`, `.` and `..` in a path are resolved, so keys
that hold them cannot be reached. A whole bucket is never moved or deleted.

What the options of a mount are used for: all paths below its prefix; then, other paths of the
same bucket. Other buckets of its protocol are reached with the protocol's plain settings, which
for s3 are AWS's own (environment, profile).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from pai_runner.errors import SetupError
from pai_runner.script.layer import FileLayer
from pai_runner.script.plugin import Library, Plugin
from pai_runner.script.stores import Stores
from pai_runner.secret import redact
from pai_runner.storage.exits import prepare_for_exit
from pai_runner.storage.mounts import Mount

__all__ = ["Mount", "compiled_part", "drain", "register"]

_LIBRARY = Path(__file__).with_name("_filesystem.so")
_UPLOAD_SECONDS = "PAI_EVENT_UPLOAD_SECONDS"
_DEFAULT_UPLOAD_SECONDS = 30.0

# What TensorFlow takes as a protocol (FileSystem::ParseURI).
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9.]*")

# How long the end of the process waits for calls under way on TensorFlow's threads, before and
# after it cancels them. A thread that is in Python when Python goes would never come back, and
# TensorFlow would wait for it for ever.
_CLOSE_SECONDS = 5.0
_CANCEL_SECONDS = 30.0


def _nothing(*_: object) -> None:
    """The default of `on_change` and `on_loss`."""


def register(
    mounts: Iterable[Mount],
    on_change: Callable[[], None] = _nothing,
    on_loss: Callable[[str], None] = _nothing,
) -> None:
    """Register file systems with TensorFlow for the protocols of `mounts`.

    `on_change` is called after each upload, on any thread. `on_loss` is called with a text that
    names the files when the process ends and something could not be uploaded; the process then
    ends with code 1. Called again, it adds mounts; the first callbacks stay. Raises SetupError
    when the compiled part is missing, TensorFlow cannot take a protocol, or
    PAI_EVENT_UPLOAD_SECONDS is no number.
    """
    global _bridge
    mounts = list(mounts)
    if mounts and _bridge is None:
        _bridge = _Bridge(on_change, on_loss)
    if _bridge is not None:
        _bridge.add(mounts)


def drain() -> None:
    """Upload all that is written so far, open files included.

    Raises SetupError naming each file that could not be uploaded.
    """
    failures = _bridge.drain() if _bridge is not None else []
    if failures:
        raise SetupError("\n".join(failures), "check the bucket and run the script again")


class _Bridge:
    """The file systems that this process has given to TensorFlow."""

    def __init__(self, on_change: Callable[[], None], on_loss: Callable[[str], None]) -> None:
        self._library = Library(compiled_part())
        self._on_loss = on_loss
        self._stores = Stores()
        self._layer = FileLayer(self._stores, on_change, _upload_seconds())
        self._plugin = Plugin(self._library, self._layer, _set_status_address())
        self._protocols: set[str] = set()
        os.register_at_fork(after_in_child=self._after_fork)
        # Exit handlers run last in, first out, and the first finalizer of a process brings one
        # for all. Those of s3fs close its connections: ours must come before.
        weakref.finalize(self, _nothing).atexit = False
        atexit.register(self._close)

    def add(self, mounts: list[Mount]) -> None:
        for mount in mounts:
            self._stores.add(mount)
        protocols = {mount.protocol for mount in mounts} - self._protocols
        self._register({name for name in protocols if not _is_served(name, mounts)})

    def drain(self) -> list[str]:
        """Return one line for each file that could not be uploaded."""
        self._library.flush_writers()
        return self._layer.writers.drain()

    def _register(self, protocols: set[str]) -> None:
        import tensorflow.compat.v2 as tf

        if not protocols:
            return
        self._library.prepare(self._plugin.calls, sorted(protocols))
        tf.experimental.register_filesystem_plugin(self._library.path)
        self._protocols |= protocols

    def _close(self) -> None:
        """Leave the buckets as a local disk would be left, and let no later call in."""
        prepare_for_exit()
        if self._layer.writers.are_open:
            _finish_writers()
        failures = self.drain()
        if not self._library.close(_CLOSE_SECONDS):
            self._stores.close()
            self._library.close(_CANCEL_SECONDS)
        failures += self.drain()
        self._layer.writers.give_up()
        if failures:
            self._end_with_loss("\n".join(f"pai: {line}" for line in failures))

    def _end_with_loss(self, text: str) -> NoReturn:
        """End the process with 1: an exit handler has no other way, and 0 would be a lie."""
        print(text, file=sys.stderr)
        self._on_loss(text)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _after_fork(self) -> None:
        self._layer.after_fork()
        self._plugin.after_fork()


# TensorFlow's registry belongs to the process and takes nothing back.
_bridge: _Bridge | None = None


def _finish_writers() -> None:
    """Have TensorFlow's writers give what they hold in memory.

    TensorFlow's own destructors do it, when Python is too far gone for an upload.
    """
    import tensorflow.compat.v2 as tf

    for found in gc.get_objects():
        kind = type(found)
        try:
            if issubclass(kind, tf.summary.SummaryWriter) and tf.executing_eagerly():
                found.flush()
            elif issubclass(kind, tf.io.TFRecordWriter):
                found.close()
        except Exception as error:
            print(f"pai: a {kind.__name__} is not whole: {redact(str(error))}", file=sys.stderr)


def compiled_part() -> str:
    """Return the path of the library that TensorFlow loads. Raises SetupError if it is missing."""
    if not _LIBRARY.exists():
        raise SetupError(
            f"the compiled part that connects TensorFlow to buckets is missing: {_LIBRARY.name}",
            "install gcc, then run `pip install --force-reinstall --no-deps` on this package",
        )
    return str(_LIBRARY)


def _upload_seconds() -> float:
    text = os.environ.get(_UPLOAD_SECONDS, "")
    try:
        return float(text) if text else _DEFAULT_UPLOAD_SECONDS
    except ValueError:
        raise SetupError(
            f"{_UPLOAD_SECONDS}={text} is not a number", "give seconds, for example 30"
        ) from None


def _set_status_address() -> int:
    import tensorflow.compat.v2 as tf

    framework = next(Path(tf.sysconfig.get_lib()).glob("libtensorflow_framework.*"), None)
    if framework is None:
        raise SetupError(
            f"libtensorflow_framework is missing in {tf.sysconfig.get_lib()}",
            "install TensorFlow 2.15 or newer from its wheel",
        )
    function: Any = ctypes.CDLL(str(framework)).TF_SetStatus
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def _is_served(protocol: str, mounts: list[Mount]) -> bool:
    """Tell whether TensorFlow itself serves a protocol. Raises SetupError."""
    import tensorflow.compat.v2 as tf

    if not _PROTOCOL.fullmatch(protocol):
        raise SetupError(
            f"TensorFlow cannot use {protocol}:// paths",
            "its protocols have letters and digits only; use another name of the same store",
        )
    if protocol not in tf.io.gfile.get_registered_schemes():
        return False
    options = {name for mount in mounts if mount.protocol == protocol for name in mount.options}
    if options:
        names = ", ".join(sorted(options))
        raise SetupError(
            f"TensorFlow serves {protocol}:// itself, without the options {names}",
            "leave the options out, and set them as TensorFlow documents it",
        )
    return True
