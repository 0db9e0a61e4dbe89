"""Processes that are waited for, and that get the signals which end this one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

from pai_runner.errors import SetupError

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Foreground:
    """While entered, SIGTERM, SIGINT and SIGHUP go to the process that `run` has started.

    That process has a session of its own: what a terminal sends to all comes to it once, from
    here. A signal that is ignored stays ignored. `signal` is the first that came.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Foreground:
        for number in _PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(
        self,
        command: Sequence[str],
        folder: str,
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> int:
        """Run a process to its end, and return its exit code, 128+N where signal N ended it.

        It inherits `descriptors`. Where a signal came before, nothing is started. Raises
        SetupError when it cannot be started.
        """
        if self.signal is not None:
            return 128 + self.signal
        try:
            self._child = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=descriptors,
            )
        except OSError as error:
            raise SetupError(f"cannot start {error.filename}: {error.strerror}") from error
        try:
            for number in self._waiting:
                self._child.send_signal(number)
            code = self._child.wait()
        finally:
            self._child = None
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self._child is None:
            # It may be starting just now.
            self._waiting.append(number)
        else:
            self._child.send_signal(number)


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `changes`. HOME is set: cron's may lack it."""
    return {"HOME": os.path.expanduser("~"), **os.environ, **changes}
