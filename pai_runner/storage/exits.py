"""Filesystems at the end of a process, when Python starts no more threads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def prepare_for_exit() -> None:
    """Let filesystems work on while the process ends.

    Python stops its thread pools before the exit handlers run, and asyncio resolves host names
    in one. From here on they are resolved in the loop's own thread.
    """
    loop = _loop()
    if loop is not None:
        loop.call_soon_threadsafe(loop.set_default_executor, InPlace())


def cancel_requests() -> None:
    """Cancel what asynchronous filesystems are doing; those who wait for it go on at once.

    They cannot tell it from success: fsspec's `sync` then returns None.
    """
    loop = _loop()
    if loop is not None:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


def _loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop in which fsspec's asynchronous filesystems live, if there is one."""
    asyn = sys.modules.get("fsspec.asyn")
    return asyn.loop[0] if asyn is not None else None


class InPlace(ThreadPoolExecutor):
    """A pool without threads: it does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
