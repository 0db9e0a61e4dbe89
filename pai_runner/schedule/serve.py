"""`pai schedule serve`: runs schedules where there is neither cron nor systemd, in a container.

APScheduler keeps the times, in `<home>/schedules/serve.sqlite`; a tick starts the process
`pai schedule run NAME`, as cron would, and that knows what is due. What came due while nobody
served is run once, for the latest tick. A tick that failed is tried again until the next comes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import FrameType
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from pai_runner.errors import ExitCode, SetupError
from pai_runner.schedule import catalog, locks
from pai_runner.schedule.catalog import Schedule
from pai_runner.schedule.due import Say, unfinished_tick
from pai_runner.schedule.foreground import environment_with
from pai_runner.schedule.ticks import instant_text, ticks_after
from pai_runner.schedule.triggers import CronTicks
from pai_runner.schedule.zones import zone

# How often the record is looked at for schedules that were installed or removed.
_RELOAD_SECONDS = 1.0
# When a schedule is looked at again that someone else was running.
_BUSY_DELAY = timedelta(minutes=1)
# More schedules than these do not run at a time.
_THREADS = 100
_TICK, _RETRY = "tick", "retry"

# The one server of this process: APScheduler keeps jobs by the name of a function, and this is
# how that function finds the server.
_servers: list[Server] = []


def fire(name: str) -> None:
    """Run what is due of a schedule; what the jobs of APScheduler's store call."""
    _servers[0].run_schedule(name)


