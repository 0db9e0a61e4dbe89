"""The local engine: runs a plan on this machine.

`submit` starts the job's supervisor; `Handle.wait` shows what the script prints, forwards
signals and returns the outcome. While it waits this process is a subreaper, so that it can end
what a killed supervisor leaves behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping

from pai_runner.engines.signals import SignalPipe
from pai_runner.engines.sweep import Sweep, describe_death
from pai_runner.errors import ExitCode, SetupError
from pai_runner.jobs.cancel import MARKER
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.files import now_text, write_all, write_atomic
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, append_event, load, write
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes, waiting
from pai_runner.run.environment import FOR_THE_SCRIPT
from pai_runner.run.logs import Follower
from pai_runner.run.outcome import Outcome
from pai_runner.run.plan import Plan
from pai_runner.run.watch import tail_lines

_SUPERVISOR = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "run", "supervise.py"
)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FORWARDED = (
    *_STOP_SIGNALS,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
# How long a supervisor that was told to kill may take, before it is killed itself.
_FORCE_SECONDS = 20.0


def submit(
    plan: Plan,
    directory: JobDirectory,
    secrets: Mapping[str, str],
    detach: bool = False,
    *,
    bootstrap: str | None = None,
) -> Handle:
    """Start the job and return a handle to it.

    Writes spec.json and the first record into `directory`, which exists. `secrets` are the
    values of the plan's references; they travel through a pipe. With `detach` the job does not
    depend on this process, and the call returns when its supervisor is up. `bootstrap` is the
    program of the roles, by default the project's own. Raises SetupError when nothing could be
    started.
    """
    _write_first_files(plan, directory)
    was_subreaper = processes.set_subreaper() if not detach else False
    try:
        handle = _spawn(plan, directory, bootstrap, was_subreaper)
        handle.give_orders(
            {"secrets": dict(secrets), "detach": detach, "progress": _progress(detach)}
        )
        if detach:
            handle.let_go()
    except BaseException:
        if not detach:
            processes.set_subreaper(was_subreaper)
        raise
    return handle


class Handle:
    """A job that was submitted by this process.

    `stopped_by` is the first signal to this process that asked to end; 0 where none has come.
    """

    def __init__(
        self,
        plan: Plan,
        directory: JobDirectory,
        supervisor: Identity,
        pipes: tuple[int, int],
        was_subreaper: bool,
    ) -> None:
        self.directory = directory
        self._plan = plan
        self._supervisor = supervisor
        self._control, self._report = pipes
        self._was_subreaper = was_subreaper
        self._buffer = b""
        self._ready = False
        self._final: Record | None = None
        self._unsaved = False
        self._over = False
        self._held_signals: list[int] = []
        self.stopped_by = 0
        self._first_stop = 0.0
        self._kill_supervisor_at = float("inf")
        self._sweep: Sweep | None = None

    @property
    def job_id(self) -> str:
        return self.directory.id

    def wait(self, stdout: int = 1, stderr: int = 2) -> Outcome:
        """Show the script's output until the job has ended; return what came of it.

        INT, TERM and HUP ask the job to end, a second INT or TERM ends it at once; QUIT, USR1,
        USR2 and WINCH go to the script. `stdout` and `stderr` are descriptors; that nobody
        reads them does not end the job.
        """
        if self._control < 0:
            raise ValueError(f"job {self.job_id} is detached, or has been waited for")
        roles = [self.directory.role(role.label) for role in self._plan.roles]
        logs = [(role.stdout, stdout) for role in roles] + [(role.stderr, stderr) for role in roles]
        if any(mount.mode == "stage" for mount in self._plan.mounts):
            logs.append((self.directory.mover.stderr, stderr))
        if self._plan.publish is not None:
            # What it says is ours, as is the mover's. Its stderr is TensorFlow's, for the record.
            logs.append((self.directory.publisher.stdout, stderr))
        follower = Follower(logs)
        try:
            with SignalPipe(_FORWARDED) as signals:
                while not self._over:
                    self._turn(follower, signals)
                status = self._reap()
                record = self._final or self._record_death(status, follower, signals)
                self._drain(follower, signals)
                self._note_stops(signals.take())
        finally:
            follower.close()
            self._close()
            processes.set_subreaper(self._was_subreaper)
        return Outcome.of(record)

    # ====== For submit ======

    def give_orders(self, orders: Mapping[str, object]) -> None:
        """Send the supervisor its first line."""
        try:
            write_all(self._control, json.dumps(orders).encode() + b"\n")
        except BrokenPipeError:
            # It is dead already; the end of its report says so, too.
            return

    def let_go(self) -> None:
        """Wait until the supervisor is up, then leave it alone. Raises SetupError."""
        while not self._ready and not self._over:
            self._read_report()
        if not self._ready:
            record = self._death(self._reap())
            self._write(record)
            raise SetupError(record.message, "the job's folder holds supervisor.log")
        self._close()

    # ====== The loop ======

    def _turn(self, follower: Follower, signals: SignalPipe) -> None:
        """Copy output, then wait a moment for a signal or for the supervisor."""
        follower.pump()
        poller = select.poll()
        poller.register(self._report, select.POLLIN)
        ready = _poll(poller, follower, signals)
        if self._report in ready:
            self._read_report()
        for signum in signals.take():
            self._forward(signum)
        if time.monotonic() > self._kill_supervisor_at:
            self._kill_supervisor_at = float("inf")
            processes.send([self._supervisor.pid], signal.SIGKILL)

    def _read_report(self) -> None:
        data = os.read(self._report, 65536)
        if not data:
            self._over = True
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self._ready = True
                held, self._held_signals = self._held_signals, []
                for signum in held:
                    self._forward(signum)
            else:
                self._final = Record.from_json(message["final"])
                self._unsaved = not message["saved"]

    def pass_on(self, signum: int) -> None:
        """Do with a signal what `wait` does with those that come meanwhile."""
        self._forward(signum)

    def _forward(self, signum: int) -> None:
        self._note_stops({signum})
        if not self._ready:
            # Before it has a session the supervisor drops what comes.
            self._held_signals.append(signum)
            return
        processes.send([self._supervisor.pid], signum)
        if signum in (signal.SIGINT, signal.SIGTERM):
            now = time.monotonic()
            if self._first_stop == 0.0:
                self._first_stop = now
            elif self._kill_supervisor_at == float("inf") and (
                now - self._first_stop > processes.SAME_SIGNAL_SECONDS
            ):
                self._kill_supervisor_at = now + _FORCE_SECONDS

    def _drain(self, follower: Follower, signals: SignalPipe) -> None:
        """Copy what is left, for as long as it is read; Ctrl-C gives it up."""
        while follower.pump() or follower.blocked:
            if follower.blocked:
                _poll(select.poll(), follower, signals)
            if self._note_stops(signals.take()):
                return

    def _note_stops(self, signals: set[int]) -> bool:
        """Remember the first signal that asks to end; tell whether there is one of those."""
        stops = sorted(signals & set(_STOP_SIGNALS))
        if stops and not self.stopped_by:
            self.stopped_by = stops[0]
        return bool(stops)

    # ====== The end ======

    def _record_death(self, status: int | None, follower: Follower, signals: SignalPipe) -> Record:
        """The supervisor is dead without a last word: end what it left, and write the record."""
        before = load(self.directory)
        if before.state.final:
            return before
        sweep = Sweep(self.directory, before, self._supervisor, self._plan.limits.grace_seconds)
        stops = 1 if self._first_stop else 0
        while sweep.step():
            follower.pump()
            _poll(select.poll(), follower, signals, most=0.05)
            stops += len(signals.take() & {signal.SIGINT, signal.SIGTERM})
            if stops > 1:
                sweep.force()
        record = self._death(status)
        left = ", ".join(map(str, sweep.members()))
        if left:
            message = (
                f"{record.message}; these processes do not end, they hang in the kernel: {left}"
            )
            record = record.replaced(message=message)
        self._write(record)
        return record

    def _death(self, status: int | None) -> Record:
        before = load(self.directory)
        how = f"the supervisor (pid {self._supervisor.pid}) {describe_death(status)}"
        if status is not None and os.WIFEXITED(status) and not self._ready:
            last = tail_lines(self.directory.supervisor_log, 1)
            return before.replaced(
                state=State.FAILED,
                reason=Reason.SETUP_FAILED,
                exit_code=ExitCode.SETUP.value,
                kind=Kind.RUNNER,
                message=f"{how} before it was up: {last[0] if last else 'no reason given'}",
                ended=now_text(),
            )
        killed = status is None or os.WIFSIGNALED(status)
        left = waiting.problem(self.job_id, self._plan.pending)
        return before.replaced(
            state=State.LOST,
            reason=Reason.SUPERVISOR_GONE,
            exit_code=processes.exit_code(signal.SIGKILL if status is None else status) or 1,
            kind=Kind.SIGNAL if killed else Kind.RUNNER,
            message="; ".join(filter(None, (f"{how}; its script was ended", left))),
            ended=now_text(),
        )

    def _write(self, record: Record) -> None:
        try:
            write(self.directory, record)
            append_event(self.directory, record)
        except OSError:
            # The disk is full; readers see for themselves that the supervisor is gone.
            self._unsaved = True

    def _reap(self) -> int | None:
        try:
            return os.waitpid(self._supervisor.pid, 0)[1]
        except ChildProcessError:
            # The calling program ignores SIGCHLD, or collects all its children.
            return None

    def _close(self) -> None:
        for descriptor in (self._control, self._report):
            if descriptor >= 0:
                os.close(descriptor)
        self._control = self._report = -1


def _poll(
    poller: select.poll, follower: Follower, signals: SignalPipe, most: float = float("inf")
) -> set[int]:
    """Wait for `poller`, a signal, a blocked output, or until the logs are worth a look."""
    for descriptor in follower.blocked:
        poller.register(descriptor, select.POLLOUT)
    if signals.descriptor is not None:
        poller.register(signals.descriptor, select.POLLIN)
    return {fd for fd, _ in poller.poll(min(follower.delay, most) * 1000)}


# ====== Starting the supervisor ======


def _write_first_files(plan: Plan, directory: JobDirectory) -> None:
    record = Record(
        directory.id,
        plan.job_name,
        State.PENDING,
        created=now_text(),
        launcher=Identity.of(os.getpid()),
    )
    spec = json.dumps(plan.to_json(), ensure_ascii=False, indent=1)
    try:
        write_atomic(directory.spec, spec.encode("utf-8", "backslashreplace"), durable=False)
        write(directory, record)
        append_event(directory, record)
    except OSError as error:
        raise SetupError(
            f"the job's folder {directory.path} cannot be written: {error.strerror}",
            "set PAI_HOME to a folder that you may write, with free space",
        ) from error


def _spawn(
    plan: Plan, directory: JobDirectory, bootstrap: str | None, was_subreaper: bool
) -> Handle:
    if not sys.executable:
        raise SetupError("this program does not know its Python interpreter", "run `pai` instead")
    control, to_supervisor = _pipe()
    from_supervisor, report = _pipe()
    argv = [sys.executable, "-I", "-S", _SUPERVISOR, directory.path, str(control), str(report)]
    try:
        os.set_inheritable(control, True)
        os.set_inheritable(report, True)
        pid = _start(argv + ([bootstrap] if bootstrap else []), directory)
    except OSError as error:
        os.close(to_supervisor)
        os.close(from_supervisor)
        raise SetupError(
            f"the supervisor cannot be started: {error.strerror}",
            f"it is {sys.executable}, writing to {directory.supervisor_log}",
        ) from error
    finally:
        os.close(control)
        os.close(report)
    pipes = (to_supervisor, from_supervisor)
    return Handle(plan, directory, Identity.of(pid), pipes, was_subreaper)


def _start(argv: list[str], directory: JobDirectory) -> int:
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        argv[0],
        argv,
        {**_inherited(), MARKER: directory.path},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, directory.supervisor_log, log_flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        # It unblocks them when it has a session of its own and handlers.
        setsigmask=_FORWARDED,
    )


def _progress(detach: bool) -> dict[str, str]:
    """Return what tells the mover to draw a progress bar, where there is a terminal for it."""
    if detach or not os.isatty(2):
        return {}
    # A terminal that does not know its size says 0.
    return {"PAI_PROGRESS": "tty", "COLUMNS": str(os.get_terminal_size(2).columns or 80)}


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are above the standard three, also when those are closed."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
        os.close(end)
    return ends[0], ends[1]


def _inherited() -> dict[str, str]:
    """Return this process's environment without what an outer job told its own script."""
    told = {variable.name for variable in FOR_THE_SCRIPT if variable.name.startswith("PAI_")}
    return {name: value for name, value in os.environ.items() if name not in told}
