"""The guard: the parent of one role's process, and the process that outlives the supervisor.

It is forked by the supervisor and does three things: it starts the role, it ends the role's
whole tree when it is told to or when the supervisor is gone, and it says what the role ended
with. It takes lines from the supervisor, `stop SIGNAL GRACE`, `signal SIGNAL` and `kill`, and
answers with lines of JSON; the end of either pipe is the death of the other side.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from pai_runner.jobs.files import now_text, write_all, write_atomic
from pai_runner.run import processes
from pai_runner.run.ending import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from pai_runner.jobs.directory import RoleDirectory

# A signal meant for a group must not end the one process that can still end the others.
_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
# What Python itself ignores, and a program expects to have.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Role:
    """What a guard must know of its role.

    `argv` is the whole command, which holds nothing secret; `grace` is in seconds.
    """

    __slots__ = ("argv", "directory", "environment", "grace", "label", "working_directory")

    def __init__(
        self,
        label: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        working_directory: str,
        directory: RoleDirectory,
        grace: float,
    ) -> None:
        self.label = label
        self.argv = list(argv)
        self.environment = environment
        self.working_directory = working_directory
        self.directory = directory
        self.grace = grace


class CannotStart(Exception):
    """The role's process could not be started; the text says why."""


def fork_guard(role: Role, secrets: Mapping[str, str]) -> tuple[int, int, int]:
    """Fork the guard of `role`; return its pid, the pipe to it and the pipe from it.

    The calling process must have one thread. Raises OSError.
    """
    commands, to_guard = os.pipe()
    from_guard, reports = os.pipe()
    # A signal between fork and the guard's own set-up would reach the supervisor's wakeup pipe.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_guard(role, secrets, commands, reports)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(commands)
        os.close(reports)
    return pid, to_guard, from_guard


def _be_guard(role: Role, secrets: Mapping[str, str], commands: int, reports: int) -> NoReturn:
    code = 1
    try:
        processes.close_all_except((commands, reports))
        Guard(role, commands, reports).run(secrets)
        code = 0
    except BaseException:
        # The supervisor's log is standard error; the supervisor then finds the guard gone.
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


class Guard:
    """One guard, in its own process."""

    def __init__(self, role: Role, commands: int, reports: int) -> None:
        self._role = role
        self._commands = commands
        self._reports = reports
        self._buffer = b""
        self._leader = 0
        self._ended = False
        self._children = False
        self._ending: Ending | None = None
        self._started = now_text()

    def run(self, secrets: Mapping[str, str]) -> None:
        """Start the role and stay until nothing of it is left."""
        wakeup = self._set_up()
        try:
            self._leader = start_process(self._role, secrets)
        except CannotStart as error:
            self._report({"failed": str(error)})
            return
        self._report({"started": self._leader})
        poller = select.poll()
        poller.register(self._commands, select.POLLIN)
        poller.register(wakeup, select.POLLIN)
        while True:
            now = time.monotonic()
            self._reap(now)
            if self._empty() or (self._ending and self._ending.given_up(now)):
                break
            for descriptor, _ in poller.poll(self._timeout(now)):
                if descriptor == wakeup:
                    os.read(wakeup, 4096)
                elif not self._obey():
                    poller.unregister(self._commands)
        self._report({"left": [] if self._empty() else self._members()})

    def _set_up(self) -> int:
        os.setsid()
        processes.set_subreaper()
        processes.set_name("pai-guard")
        wakeup, signals = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(signals, False)
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        return wakeup

    def _timeout(self, now: float) -> float | None:
        """Do what is due; return the milliseconds until something is due again."""
        return None if self._ending is None else max(0.0, self._ending.step(now) - now) * 1000

    def _members(self) -> list[int]:
        if processes.HAS_SUBREAPER:
            return processes.living(processes.descendants(os.getpid()))
        return processes.group_members(self._leader)

    def _empty(self) -> bool:
        return (
            self._ended
            and not self._children
            and (processes.HAS_SUBREAPER or not processes.group_members(self._leader))
        )

    def _reap(self, now: float) -> None:
        ended, self._children = processes.reap()
        for pid, status in ended:
            if pid != self._leader:
                continue
            self._ended = True
            self._report({"exited": status, "at": now})
            self._write_exit(status)
            if self._ending is None:
                self._ending = Ending.of_leftovers(self._members, now)
            else:
                self._ending.leader_left(now)

    def _obey(self) -> bool:
        """Read the supervisor's commands and act. False at the end of its pipe."""
        data = os.read(self._commands, 4096)
        if not data:
            self._stop(signal.SIGTERM, self._role.grace)
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            word, *values = line.split()
            if word == b"stop":
                self._stop(int(values[0]), float(values[1]))
            elif word == b"signal" and not self._ended:
                processes.send([self._leader], int(values[0]))
            elif word == b"kill":
                self._stop(signal.SIGKILL, 0.0)
        return True

    def _stop(self, signum: int, grace: float) -> None:
        now = time.monotonic()
        if grace <= 0 and self._ending is not None:
            self._ending.force(now)
        elif self._ending is None:
            self._ending = Ending.of_leader(self._members, now, grace, self._leader, signum)

    def _write_exit(self, status: int) -> None:
        data = {
            "pid": self._leader,
            "exit_code": processes.exit_code(status),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "started": self._started,
            "ended": now_text(),
        }
        try:
            write_atomic(self._role.directory.exit, json.dumps(data).encode(), durable=False)
        except OSError as error:
            # A full disk; the supervisor has been told, and the record says the same.
            print(f"{self._role.directory.exit}: {error.strerror}", flush=True)

    def _report(self, report: dict[str, Any]) -> None:
        try:
            write_all(self._reports, json.dumps(report).encode() + b"\n")
        except BrokenPipeError:
            # The supervisor is gone; the command pipe says so, too, and the tree is ended.
            return