class Server:
    """Runs the ticks of the schedules that are installed with --serve.

    `delays` are the seconds after which a tick is tried again: after its first failure, its
    second, and so on; the last counts for all further ones. Without any, it is not tried again.
    """

    def __init__(self, say: Say, delays: Sequence[float]) -> None:
        self._say = say
        self._delays = tuple(delays)
        self._guard = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._known: dict[str, Schedule] = {}
        self._damaged: set[str] = set()
        self._problem: Exception | None = None
        self._scheduler = _scheduler(self._fail)

    def serve(self) -> int:
        """Serve until SIGTERM, SIGINT or SIGHUP, and end what runs. Returns the exit code.

        Raises BusyError when another process serves, SetupError when the store cannot be used: a
        container is started anew, and what is due is found.
        """
        with locks.serving():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._end)
            _servers[:] = [self]
            try:
                self._start()
                while not self._stop.wait(_RELOAD_SECONDS):
                    if self._problem is not None:
                        raise self._problem
                    self._reload()
            except SQLAlchemyError as error:
                raise SetupError(
                    f"{_store_path()} cannot be used: {error.__cause__ or error}",
                    "see to free space, and to who else holds it; or remove it: it is made anew, "
                    "and what is due is found",
                ) from error
            finally:
                self._shut_down()
        return ExitCode.OK

    def run_schedule(self, name: str) -> None:
        """Run what is due of a schedule, unless it is running; then see to what is left."""
        try:
            self._run_schedule(name)
        except Exception as error:
            self._fail(error)

    def _run_schedule(self, name: str) -> None:
        schedule = self._known.get(name)
        if schedule is None:
            return
        with self._guard:
            if self._stop.is_set():
                return
            if name in self._children:
                self._say(f"{name}: is running; what is due comes after it")
                return
            started = _now()
            try:
                child = _start_run(schedule)
            except OSError as error:
                self._say(f"{name}: cannot start {error.filename}: {error.strerror}")
                self._plan_again(schedule, started, ExitCode.SETUP)
                return
            self._children[name] = child
        code = child.wait()
        # What is planned has the guard: the end waits for it, and nothing is planned after that.
        with self._guard:
            del self._children[name]
            if not self._stop.is_set():
                self._say(f"{name}: ended with {code if code >= 0 else 128 - code}")
                self._plan_again(schedule, started, code)

    def _fail(self, error: Exception) -> None:
        """Have the main thread raise the error of another, which would be lost with that."""
        self._problem = self._problem or error

    # ====== The store ======

    def _start(self) -> None:
        self._scheduler.start(paused=True)
        self._reload()
        self._scheduler.add_listener(self._was_running, EVENT_JOB_MAX_INSTANCES)
        self._scheduler.resume()
        self._say(f"serving {len(self._known)} schedules of {catalog.folder()}")

    def _reload(self) -> None:
        """Bring the jobs of the store in line with the schedules on record."""
        schedules, damaged = catalog.read_all()
        for error in damaged:
            if str(error) not in self._damaged:
                self._damaged.add(str(error))
                self._say(f"error: {error}")
        wanted = {one.name: one for one in schedules if one.backend == "serve"}
        kept = {job.id: job for job in self._scheduler.get_jobs()}
        for job_id, job in kept.items():
            if job.args[0] not in wanted:
                with suppress(JobLookupError):  # a second try that has begun meanwhile
                    self._scheduler.remove_job(job_id)
        for name in self._known.keys() - wanted.keys():
            self._say(f"{name}: is no longer served")
        for name, schedule in wanted.items():
            if self._known.get(name) != schedule:
                self._serve(schedule, kept.get(_job_id(_TICK, name)))
        self._known = wanted

    def _serve(self, schedule: Schedule, job: Any) -> None:
        name, trigger = schedule.name, CronTicks(schedule.cron, schedule.timezone)
        self._known[name] = schedule
        if job is None or str(job.trigger) != str(trigger):
            job = self._add(_TICK, name, trigger)
        now = _now()
        # The job of a tick that was missed starts by itself.
        is_coming = job.next_run_time is not None and job.next_run_time <= now
        if unfinished_tick(schedule, catalog.read_history(name), now) and not is_coming:
            self._say(f"{name}: something is due")
            self._add_once(name, now)
        upcoming = next(ticks_after(schedule.cron, zone(schedule.timezone), now), None)
        self._say(f"{name}: next tick {instant_text(upcoming) if upcoming else 'never'}")

    def _add(self, kind: str, name: str, trigger: Any) -> Any:
        return self._scheduler.add_job(
            fire, trigger, id=_job_id(kind, name), args=[name], name=name, replace_existing=True
        )

    def _add_once(self, name: str, when: datetime) -> None:
        # With a zone, as APScheduler asks for the machine's otherwise, which fails for TZ=CST-8.
        self._add(_RETRY, name, DateTrigger(when, timezone.utc))

    def _plan_again(self, schedule: Schedule, started: datetime, code: int) -> None:
        """Plan the next try of the latest tick, unless it has succeeded or the next comes first.

        `started` is when the process was started that has ended with `code`. A tick that came
        later, and was not tried, is run at once; one for which someone else held the lock, soon.
        """
        now, name = _now(), schedule.name
        history = catalog.read_history(name)
        tick = unfinished_tick(schedule, history, now)
        if tick is None or name not in self._known:
            return
        result = history.of(tick)
        is_untried = result is None and tick.timestamp() > started.timestamp()
        if result is None and code == ExitCode.BUSY:
            self._try_again(name, now + _BUSY_DELAY)
        elif is_untried:
            self._add_once(name, now)
        elif self._delays and code != ExitCode.USAGE:
            tries = 1 if result is None else result.tries
            again = now + timedelta(seconds=self._delays[min(tries, len(self._delays)) - 1])
            upcoming = next(ticks_after(schedule.cron, zone(schedule.timezone), now), None)
            if upcoming is None or again < upcoming:
                self._try_again(name, again)

    def _try_again(self, name: str, when: datetime) -> None:
        self._add_once(name, when)
        self._say(f"{name}: is tried again at {when:%H:%M:%S} UTC")

    def _was_running(self, event: JobEvent) -> None:
        name = event.job_id.partition(":")[2]
        self._say(f"{name}: is running; what is due comes after it")

    # ====== The end ======

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()

    def _shut_down(self) -> None:
        """Send SIGTERM to what runs, and wait for it."""
        self._stop.set()
        with self._guard:  # what is being started is among them, and nothing starts from here on
            children = dict(self._children)
        for name, child in children.items():
            self._say(f"{name}: is ended")
            child.terminate()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        self._say("no longer serving")


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """Tells of the error that ends its thread: nothing would be started any more, unnoticed."""

    def __init__(self, fail: Callable[[Exception], None], **settings: Any) -> None:
        self._fail = fail
        super().__init__(**settings)

    def _main_loop(self) -> None:
        try:
            super()._main_loop()
        except Exception as error:
            self._fail(error)


def _scheduler(fail: Callable[[Exception], None]) -> BackgroundScheduler:
    # What it has to say of its jobs we say ourselves.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    catalog.make_folder()
    return _Scheduler(
        fail,
        jobstores={"default": SQLAlchemyJobStore(URL.create("sqlite", database=_store_path()))},
        executors={"default": ThreadPoolExecutor(_THREADS)},
        # However late, and once for all that was missed.
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        timezone=timezone.utc,
    )


def _start_run(schedule: Schedule) -> subprocess.Popen[bytes]:
    """Start what cron would. It has a session of its own: signals come from here alone."""
    return subprocess.Popen(
        schedule.pai("schedule", "run", schedule.name),
        env=environment_with(schedule.environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _store_path() -> str:
    return os.path.join(catalog.folder(), "serve.sqlite")


def _job_id(kind: str, name: str) -> str:
    return f"{kind}:{name}"


def _now() -> datetime:
    return datetime.now(timezone.utc)
