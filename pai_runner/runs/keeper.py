"""Keeps a run: its commands in order, each tried again as was asked for, all of it on record."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pai_runner import api
from pai_runner.command import Job
from pai_runner.errors import BusyError, ExitCode, PaiError, SetupError
from pai_runner.jobs.directory import create
from pai_runner.jobs.files import now_text
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
from pai_runner.secret import redact, redact_secrets

Say = Callable[[str], None]


class Stopped(KeyboardInterrupt):
    """A signal that asks the run to end. While a job runs, that job's handle takes it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


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
        self._say = say
        self._date = date
        self._done = done or {}
        self._once: Once | None = None

    def keep(self, on_record: Callable[[], object] = lambda: None) -> Run:
        """Do all of it and return the final record. What goes wrong is in there.

        `on_record` is called when the run can be seen. Raises SetupError when it cannot be written.
        """
        self._save(keeper=Identity.of(os.getpid()), created=now_text())
        on_record()
        try:
            with _stops(), ExitStack() as stack:
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
            return self._run
        except PaiError as error:
            self._end(State.FAILED, error.exit_code, redact(str(error)))
            self._say_error("error", error)
        self._tell_end()
        return self._run

    # ====== Before the first job ======

    def _enter(self, stack: ExitStack) -> bool:
        """Take what the run must have to itself; tell whether there is anything to do."""
        asked = self._run_options
        if self._date:
            self._once = Once(self._run.name, self._date, self._run.id)
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
            if not once.success:
                once.succeed()
            text = f"run {once.success} of `{self._run.name}` has succeeded for {self._date}"
            self._say(f"{text}; --force runs it again")
            self._end(State.SUCCEEDED, ExitCode.OK, f"nothing was run: {text}")
        return is_done

    # ====== The jobs ======

    def _keep_steps(self) -> None:
        for place in range(len(self._jobs)):
            if place in self._done:
                step = self._done[place]
                self._say(f"{step.name}: job {step.jobs[-1]} has succeeded before")
                self._save_step(place, step)
            elif not self._keep_step(place) and not self._run_options.keeps_going:
                return

    def _keep_step(self, place: int) -> bool:
        """Run one command until it succeeds or is not tried again; tell whether it has."""
        failed: list[Record] = []
        while True:
            record = self._attempt(place)
            if record.state is State.SUCCEEDED:
                return True
            failed.append(record)
            if record.state is State.CANCELLED:
                raise Stopped(max((record.exit_code or 0) - 128, signal.SIGTERM))
            seconds = wait_before_next(self._run_options.retries, failed)
            if seconds is None:
                return False
            self._say(
                f"attempt {len(failed)} of {record.job_name} ended: {kind_of(record)}; "
                f"again in {seconds:g} s"
            )
            time.sleep(seconds)

    def _attempt(self, place: int) -> Record:
        directory = create()
        step = self._run.steps[place]
        # The job is named before it is there: a keeper that is killed leaves none unnamed.
        jobs = (*step.jobs, directory.id)
        self._save_step(place, replace(step, state=State.RUNNING, jobs=jobs))
        try:
            job = self._jobs[place]
            options = replace(self._options, run_key=self._key(place))
            handle = api.start(job, options, self._say, self._cwd, directory=directory)
            outcome = handle.wait()
            if outcome.exit_code != 0:
                api.tell(outcome, directory, self._say)
        except PaiError as error:
            self._say_error("error", error)
        record = read(directory)
        self._save_step(
            place,
            replace(
                self._run.steps[place],
                state=record.state,
                exit_code=record.exit_code,
                message=record.message,
            ),
        )
        return record

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
        self._save(state=state, exit_code=int(code), message=message, ended=now_text())

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
        if self._is_told(event):
            targets = [notifying.target(text) for text in self._run_options.notify]
            notifying.notify(targets, event, self._run, self._say)

    def _say_error(self, what: str, error: PaiError) -> None:
        self._say(f"{what}: {error}" + (f"; {error.hint}" if error.hint else ""))

    # ====== The record ======

    def _save_step(self, place: int, step: Step) -> None:
        steps = list(self._run.steps)
        steps[place] = step
        self._save(steps=tuple(steps))

    def _save(self, **changes: Any) -> None:
        self._run = replace(self._run, **changes)
        try:
            write_run(self._directory, self._run)
        except OSError as error:
            raise SetupError(
                f"the record {self._directory.record} cannot be written: {error.strerror}",
                "free some space, or keep the records elsewhere with PAI_HOME",
            ) from error


def steps_of(jobs: Sequence[Job]) -> tuple[Step, ...]:
    """Return the steps of a run that has not begun."""
    return tuple(
        Step(
            redact_secrets(job.statement.text.strip()),
            redact_secrets(job.job_name or job.script.name),
        )
        for job in jobs
    )


@contextmanager
def _stops() -> Iterator[None]:
    """Let signals that ask to end raise Stopped, where Python takes signals at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler not in (None, signal.SIG_IGN):
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _stop(signum: int, _: object) -> NoReturn:
    raise Stopped(signum)