# ====== Starting the role ======


def start_process(role: Role, secrets: Mapping[str, str]) -> int:
    """Start the role in a session of its own and return its pid. Raises CannotStart."""
    try:
        role.directory.create()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        stdout = os.open(role.directory.stdout, flags, 0o600)
        stderr = os.open(role.directory.stderr, flags, 0o600)
        stdin = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        raise CannotStart(f"cannot write {error.filename}: {error.strerror}") from error
    secrets_pipe = pipe_with(secrets)
    failure, failure_end = os.pipe()
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(role, (stdin, stdout, stderr), secrets_pipe, failure_end, guard)
    for descriptor in (stdin, stdout, stderr, secrets_pipe, failure_end):
        os.close(descriptor)
    # The pipe ends, empty, when the exec has succeeded.
    with os.fdopen(failure, encoding="utf-8", errors="surrogateescape") as file:
        message = file.read()
    if message:
        os.waitpid(pid, 0)
        raise CannotStart(message)
    return pid


def pipe_with(secrets: Mapping[str, str]) -> int:
    """Return a pipe that holds the secrets as JSON and is then at its end. Raises CannotStart."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = json.dumps(dict(secrets)).encode()
    try:
        written = os.write(writer, data)
    except BlockingIOError:
        written = 0
    os.close(writer)
    if written != len(data):
        # Nobody reads yet, so all of it must fit into the pipe: 64 KiB on Linux and macOS.
        raise CannotStart(f"the secrets take {len(data)} bytes; a pipe holds {written}")
    return reader


def _become(
    role: Role, streams: tuple[int, int, int], secrets_pipe: int, failure_end: int, guard: int
) -> NoReturn:
    """In the child: become the role's program, or say why not and end."""
    message = ""
    try:
        os.setsid()
        if not processes.die_with_parent(signal.SIGTERM, guard):
            os._exit(1)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.set_inheritable(secrets_pipe, True)
        for signum in (*_IGNORED, *_IGNORED_BY_PYTHON, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        environment = {
            **os.environ,
            **role.environment,
            "PYTHONUNBUFFERED": "1",
            "PAI_ROLE_DIR": role.directory.path,
            "PAI_SECRETS_FD": str(secrets_pipe),
        }
        message = f"the working directory {role.working_directory} cannot be entered"
        os.chdir(role.working_directory)
        message = f"{role.argv[0]} cannot be started"
        os.execve(role.argv[0], role.argv, environment)
    except OSError as error:
        message = f"{message or 'the process cannot be set up'}: {error.strerror}"
    except Exception as error:
        message = f"{message or 'the process cannot be set up'}: {error!r}"
    finally:
        write_all(failure_end, message.encode("utf-8", "surrogateescape"))
        os._exit(127)
