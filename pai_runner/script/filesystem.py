"""TensorFlow's own file layer on fsspec: `s3://` paths in all of TensorFlow.

`register` gives TensorFlow one file system per protocol of the job's mounts. They behave as
TensorFlow's local file system does, as far as an object store can:

- Written files are staged on the local disk (TMPDIR) and appear whole when they are closed; a name
  that TensorFlow renames (`….tempstate7`, `….tmp<32 hex>`, a checkpoint's parts) appears at the
  rename, so a small checkpoint is one request for each file of it. From 16 MiB on parts are sent
  while the file is written. The data of a checkpoint is staged in memory, where it can be read, or
  renamed otherwise than TensorFlow does, only until its first part is sent. A write that fails is
  never uploaded. Appending fetches the file first.
- What this process has written and not uploaded yet is there for this process: it can be
  listed, flushed bytes can be read. Directories that it made exist for it, even when empty;
  nothing is uploaded for them.
- A file that is synced while it is written (event files) is uploaded every
  PAI_EVENT_UPLOAD_SECONDS (default 30) or 16 MiB, and when it is closed.
- Of several processes that save one checkpoint (TF_CONFIG, PAI_TASKS) each uploads its parts under
  their temporary names, where the one that merges them finds them.
- At a normal end of the process what is still open is uploaded, as a local disk would have it.
  A killed process leaves its files `pai-<process>-…` in TMPDIR. Threads that still run TensorFlow
  are kept in it until the process has ended: Python before 3.14 would end them, and all with them.
- With PAI_ASYNC_CHECKPOINT=1 checkpoints are uploaded in the background, in their order: `save`
  returns when they are on the local disk, in PAI_PENDING_DIR (default TMPDIR). The next save waits
  until they are in the bucket, and fails if they could not be uploaded; so does the end of the
  process, also the one by SIGTERM. A killed process leaves them, and a journal of them, to
  `pai jobs resume-upload`.
- A forked child makes its own connections. It sees what was uploaded, and the parent's open
  writers stay the parent's.

It differs where an object store cannot sensibly follow, or only at the price of requests at
every write: writing into a directory that was never made works, as does `mkdir` below one; that
a name or a part of it is already a file or a directory is noticed on writing only if this
process made it; copying or renaming a directory is no atomic step; a file that is replaced under a
reader is an error for it; what is below a file is not found; a directory cannot be opened, and to
copy one is a failed precondition; what a request has said of a file is believed for two seconds.
`//`, `.` and `..` in a path are resolved, so keys that hold them cannot be reached. A whole bucket
is never moved or deleted.

What the options of a mount are used for: all paths below its prefix; then, other paths of the
same bucket. Other buckets of its protocol are reached with the protocol's plain settings, which
for s3 are AWS's own (environment, profile).
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import gc
import multiprocessing.process
import multiprocessing.util
import os
import re
import signal
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pai_runner.errors import SetupError
from pai_runner.script.layer import FileLayer
from pai_runner.script.plugin import Library, Plugin
from pai_runner.script.stores import Stores
from pai_runner.secret import redact
from pai_runner.storage.exits import prepare_for_exit
from pai_runner.storage.failures import describe_error
from pai_runner.storage.mounts import Mount, clean
from pai_runner.storage.settings import number_set

__all__ = ["Mount", "compiled_part", "drain", "register"]

_LIBRARY = Path(__file__).with_name("_filesystem.so")
_UPLOAD_SECONDS = "PAI_EVENT_UPLOAD_SECONDS"
_DEFAULT_UPLOAD_SECONDS = 30.0
_BEHIND = "PAI_ASYNC_CHECKPOINT"
_WORDS = {"": False, "0": False, "false": False, "1": True, "true": True}

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
    when the compiled part is missing, TensorFlow cannot take a protocol, or a variable of the
    environment has a value that it cannot have.
    """
    global _bridge
    mounts = list(mounts)
    if mounts and _bridge is None:
        _bridge = _Bridge(on_change, on_loss)
    if _bridge is not None:
        _bridge.add(mounts)


