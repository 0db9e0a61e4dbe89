"""The options of `pai` that concern a whole run: retries, locks, dates, messages."""

from __future__ import annotations

import argparse

from pai_runner.cli.numbers import natural, positive
from pai_runner.errors import UsageError
from pai_runner.run.options import parse_duration
from pai_runner.runs.options import (
    EVENTS,
    FAILURES,
    IF_RUNNING,
    PERIODS,
    Retries,
    RunOptions,
    checked_name,
    choices,
    pattern,
    waits,
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take the options of a run."""
    group = parser.add_argument_group("runs")
    group.add_argument("--name", metavar="NAME", help="the run's name; default the job's")
    group.add_argument(
        "--keep-going", action="store_true", help="go on behind a command that fails"
    )
    group.add_argument(
        "--retries", type=natural, metavar="N", help="try a command again, up to N times"
    )
    group.add_argument(
        "--retry-on",
        metavar="LIST",
        help=f"what is tried again, of {', '.join(FAILURES)}; default failure,lost,timeout",
    )
    group.add_argument(
        "--preemptions",
        type=natural,
        metavar="N",
        help="how often one is tried again that was killed from outside; default as --retries",
    )
    group.add_argument(
        "--backoff", metavar="A..B", help="the first and the longest wait; default 60s..30m"
    )
    group.add_argument(
        "--transient",
        action="append",
        default=[],
        metavar="P",
        help="an exit code, or a pattern of the last lines, that is tried again; repeatable",
    )
    group.add_argument(
        "--fatal", action="append", default=[], metavar="P", help="one that is not; repeatable"
    )
    group.add_argument("--lock", metavar="NAME", help="run while no other run has this lock")
    group.add_argument(
        "--if-running", choices=IF_RUNNING, help="what to do when one has; default skip (code 75)"
    )
    group.add_argument(
        "--lock-wait", type=parse_duration, metavar="T", help="wait no longer than 2h; then code 75"
    )
    group.add_argument(
        "--once-per",
        choices=PERIODS,
        help="succeed once per name and date: do nothing when that was done",
    )
    group.add_argument("--force", action="store_true", help="do it again all the same")
    group.add_argument(
        "--max-running",
        type=positive,
        metavar="N",
        help="wait while N runs that say so are under way on this machine",
    )
    group.add_argument(
        "--notify",
        action="append",
        default=[],
        metavar="T",
        help="tell a webhook (URL), a command, or what env:NAME holds; repeatable",
    )
    group.add_argument(
        "--notify-on",
        metavar="LIST",
        help=f"of {', '.join(EVENTS)}; default failure,recovery",
    )
    group.add_argument("--json", action="store_true", help="end with a line of JSON: the run")


def run_options_of(options: argparse.Namespace) -> RunOptions:
    """Return what `add_run_arguments` read. Raises UsageError."""
    from pai_runner.runs.notifying import target

    if options.lock is None and (options.if_running or options.lock_wait is not None):
        raise UsageError("--if-running and --lock-wait concern a lock", "name it: --lock NAME")
    if options.lock_wait is not None and options.if_running == "skip":
        raise UsageError("--lock-wait does not go with --if-running skip", "leave one of them out")
    if options.notify_on and not options.notify:
        raise UsageError("--notify-on concerns --notify", "say whom to tell: --notify URL")
    if options.force and options.once_per is None:
        raise UsageError("--force concerns --once-per", "leave it out")
    for text in options.notify:
        target(text)
    default = RunOptions()
    return RunOptions(
        name=checked_name(options.name) if options.name else None,
        keeps_going=options.keep_going,
        retries=_retries(options),
        lock=checked_name(options.lock) if options.lock else None,
        if_running=options.if_running
        or (default.if_running if options.lock_wait is None else "wait"),
        lock_seconds=options.lock_wait,
        once_per=options.once_per,
        is_forced=options.force,
        most_running=options.max_running,
        notify=tuple(options.notify),
        notify_on=choices(options.notify_on, EVENTS, "event")
        if options.notify_on
        else default.notify_on,
    )


def _retries(options: argparse.Namespace) -> Retries:
    most = options.retries or 0
    is_retried = options.retries is not None or options.preemptions is not None
    if not is_retried and (options.retry_on or options.backoff or options.transient):
        raise UsageError("--retry-on, --backoff and --transient concern retries", "add --retries N")
    default = Retries()
    by_default = default.first_wait, default.longest_wait
    first, longest = waits(options.backoff) if options.backoff else by_default
    return Retries(
        most=most,
        preemptions=most if options.preemptions is None else options.preemptions,
        kinds=choices(options.retry_on, FAILURES, "failure") if options.retry_on else default.kinds,
        first_wait=first,
        longest_wait=longest,
        transient=tuple(map(pattern, options.transient)),
        fatal=tuple(map(pattern, options.fatal)),
    )
