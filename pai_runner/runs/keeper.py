"""Keeps a run: its commands in order, each tried again as was asked for, all of it on record."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pai_runner import api
from pai_runner.command import Job
from pai_runner.errors import BusyError, ExitCode, PaiError, UsageError
from pai_runner.jobs.directory import JobDirectory, create
from pai_runner.jobs.files import now_text, unwritable
from pai_runner.jobs.identity import Identity
from pai_runner.jobs.record import Record, read
from pai_runner.jobs.runs import Run, RunDirectory, Step, write_run
from pai_runner.jobs.state import State
from pai_runner.run.options import Options
from pai_runner.runs import notifying
from pai_runner.runs.locking import held, slot
from pai_runner.runs.once import Once
from pai_runner.runs.options import RunOptions
from pai_runner.runs.retrying import kind_of, wait_before_next
from pai_runner.runs.stopping import Stopped, handled
from pai_runner.secret import redact

Say = Callable[[str], None]


class Keeper:
    """Keeps one run. `date` is what its name may succeed once for, `done` what needs no job."""

    def __init__(
        self,
        directory: RunDirectory,
        run: Run,
        jobs: Sequence[Job],
        options: tuple[Options, RunOptions],
        cwd: Path,
        say: Say,
        date: str = "",
        done: dict[int, Step] | None = None,
    ) -> None:
        self._directory = directory
        self._run = run
        self._jobs = jobs
        self._options, self._run_options = options
        self._cwd = cwd
        self._say_it = say
        self._gate = _Gate()
        self._is_on_record = False
        self._is_idle = False
        self._date = date
        self._done = done or {}
        self._once: Once | None = None

    def keep(self, on_record: Callable[[], object] = lambda: None) -> Run:
        """Do all of it and return the final record. What goes wrong is in there.

        `on_record` is called when the run can be seen. Raises SetupError when it cannot be written.
        """
        self._save(keeper=Identity.of(os.getpid()), created=now_text())
        self._is_on_record = True
        on_record()
        with self._gate.entered():
            if self._keep():
                self._tell_end()
        return self._run

    def _keep(self) -> bool:
        """Do all of it; tell whether there is an end to tell of."""
        try:
            with ExitStack() as stack:
                if self._enter(stack):
                    self._tell("start")
                    self._keep_steps()
                    self._finish()
        except Stopped as stopped:
            name = signal.Signals(stopped.signum).name
            self._end(State.CANCELLED, 128 + stopped.signum, f"ended by {name}")
        except BusyError as error:
            self._end(State.CANCELLED, error.exit_code, f"skipped: {error}")
            self._say_error("skipped", error)
            return False
        except PaiError as error:
            self._end(State.FAILED, error.exit_code, redact(str(error)))
            self._say_error("error", error)
        except Exception as error:
            text = redact(f"internal error: {type(error).__name__}: {error}")
            self._end(State.FAILED, ExitCode.SETUP, text)
            self._tell_end()
            raise
        return not self._is_idle

    # ====== Before the first job ======

    def _enter(self, stack: ExitStack) -> bool:
        """Take what the run must have to itself; tell whether there is anything to do."""
        asked = self._run_options
        if self._date:
            self._once = Once(self._run.name, self._date, self._run.id, self._say)
            stack.callback(self._once.close)
            if not asked.is_forced and self._has_succeeded(self._once):
                return False
            self._once.begin()
        if asked.lock is not None:
            stack.enter_context(
                held(asked.lock, self._run.id, asked.if_running, asked.lock_seconds, self._say)
            )
        if asked.most_running is not None:
            stack.enter_context(slot(asked.most_running, self._run.id, self._say))
        self._save(state=State.RUNNING)
        return True

    def _has_succeeded(self, once: Once) -> bool:
        self._done = {**once.done_before(self._run.steps), **self._done}
        is_done = bool(once.success) or len(self._done) == len(self._run.steps)
        if is_done:
            who = f"run {once.success} of `{self._run.name}` has"
            if not once.success:
                who = f"all commands of `{self._run.name}` have"
                once.succeed()
                for place, step in self._done.items():
                    self._save_step(place, step)
            text = f"{who} succeeded for {self._date}"
            self._say(f"{text}; --force runs it again")
            self._is_idle = True
            self._end(State.SUCCEEDED, ExitCode.OK, f"nothing was run: {text}")
        return is_done

    # ====== The jobs ======

    def _keep_steps(self) -> None:
        for place in range(len(self._jobs)):
            if place in self._done:
                step = self._done[place]
                self._say(f"{step.name}: job {step.jobs[-1]} has succeeded before")
                self._save_step(place, step)
                continue
            state = self._keep_step(place)
            goes_on = self._run_options.keeps_going and state is not State.CANCELLED
            if state is not State.SUCCEEDED and not goes_on:
                return

    def _keep_step(self, place: int) -> State:
        """Run one command until it succeeds or is not tried again; return its last state."""
        failed: list[Record] = []
        while True:
            record = self._attempt(place)
            if record.state is State.SUCCEEDED:
                return record.state
            failed.append(record)
            seconds = wait_before_next(self._run_options.retries, failed)
            if seconds is None:
                return record.state
            self._say(
                f"attempt {len(failed)} of {record.job_name} ended: {kind_of(record)}; "
                f"again in {seconds:g} s"
            )
            time.sleep(seconds)

    def _attempt(self, place: int) -> Record:
        """Run a job once. Raises Stopped when this process was asked to end meanwhile."""
        directory = create()
        step = self._run.steps[place]
        # The job is named before it is there: a keeper that is killed leaves none unnamed.
        jobs = (*step.jobs, directory.id)
        self._save_step(place, replace(step, state=State.RUNNING, jobs=jobs))
        stopped_by = 0
        try:
            stopped_by = self._run_job(place, directory)
        except PaiError as error:
            self._say_error("error", error)
        record = read(directory)
        self._save_step(
            place,
            replace(
                self._run.steps[place],
                state=record.state if record.state.final else State.FAILED,
                exit_code=ExitCode.SETUP if record.exit_code is None else record.exit_code,
                message=record.message,
            ),
        )
        is_last = place == len(self._jobs) - 1
        if stopped_by and not (is_last and record.state is State.SUCCEEDED):
            self._gate.lock()
            raise Stopped(stopped_by)
        return record

    def _run_job(self, place: int, directory: JobDirectory) -> int:
        """Start a job and wait for its end; return the signal that asked to end it, or 0."""
        options = replace(self._options, run_key=self._key(place))
        job = self._jobs[place]
        prepared = api.prepare(job, options, self._say, self._cwd, directory)
        with self._gate.shut():
            handle = api.launch(job, prepared, directory)
            self._gate.pass_to(handle.pass_on)
            outcome = handle.wait()
            if outcome.exit_code != 0:
                api.tell(outcome, directory, self._say)
        return handle.stopped_by

    def _key(self, place: int) -> str:
        """Return what the job of one step is done for; empty where it may be done again."""
        if not self._date or self._run_options.is_forced:
            return ""
        return f"{self._run.name}/{self._date}/{place}"

    # ====== The end ======

    def _finish(self) -> None:
        failed = [step for step in self._run.steps if step.state is not State.SUCCEEDED]
        if not failed:
            if self._once is not None:
                self._once.succeed()
            self._end(State.SUCCEEDED, ExitCode.OK, "")
            return
        first = next((one for one in failed if one.state is not State.PENDING), failed[0])
        self._end(first.state, first.exit_code or 1, f"{first.name}: {first.message}")

    def _end(self, state: State, code: int, message: str) -> None:
        self._gate.lock()
        steps = tuple(
            step if step.state.final or step.state is State.PENDING else replace(step, state=state)
            for step in self._run.steps
        )
        self._save(state=state, exit_code=int(code), message=message, ended=now_text(), steps=steps)

    def _tell_end(self) -> None:
        if self._run.state is not State.SUCCEEDED:
            self._tell("failure")
            return
        self._tell("success")
        if self._is_told("recovery") and notifying.has_recovered(self._run):
            self._tell("recovery")

    def _is_told(self, event: str) -> bool:
        return bool(self._run_options.notify) and event in self._run_options.notify_on

    def _tell(self, event: str) -> None:
        if not self._is_told(event):
            return
        try:
            targets = [notifying.target(text) for text in self._run_options.notify]
        except UsageError as error:  # of a run that is done again, elsewhere
            self._say_error("--notify", error)
            return
        notifying.notify(targets, event, self._run, self._say)

    def _say(self, line: str) -> None:
        try:
            self._say_it(line)
        except OSError:
            return  # nobody reads it any more; the run goes on

    def _say_error(self, what: str, error: PaiError) -> None:
        self._say(f"{what}: {error}" + (f"; {error.hint}" if error.hint else ""))

    # ====== The record ======

    def _save_step(self, place: int, step: Step) -> None:
        steps = list(self._run.steps)
        steps[place] = step
        self._save(steps=tuple(steps))

    def _save(self, **changes: Any) -> None:
        with self._gate.shut():
            self._run = replace(self._run, **changes)
            try:
                write_run(self._directory, self._run)
            except OSError as error:
                problem = unwritable(self._directory.record, error)
                if not self._is_on_record:
                    raise problem from error
                self._say(str(problem))


class _Gate:
    """Lets signals that ask to end raise Stopped, but not where that would leave a thing half done.

    While it is shut a signal waits, or goes to who was named; when it is locked it is late.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._waiting = 0
        self._is_locked = False
        self._goes_to: Callable[[int], object] | None = None

    def entered(self) -> AbstractContextManager[None]:
        """Take the signals, where Python takes signals at all."""
        return handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._take)

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Let signals wait. Raises Stopped at the end when one has come."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._goes_to = None
        if self._waiting and not self._depth and not self._is_locked:
            self.lock()
            raise Stopped(self._waiting)

    def pass_to(self, receive: Callable[[int], object]) -> None:
        """Give signals to `receive` until the gate opens, those that wait first."""
        self._goes_to = receive
        if self._waiting:
            signum, self._waiting = self._waiting, 0
            receive(signum)

    def lock(self) -> None:
        """Let no signal through any more: the run has come to its end."""
        self._is_locked = True

    def _take(self, signum: int, _: object) -> None:
        if self._goes_to is not None:
            self._goes_to(signum)
        elif self._depth or self._is_locked:
            self._waiting = self._waiting or signum
        else:
            self.lock()  # a second one must not come out of what the first has the run do
            raise Stopped(signum)
