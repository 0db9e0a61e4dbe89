"""`PaiOperator`: PAI commands as tasks of Airflow, 2.11 or 3.

    from pai_runner.airflow import PaiOperator

    PaiOperator(task_id="train", command="train.pai", pai="/opt/tensorflow/bin/pai")

`pai` runs as a process of its own. So Airflow's environment needs this package, but not what the
package depends on: TensorFlow may be in the environment that `pai=` names.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import selectors
import shlex
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from subprocess import PIPE, Popen, TimeoutExpired
from typing import IO, Any
from zoneinfo import ZoneInfo

from pai_runner.entry import pai_command
from pai_runner.errors import ExitCode
from pai_runner.secret import redact, remember

try:
    from airflow.sdk import BaseOperator
except ImportError:  # Airflow 2
    from airflow.models.baseoperator import BaseOperator
try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 2, and the first ones of 3
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

__all__ = ["PaiOperator", "scheduled_time", "words"]

# How long `pai` itself may take to end, beyond what it gives the script.
_LAST_WORDS_SECONDS = 10.0
# How often a process that says nothing is looked at.
_TURN_SECONDS = 1.0
# What is read or written at once. A longer line is logged in parts: a script may never end one.
_PIECE = 65536
_RECORD = 4 * 1024 * 1024  # Up to this length a line is whole that may be the record.


class PaiOperator(BaseOperator):
    """Runs PAI commands with `pai`, for the date of the DAG run.

    The commands' `${bdp.system.cyctime}` is the end of the run's data interval, or what
    `scheduled_time` says where it has none, in `timezone`; bizdate is the day before.

    :param command: the PAI statements, or a template file's name, which ends with `.pai`
        (templated). `pai` reads them from its standard input: its arguments show no secrets.
    :param assignments: values for the `${name}` of the commands, as `--param` takes them, such as
        `$[yyyymmdd-1]` (templated). They are arguments: no place for secrets.
    :param pai: the program, for example `/opt/tensorflow/bin/pai`, or its words as a list. By
        default `pai_runner` runs under Airflow's own interpreter.
    :param name: what the run is called in `pai`'s records (templated); by default
        `<dag_id>.<task_id>`. The instances of a mapped task have their index added.
    :param timezone: a zone's IANA name, for example `Asia/Shanghai`; by default the DAG's.
    :param once_per: `cyctime` or `bizdate`: a run of this name that has succeeded for that date
        is not run again, not even when the task is cleared, unless `options` has `--force`. None
        runs it at every start.
    :param options: more words for `pai`, for example `["--timeout", "6h"]` (templated).
    :param env: variables to add to the worker's environment for `pai` (templated).
    :param cwd: the folder that relative paths start from (templated); by default the worker's.
    :param grace: seconds that a script may take to save and end when the task is killed.
    :param skip_busy: whether the task is skipped when another run locks `pai` out (exit code 75).
        Otherwise it fails, and so does a later try: it may have met the first.
    :param fatal_exit_codes: exit codes after which Airflow does not try again. By default a
        command that is wrong (2) and a job that could not be set up (125).

    The output is logged as it comes. The task returns the record that `pai --json` prints last, as
    a dict. Raises AirflowException when `pai` fails, AirflowFailException where it is no
    use to try again, AirflowSkipException where it was locked out.
    """

    template_fields: Sequence[str] = ("command", "assignments", "name", "options", "env", "cwd")
    template_ext: Sequence[str] = (".pai",)
    template_fields_renderers: Mapping[str, str] = {"assignments": "json", "env": "json"}

    _process: _Process | None = None
    _killed = False

    # Templated values are kept as they are given: they may be what another task will return.
    def __init__(
        self,
        *,
        command: str,
        assignments: Mapping[str, object] | None = None,
        pai: str | Sequence[str] | None = None,
        name: str | None = None,
        timezone: str | None = None,
        once_per: str | None = "cyctime",
        options: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        grace: float = 60.0,
        skip_busy: bool = True,
        fatal_exit_codes: Collection[int] = (ExitCode.USAGE, ExitCode.SETUP),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.assignments = assignments
        self.pai = pai
        self.name = name
        self.timezone = timezone
        self.once_per = once_per
        self.options = options
        self.env = env
        self.cwd = cwd
        self.grace = grace
        self.skip_busy = skip_busy
        self.fatal_exit_codes = fatal_exit_codes

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run the commands; return the record of the run."""
        zone = self._zone()
        pai = self.pai or pai_command()
        argv = words(
            pai=[pai] if isinstance(pai, str) else pai,
            cyctime=datetime.fromtimestamp(int(scheduled_time(context).timestamp()), zone),
            timezone=zone.key,
            name=self._run_name(context),
            once_per=self.once_per,
            grace=self.grace,
            assignments=self.assignments or {},
            options=self.options or (),
        )
        for word in self.options or ():
            if "://" in word:  # a webhook: who knows its URL can post to it
                remember(word.partition("=")[2] if word.startswith("--") else word)
        self.log.info("Starting: %s", redact(shlex.join(argv)))
        output = _Output(partial(self.log.info, "%s"))
        code = self._run(argv, output)
        record = output.record()
        if code != 0:
            reason = (record or {}).get("message") or output.last_line
            is_first_try = getattr(context.get("ti"), "try_number", 1) <= 1
            raise self._failure(code, reason, is_first_try)
        if record is None:
            self.log.warning("`pai` has printed no record: is it older than this operator?")
        return record

    def on_kill(self) -> None:
        """Ask `pai` to end: it passes that on to the script, which may save first.

        This may be called by a signal's handler while `execute` waits, so it waits for nothing.
        `execute` goes on to log until `pai` has ended, and kills it after the grace.
        """
        self._killed = True
        if self._process is not None:
            self._process.terminate()

    def _run(self, argv: list[str], output: _Output) -> int:
        self._killed = False
        process = self._process = self._start(argv, output)
        try:
            # The kill may have come while the process was started.
            if self._killed:
                process.terminate()
            return process.wait()
        except BaseException:
            # Airflow's signal handlers raise in here: the task was killed, or is out of time.
            self.on_kill()
            process.wait()
            raise
        finally:
            process.close()
            self._process = None

    def _start(self, argv: list[str], output: _Output) -> _Process:
        try:
            # In a session of its own, what is sent to the task's group does not end it at once.
            process = Popen(
                argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env={**os.environ, **(self.env or {})},
                cwd=self.cwd,
                start_new_session=True,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise AirflowFailException(
                f"cannot start {argv[0]}: {error}; `pai` names the program, `cwd` its folder"
            ) from error
        return _Process(process, self.command.encode(), output, self.grace)

    def _run_name(self, context: Mapping[str, Any]) -> str:
        name = self.name or f"{self.dag_id}.{self.task_id}"
        index = getattr(context.get("ti"), "map_index", -1)
        return name if index < 0 else f"{name}.{index}"

    def _zone(self) -> ZoneInfo:
        name = self.timezone or (str(self.dag.timezone) if self.has_dag() else "UTC")
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise AirflowFailException(
                f"`{name}` is not a time zone; give `timezone` an IANA name such as Asia/Shanghai"
            ) from error

    def _failure(self, code: int, reason: str, is_first_try: bool) -> Exception:
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        asked = ", as it was told to" if self._killed else ""
        kind = AirflowException
        # What a later try meets may be its own first, which outlived its worker.
        if code == ExitCode.BUSY and self.skip_busy and is_first_try:
            kind = AirflowSkipException
        elif code in self.fatal_exit_codes:
            kind = AirflowFailException
        error: Exception = kind(f"pai ended with {how}{asked}" + (f": {reason}" if reason else ""))
        return error


def scheduled_time(context: Mapping[str, Any]) -> datetime:
    """Return the instant that a DAG run is for.

    That is the end of its data interval, which is when a scheduler such as DataWorks' would have
    it run. A run without one (in Airflow 3 those started by hand or by an asset) has its logical
    date, or the time that it was to run after. Outside a run it is now.
    """
    run_after = getattr(context.get("dag_run"), "run_after", None)
    known = context.get("data_interval_end") or context.get("logical_date") or run_after
    return known or datetime.now(timezone.utc)


def words(
    *,
    pai: Sequence[str],
    cyctime: datetime,
    timezone: str,
    name: str,
    once_per: str | None,
    grace: float,
    assignments: Mapping[str, object],
    options: Sequence[str],
) -> list[str]:
    """Return the words that start `pai`, which reads the commands from its standard input."""
    return [
        *pai,
        *("-f", "-"),
        *("--cyctime", cyctime.isoformat()),
        *("--timezone", timezone),
        *("--name", name),
        *(("--once-per", once_per) if once_per is not None else ()),
        *("--grace", f"{grace}s"),
        "--json",
        *(word for key, value in assignments.items() for word in ("--param", f"{key}={value}")),
        *options,
    ]


class _Process:
    """A `pai` that is running: it is fed its input, and its output is read while it comes.

    One thread does both, so that whatever fills up, nothing waits for the other side for ever.
    """

    def __init__(self, process: Popen[bytes], text: bytes, output: _Output, grace: float) -> None:
        stdin, stdout, stderr = filter(None, (process.stdin, process.stdout, process.stderr))
        self._process = process
        self._streams = (stdin, stdout, stderr)
        self._text = memoryview(text)
        self._patience = grace + _LAST_WORDS_SECONDS
        self._deadline = math.inf
        self._open_outputs = 2
        self._selector = selectors.DefaultSelector()
        os.set_blocking(stdin.fileno(), False)
        self._selector.register(stdin, selectors.EVENT_WRITE, self._write)
        for stream, hear in ((stdout, output.out), (stderr, output.err)):
            reader = partial(self._read, lines=_Lines(), hear=hear)
            self._selector.register(stream, selectors.EVENT_READ, reader)

    def wait(self) -> int:
        """Pass its output on until it has ended; return its exit code, -N for a signal.

        May be called again when an exception of a signal's handler has come out of it.
        """
        while self._open_outputs and not self._overdue():
            ready = self._selector.select(_TURN_SECONDS)
            for key, _ in ready:
                key.data(key.fileobj)
            if not ready and self._process.poll() is not None:
                break  # It has ended, and left its pipes to others.
        while True:
            try:
                return self._process.wait(_TURN_SECONDS)
            except TimeoutExpired:
                self._overdue()

    def terminate(self) -> None:
        """Ask it to end, once: a second signal would cut the script's grace short."""
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._patience
            self._process.terminate()

    def close(self) -> None:
        """Let go of it; what has not ended by now is killed."""
        self._kill()
        self._selector.close()
        for stream in self._streams:
            stream.close()
        self._process.wait()

    def _write(self, stream: IO[bytes]) -> None:
        try:
            self._text = self._text[os.write(stream.fileno(), self._text[:_PIECE]) :]
        except BrokenPipeError:
            # It has ended, or wants no more; its exit code says why.
            self._text = self._text[:0]
        if not self._text:
            self._selector.unregister(stream)
            stream.close()

    def _read(self, stream: IO[bytes], lines: _Lines, hear: Callable[[str], None]) -> None:
        data = os.read(stream.fileno(), _PIECE)
        for line in lines.take(data):
            hear(line)
        if not data:
            self._selector.unregister(stream)
            self._open_outputs -= 1

    def _overdue(self) -> bool:
        """Tell whether it has been asked to end too long ago, and kill it then."""
        if time.monotonic() < self._deadline:
            return False
        self._kill()
        return True

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)


