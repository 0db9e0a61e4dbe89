"""The supervisor: one process per job. It starts the guards, decides when the job must end, and
writes the record.

It is started as `python -I -S …/run/supervise.py`, so that it is up in milliseconds and nothing
of the user's environment is imported; hence only the standard library, and of it little. It has
one thread and one loop. Signal handlers only wake the loop.

    supervise.py JOB_DIRECTORY CONTROL REPORT [BOOTSTRAP]

CONTROL is a pipe from the launcher: one line of JSON, {"secrets": {…}, "detach": false,
"progress": {…}}, then nothing; `progress` is for the mover's environment. Unless detached its
end means that the launcher is gone. REPORT is a pipe to the launcher: {"ready": true}, at the
end {"final": record, "saved": whether it was written}; its end means that the supervisor is
gone. BOOTSTRAP is the program of the roles.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from pai_runner.errors import ExitCode
from pai_runner.jobs import cancel as requests
from pai_runner.jobs.directory import JobDirectory
from pai_runner.jobs.files import now_text
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.state import Kind, Reason, State
from pai_runner.run import processes, waiting
from pai_runner.run.ending import LEFTOVER_SECONDS, UNKILLABLE_SECONDS
from pai_runner.run.guard import Role
from pai_runner.run.journal import Journal
from pai_runner.run.publishing import Publisher
from pai_runner.run.reports import read_line
from pai_runner.run.roles import Roles
from pai_runner.run.staging import Mover
from pai_runner.run.verdict import Cause, Verdict, judge, signal_name, with_problem
from pai_runner.run.watch import Limits, memory_kills

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_SIGNALS = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)

# How often a cancel request and the launcher are looked at when nothing happens, in seconds.
_TICK = 1.0
# How long faulthandler gets to write where the threads of a hanging script are.
_DUMP_SECONDS = 1.0
# How long a guard may take beyond the timetable of its own ending, before it is given up.
_GUARD_MARGIN = UNKILLABLE_SECONDS + 5.0
_NEVER = float("inf")
_now = time.monotonic
_BOOTSTRAP = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "script", "bootstrap.py"
)


class Supervisor:
    """One job's supervisor, in its own process."""

    def __init__(
        self, directory: JobDirectory, control: int, report: int, wakeup: int, bootstrap: str
    ) -> None:
        self._directory = directory
        self._control = control
        self._wakeup = wakeup
        self._bootstrap = bootstrap
        self._journal = Journal(directory, report)
        self._launcher_pid = os.getppid()
        self._attached = False
        self._secrets: dict[str, str] = {}
        self._pending = ""
        self._limits = Limits(
            {"grace_seconds": 0.0, "total_seconds": None, "no_progress_seconds": None}, 0.0
        )
        self._roles = Roles((), 0.0)
        self._mover: Mover | None = None
        self._cause: Cause | None = None
        self._stopping_since: float | None = None
        self._signalled_at: float | None = None
        self._forced = False
        self._dump_until = _NEVER
        self._give_up_guards_at = _NEVER
        self._memory_kills = memory_kills()
        self._poller = select.poll()
        self._publisher = Publisher(directory, self._poller)

    # ====== From start to end ======

    def run(self) -> None:
        """Run the job to its end."""
        orders = read_line(self._control)
        if orders is None:
            message = "the launcher was gone before the job began"
            self._cause = Cause(State.CANCELLED, Reason.LAUNCHER_GONE, message)
        else:
            self._attached = not orders["detach"]
            self._secrets = orders["secrets"]
        self._save(State.STARTING, supervisor=Identity.of(os.getpid()))
        if orders is not None:
            self._start(orders["progress"])
        self._journal.tell_launcher({"ready": True})
        while not self._is_over():
            self._turn()
        verdict = judge(self._cause, self._roles.ends)
        if self._mover is not None and self._mover.problem:
            verdict = with_problem(verdict, self._mover.problem, Reason.NOT_COPIED_BACK)
        verdict = waiting.judged(verdict, self._directory.id, self._pending)
        self._finish(self._publisher.judge(verdict))

    def _is_over(self) -> bool:
        is_mover_gone = self._mover is None or self._mover.is_gone
        return self._roles.are_gone and is_mover_gone and self._publisher.is_gone

    def fail(self, error: Exception) -> None:
        """Record an error of the supervisor's own, once the guards have ended their trees."""
        self._roles.abandon()
        if self._mover is not None:
            self._mover.abandon()
        self._publisher.stop()
        deadline = time.monotonic() + self._limits.grace + LEFTOVER_SECONDS + _GUARD_MARGIN
        while processes.reap()[1] and time.monotonic() < deadline:
            time.sleep(0.05)
        message = f"{type(error).__name__}: {error}"
        self._finish(Verdict(State.FAILED, Reason.INTERNAL_ERROR, 1, Kind.RUNNER, message, None))

    def _start(self, progress: dict[str, str]) -> None:
        with open(self._directory.spec, encoding="utf-8") as file:
            spec = json.load(file)
        self._pending = spec.get("pending", "")
        self._limits = Limits(spec["limits"], time.monotonic())
        self._roles = Roles([self._role(role) for role in spec["roles"]], self._limits.grace)
        self._poller.register(self._wakeup, select.POLLIN)
        if self._attached:
            self._poller.register(self._control, select.POLLIN)
        if spec["publish"]:
            self._publisher.want(spec["roles"][0], self._secrets)
        if any(mount["mode"] == "stage" for mount in spec["mounts"]):
            folders = [mount["folder"] for mount in spec["mounts"] if mount["folder"]]
            self._mover = Mover(self._directory, self._secrets, progress, folders, self._poller)
            self._mover.start()
            self._advance_staging(())
        else:
            self._roles.start(self._secrets, self._poller)

    def _role(self, role: dict[str, Any]) -> Role:
        label = f"{role['name']}-{role['index']}"
        return Role(
            label,
            (role["interpreter"], "-u", self._bootstrap),
            role["environment"],
            role["working_directory"],
            self._directory.role(label),
            self._limits.grace,
        )

    def _turn(self) -> None:
        """Wait for something to happen and act on it."""
        ready = [descriptor for descriptor, _ in self._poller.poll(self._timeout() * 1000)]
        # What the roles did comes before what was asked meanwhile: it happened first.
        self._roles.read_reports(ready, self._poller)
        self._reap()
        self._advance_staging(ready)
        self._note_starts()
        self._note_ends()
        if self._wakeup in ready:
            self._take_signals()
        if self._attached and (
            # A fork of the launcher may hold the pipe open.
            self._control in ready or os.getppid() != self._launcher_pid
        ):
            self._launcher_gone()
        self._check_request()
        self._check_time(_now())
        self._advance_publishing(ready)

    def _timeout(self) -> float:
        """Return the seconds until something is due."""
        now = _now()
        due = [now + _TICK, self._dump_until, self._give_up_guards_at]
        if not self._is_ending():
            due.append(self._limits.due())
        due.append(self._roles.step(now))
        return max(0.0, min(due) - now)

    def _save(self, state: State, **changes: Any) -> None:
        self._journal.save(state, roles=self._roles.to_record(), **changes)

    def _finish(self, verdict: Verdict) -> None:
        self._journal.finish(verdict, self._secrets.values(), roles=self._roles.to_record())
        self._journal.close()

    # ====== The roles ======

    def _reap(self) -> None:
        for pid, status in processes.reap()[0]:
            if self._mover is not None and pid == self._mover.pid:
                self._mover.ended(status)
                continue
            if pid == self._publisher.pid:
                self._publisher.ended(status)
                continue
            message = self._roles.ended(pid, status)
            if message:
                code = 128 + signal.SIGKILL
                self._stop(Cause(State.FAILED, Reason.GUARD_GONE, message, exit_code=code))
                self._roles.take_over(pid)

    def _note_starts(self) -> None:
        if self._journal.record.state is not State.STARTING:
            return
        if self._roles.all_run:
            self._save(State.RUNNING, started=now_text())
            self._limits.watch([ward.role.directory for ward in self._roles], _now())

    def _note_ends(self) -> None:
        if self._stopping_since is not None:
            return
        for end in self._roles.ends:
            if end.status == signal.SIGKILL:
                end.killed_for_memory = memory_kills() > self._memory_kills
        if any(end.failed for end in self._roles.ends):
            # The others cannot get on without it.
            self._tell_to_stop(signal.SIGTERM)

    # ====== Staged folders ======

    @property
    def _is_copying_back(self) -> bool:
        return self._journal.record.state is State.PUBLISHING

    def _advance_staging(self, ready: Sequence[int]) -> None:
        """Start the roles when their files are there, copy back when nothing of them runs."""
        mover = self._mover
        if mover is None:
            return
        if mover.from_mover in ready:
            mover.read_reports()
        self._roles.strangers = [mover.pid]
        if mover.failure and self._cause is None:
            code, message = ExitCode.SETUP.value, mover.failure
            self._stop(Cause(State.FAILED, Reason.SETUP_FAILED, message, exit_code=code))
        mover.check(_now())
        if mover.is_over:
            return
        if not self._roles.are_started and self._cause is not None:
            mover.stop()
        elif not self._roles.are_started and mover.is_staged:
            self._roles.start(self._secrets, self._poller)
        elif self._roles.are_started and self._roles.are_gone:
            if not self._is_copying_back:
                self._save(State.PUBLISHING)
            mover.finish(killed=any(end.is_killed for end in self._roles.ends))

    # ====== Publishing ======

    def _advance_publishing(self, ready: Sequence[int]) -> None:
        """Publish what the script exported, when it has ended well and all of it is in place."""
        publisher, mover = self._publisher, self._mover
        publisher.advance(ready, _now())
        if not publisher.is_waiting:
            return
        is_over = self._roles.are_gone and (mover is None or mover.is_over)
        if self._is_ending() or (mover is not None and mover.problem):
            publisher.drop(has_succeeded=self._have_all_succeeded())
        elif self._have_all_succeeded() and is_over and waiting.waiting(self._pending):
            publisher.drop(has_succeeded=True)
        elif self._have_all_succeeded() and is_over:
            # Nobody watches over the progress of what is no script.
            self._limits.watch([], _now())
            self._save(State.PUBLISHING)
            publisher.start()

    def _have_all_succeeded(self) -> bool:
        return all(end.status == 0 for end in self._roles.ends)

    # ====== Stopping ======

    def _stop(self, cause: Cause) -> None:
        """Bring the job to its end because of `cause`, unless it is ending anyway."""
        self._decide(cause)
        if self._stopping_since is None:
            self._tell_to_stop(cause.signum)

    def _decide(self, cause: Cause) -> None:
        if not self._is_ending():
            self._cause = cause
            self._save(State.STOPPING, reason=cause.reason, message=cause.message)

    def _is_ending(self) -> bool:
        """Whether it is settled how the job ends: by a cause, a failure, or the end of all."""
        return (
            self._cause is not None
            or any(end.failed for end in self._roles.ends)
            or (self._have_all_succeeded() and self._publisher.is_over)
        )

    def _tell_to_stop(self, signum: int) -> None:
        now = _now()
        self._stopping_since = now
        self._dump_until = _NEVER
        self._give_up_guards_at = now + self._limits.grace + LEFTOVER_SECONDS + _GUARD_MARGIN
        if self._mover is not None:
            # What is whole now is known to be so, also if the script is cut off.
            self._mover.look()
        self._publisher.stop()
        self._roles.tell(f"stop {int(signum)} {self._limits.grace}")

    def _force(self) -> None:
        if self._forced:
            return
        self._forced = True
        self._roles.force()
        if self._mover is not None:
            self._mover.stop()
        self._publisher.kill()
        self._give_up_guards_at = min(self._give_up_guards_at, _now() + _GUARD_MARGIN)

    def _take_signals(self) -> None:
        for signum in set(os.read(self._wakeup, 4096)):
            if signum in PASSED_SIGNALS:
                self._roles.tell(f"signal {signum}")
            elif signum in STOP_SIGNALS:
                self._take_stop_signal(signum)

    def _take_stop_signal(self, signum: int) -> None:
        now = _now()
        first, self._signalled_at = self._signalled_at, self._signalled_at or now
        # While results are copied back nothing else is left to be stopped by a first signal.
        since = first if self._is_copying_back else self._stopping_since
        if since is None:
            reason = Reason.HANGUP if signum == signal.SIGHUP else Reason.INTERRUPTED
            message = f"pai got {signal_name(signum)}"
            self._stop(Cause(State.CANCELLED, reason, message, signum))
        elif signum != signal.SIGHUP and now - since > processes.SAME_SIGNAL_SECONDS:
            self._force()

    def _launcher_gone(self) -> None:
        self._poller.unregister(self._control)
        self._attached = False
        message = f"the launcher (pid {self._launcher_pid}) is gone; the script was ended"
        self._stop(Cause(State.CANCELLED, Reason.LAUNCHER_GONE, message))

    def _check_request(self) -> None:
        try:
            with open(self._directory.cancel, "rb") as file:
                request = file.read()
        except OSError:
            # Nobody asks; or the home went away, and then nobody can.
            return
        self._stop(Cause(State.CANCELLED, Reason.CANCELLED_BY_USER, "cancelled by `pai cancel`"))
        if request == requests.FORCE:
            self._force()

    def _check_time(self, now: float) -> None:
        passed = None if self._is_ending() else self._limits.passed(now)
        if passed is not None and passed.reason is Reason.NO_PROGRESS:
            # First let the script say where it hangs; the bootstrap has told it how.
            self._decide(passed)
            self._dump_until = now + _DUMP_SECONDS
            self._roles.tell(f"signal {int(signal.SIGQUIT)}")
        elif passed is not None:
            self._stop(passed)
        elif now >= self._dump_until and self._stopping_since is None:
            self._tell_to_stop(signal.SIGTERM)
        if now >= self._give_up_guards_at:
            self._give_up_guards_at = _NEVER
            self._roles.kill_guards()


def main(arguments: Sequence[str]) -> None:
    """Supervise one job, as the module's text says."""
    directory = JobDirectory.at(arguments[0])
    control, report = int(arguments[1]), int(arguments[2])
    bootstrap = arguments[3] if len(arguments) > 3 else _BOOTSTRAP
    os.setsid()
    processes.close_all_except((control, report))
    for descriptor in (control, report):
        os.set_inheritable(descriptor, False)
    processes.set_subreaper()
    processes.set_name("pai-supervisor")
    os.chdir("/")
    wakeup = processes.wake_on((*STOP_SIGNALS, *PASSED_SIGNALS), signal.SIGCHLD, signal.SIGCONT)
    supervisor = Supervisor(directory, control, report, wakeup, bootstrap)
    try:
        supervisor.run()
    except Exception as error:
        import traceback

        traceback.print_exc()
        supervisor.fail(error)
    # All is written; Python's own tidying up would only keep the launcher waiting.
    os._exit(0)