def drain() -> None:
    """Upload all that is written so far, open files and what is uploaded behind included.

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
        saves_behind = _saves_behind()
        self._layer = FileLayer(self._stores, on_change, _upload_seconds(), saves_behind)
        self._plugin = Plugin(self._library, self._layer, _set_status_address())
        self._protocols: set[str] = set()
        os.register_at_fork(after_in_child=self._after_fork)
        # Exit handlers run last in, first out, and the first finalizer of a process brings one
        # for all. Those of s3fs close its connections: ours must come before.
        weakref.finalize(self, _nothing).atexit = False
        atexit.register(self._close)
        if multiprocessing.process.parent_process() is not None:
            # One that was forked, as this may be, ends without Python's exit handlers.
            multiprocessing.util.Finalize(None, self._close, exitpriority=0)
        self._process = os.getpid()
        self._is_closing = False
        if saves_behind:
            self._take_sigterm()

    def add(self, mounts: list[Mount]) -> None:
        for mount in mounts:
            self._stores.add(mount)
            self._stores.of(clean(mount.prefix)).prepare(clean(mount.prefix))
        protocols = {mount.protocol for mount in mounts} - self._protocols
        self._register({name for name in protocols if not _is_served(name, mounts)})

    def drain(self) -> list[str]:
        """Return one line for each file that could not be uploaded."""
        self._library.flush_writers()
        failures = self._layer.writers.drain()
        try:
            self._layer.background.settle()
        except OSError as error:
            failures.append(describe_error(error))
        return failures

    def _register(self, protocols: set[str]) -> None:
        import tensorflow.compat.v2 as tf

        if not protocols:
            return
        self._library.prepare(self._plugin.calls, sorted(protocols))
        tf.experimental.register_filesystem_plugin(self._library.path)
        self._protocols |= protocols

    def _close(self) -> None:
        """Leave the buckets as a local disk would be left, and let no later call in."""
        if self._is_closing:
            return
        self._is_closing = True
        prepare_for_exit()
        if self._layer.writers.are_open:
            _finish_writers()
        failures = self._finish()
        if not self._library.close(_CLOSE_SECONDS):
            self._stores.close()
            self._library.close(_CANCEL_SECONDS)
        failures += self._finish()
        self._layer.background.close()
        self._layer.writers.give_up()
        if failures:
            self._end_with_loss("\n".join(f"pai: {line}" for line in failures))
        # The time for which other threads are kept away begins anew: others' exit handlers follow.
        self._library.close(0)

    def _finish(self) -> list[str]:
        """Do what `drain` does, for the last time."""
        background = self._layer.background
        self._library.flush_writers()
        # Before all others: what is open may come after it.
        failures = background.finish()
        return [*failures, *self._layer.writers.drain(), *background.finish()]

    def _take_sigterm(self) -> None:
        """Have SIGTERM end the process only when what waits is uploaded.

        Whoever sends it gives a grace, in which a script of its own mind saves once more.
        """
        try:
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._on_sigterm)
        except ValueError:
            return  # TensorFlow is not imported by the main thread, which alone may do this

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """End as without a handler or, unless a file system is at work, with all exit handlers.

        No exception is raised: C code that asks Python a question may lose it.
        """
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        if os.getpid() == self._process:
            if self._is_closing:
                return  # the process ends by itself when all is uploaded
            if _is_at_work(frame):
                # What was interrupted goes on meanwhile: the upload may need a lock that it holds.
                _thread.start_new_thread(self._finish_and_end, (number,))
                return
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os.kill(os.getpid(), number)

    def _finish_and_end(self, number: int) -> None:
        background = self._layer.background
        with background.held():
            for line in background.finish():
                print(f"pai: {line}", file=sys.stderr, flush=True)
            background.close()
            os.kill(os.getpid(), number)

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


def _is_at_work(frame: FrameType | None) -> bool:
    """Tell whether what was interrupted may hold a lock of the file layer."""
    while frame is not None:
        if frame.f_globals.get("__name__") in (Plugin.__module__, __name__):
            return True
        frame = frame.f_back
    return False


def _saves_behind() -> bool:
    text = os.environ.get(_BEHIND, "").strip().lower()
    if text not in _WORDS:
        raise SetupError(f"{_BEHIND}={text} is neither true nor false", "give 1 or 0")
    return _WORDS[text]


def _upload_seconds() -> float:
    return number_set(_UPLOAD_SECONDS, _DEFAULT_UPLOAD_SECONDS, "seconds, for example 30")


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