class _Lines:
    """Makes lines of bytes as they come. A carriage return ends a line, too: progress bars."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""

    def take(self, data: bytes) -> list[str]:
        """Return the lines that `data` ends, without empty ones; no data ends the last."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, not data)).split("\n")
        if not data or len(self._rest) > (_RECORD if self._rest.startswith("{") else _PIECE):
            lines.append(self._rest)
            self._rest = ""
        return [line for line in lines if line]


class _Output:
    """Logs what `pai` prints, and keeps what is to be remembered of it.

    `last_line` is the last line of standard error that is not indented: what `pai` itself says
    last without its hint, or the end of a traceback.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._held = ""
        self.last_line = ""

    def out(self, line: str) -> None:
        # The record is the last line. What looks like it waits until it is known not to be.
        self._release()
        if line.startswith("{"):
            self._held = line
        else:
            self._say(line)

    def err(self, line: str) -> None:
        self._say(line)
        if not line[0].isspace():
            self.last_line = line

    def record(self) -> dict[str, Any] | None:
        """Return the record, which is not logged; None where the last line is none."""
        try:
            found = json.loads(self._held)
        except ValueError:
            found = None
        if isinstance(found, dict) and {"id", "state", "exit_code"} <= found.keys():
            self._held = ""
            return found
        self._release()
        return None

    def _release(self) -> None:
        if self._held:
            self._say(self._held)
            self._held = ""
