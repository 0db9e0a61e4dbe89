"""`pai schedule install FILE` and `rm NAME`: have a file of PAI commands run at its times."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Collection, Sequence
from datetime import datetime, timezone

from pai_runner.cli.command_input import split_arguments
from pai_runner.cli.job import job_parser
from pai_runner.cli.output import print_json, say
from pai_runner.cli.run_arguments import run_options_of
from pai_runner.cli.schedule_run import catch_up_count
from pai_runner.errors import SetupError, UsageError
from pai_runner.jobs.directory import home
from pai_runner.runs.notifying import recordable, variable
from pai_runner.schedule import backends, catalog, locks, systemd
from pai_runner.schedule.catalog import Schedule
from pai_runner.schedule.due import ONCE_PER_TICK
from pai_runner.schedule.ticks import canonical, instant_text, next_ticks
from pai_runner.schedule.zones import default_zone, zone
from pai_runner.secret import MASK, is_secret_name, redact_secrets

# Options of `pai` that are the schedule's own.
_OWN_OPTIONS = ("-e", "-f", "--cyctime", "--timezone", "--name", "--detach")
_CHANGES_SHOWN = 3
# Settings that a run by hand finds in its environment, and one of a schedule does not.
_SETTINGS = ("ALIBABA_CLOUD_", "AWS_", "OSS_", "PAI_")


def install(arguments: Sequence[str]) -> int:
    """Put a schedule on record and have it run. Returns the exit code."""
    ours, for_pai = _split(arguments)
    options = _install_parser().parse_args(ours)
    schedule = _schedule(options, for_pai)
    zone_of = zone(schedule.timezone)
    with locks.changing():
        if schedule.name in catalog.names():
            raise UsageError(
                f"there is a schedule {schedule.name} already",
                f"remove it with `pai schedule rm {schedule.name}`, or give another --name",
            )
        shown = _shown(schedule)
        if options.dry_run:
            print(shown, end="")
            return 0
        if not options.yes:
            _ask(shown)
        notes = backends.install(schedule)
    if options.json:
        print_json({**schedule.to_json(), "notes": notes})
        return 0
    for note in [*notes, *_missing_settings(schedule)]:
        say(note)
    ticks = next_ticks(schedule.cron, zone_of, datetime.now(timezone.utc), _CHANGES_SHOWN)
    upcoming = ", ".join(map(instant_text, ticks)) or "never"
    print(f"schedule {schedule.name} is installed; next: {upcoming}")
    return 0


def rm(arguments: Sequence[str]) -> int:
    """Remove a schedule. Returns the exit code."""
    parser = argparse.ArgumentParser(
        "pai schedule rm",
        description="Removes a schedule and what install wrote for it. A log stays.",
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    name = options.name
    if catalog.check_name(name) not in catalog.names():
        catalog.read(name)  # says so
    with locks.changing(), locks.running(name):
        try:
            schedule: Schedule | None = catalog.read(name)
        except SetupError as error:
            say(str(error))
            schedule = None
        notes = backends.remove(name, schedule)
    if options.json:
        print_json({"name": name, "removed": True, "notes": notes})
        return 0
    for note in notes:
        say(note)
    print(f"schedule {name} is removed")
    return 0


# ====== What is asked for ======


def _install_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pai schedule install",
        usage="pai schedule install FILE --cron EXPR [OPTIONS] [-- OPTIONS FOR PAI]",
        description="Has a file of PAI commands run at the times of a cron expression. What is "
        "written is shown first.",
        epilog="Words after -- go to `pai` at each run, as: -- --retries 3 --timeout 6h",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="a file of PAI commands")
    add("--cron", required=True, metavar="EXPR", help='five fields, as "0 2 * * *", or @daily')
    add("--name", metavar="NAME", help="default: the file's name")
    add("--timezone", metavar="Z", help="an IANA name; default: this machine's zone")
    add("--catch-up", type=catch_up_count, default=1, metavar="N", help=_CATCH_UP_HELP)
    add("--env", action="append", default=[], metavar="NAME", help=_ENVIRONMENT_HELP)
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--crontab", action="store_true", help="a line in your crontab; the default")
    ways.add_argument("--systemd", action="store_true", help="a timer and a service of systemd")
    ways.add_argument("--serve", action="store_true", help="it runs by `pai schedule serve`")
    add("--system", action="store_true", help="with --systemd: the system's, not your own")
    add("--yes", "-y", action="store_true", help="write without a question")
    add("--dry-run", action="store_true", help="only show what would be written")
    add("--json", action="store_true", help="print JSON")
    return parser


_CATCH_UP_HELP = "run of the last N ticks those that have not succeeded; default 1, the latest"
_ENVIRONMENT_HELP = "let its runs have this variable as it is now; repeatable; no secrets"


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words for us and those for `pai`, which stand behind `--`."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _schedule(options: argparse.Namespace, for_pai: list[str]) -> Schedule:
    """Return the schedule that is asked for. Raises UsageError."""
    file = os.path.abspath(os.path.expanduser(options.file))
    if not (os.path.isfile(file) and os.access(file, os.R_OK)):
        raise UsageError(f"{file} is not a file that can be read", "give a file of PAI commands")
    _check_words(for_pai)
    notified = _notified(file, for_pai)
    if options.system and not options.systemd:
        raise UsageError("--system is for --systemd", "write: --systemd --system")
    schedule = Schedule(
        name=catalog.check_name(options.name or _name_of(file)),
        file=file,
        folder=os.getcwd(),
        cron=canonical(options.cron, with_seconds=options.serve),
        timezone=str(zone(options.timezone or default_zone())),
        backend=_backend(options),
        created=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        python=sys.executable,
        options=tuple(for_pai),
        environment=_environment(options.env, notified),
        catch_up=options.catch_up,
        units=systemd.units_folder(options.system) if options.systemd else None,
    )
    _check_utf8(schedule)
    return schedule


def _backend(options: argparse.Namespace) -> str:
    if options.systemd:
        return "systemd-system" if options.system else "systemd-user"
    return "serve" if options.serve else "crontab"


def _name_of(file: str) -> str:
    """Return the file's name without its ending, as a schedule may be called."""
    stem = os.path.splitext(os.path.basename(file))[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_") or "schedule"


def _check_utf8(schedule: Schedule) -> None:
    """Raise UsageError where a path cannot be on record, which is UTF-8."""
    paths = schedule.file, schedule.folder, schedule.python, schedule.units or ""
    for text in (*paths, *schedule.options, *schedule.environment.values()):
        data = os.fsencode(text)
        try:
            data.decode()
        except UnicodeDecodeError:
            shown = data.decode(errors="backslashreplace")
            raise UsageError(
                f"{shown} is not UTF-8, and cannot be on record", "rename the folder or the file"
            ) from None


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if word.partition("=")[0] in _OWN_OPTIONS:
            raise UsageError(f"{word} stands for itself in a schedule", "leave it out")
    names = (word.partition("=")[0].lstrip("-") for word in words)
    text = shlex.join(words)
    if any(map(is_secret_name, names)) or redact_secrets(text) != text:
        raise UsageError(
            "the options for pai hold a secret, and would be on record",
            "keep keys in the usual files: ~/.aws/credentials, ~/.aliyun/config.json",
        )


def _notified(file: str, words: Sequence[str]) -> set[str]:
    """Read the options for `pai` as `pai` will; return the variables that name who is notified.

    Raises UsageError for what `pai` would not take, and for a URL that would be on record.
    """
    options, more = split_arguments(job_parser(), ["-f", file, *ONCE_PER_TICK, *words])
    if more:
        raise UsageError(f"`pai -f FILE` does not take {more[0]}", "`pai --help` lists its options")
    for text in options.notify:
        if not recordable(text):
            raise UsageError(
                "--notify names a URL, which is a secret and would be on record",
                "name a command that reads the URL from a file, or env:NAME with the variable set "
                "where the scheduler runs",
            )
    variables = {name for name in map(variable, options.notify) if name is not None}
    # These are set where it runs; here they need not be.
    options.notify = [text for text in options.notify if variable(text) is None]
    run_options_of(options)
    return variables


def _environment(kept: Sequence[str], notified: Collection[str]) -> dict[str, str]:
    """Return what is set at each run: what leads here, PATH, and what the user names."""
    folder = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = {
        "PAI_HOME": home(),
        "PATH": os.pathsep.join([folder, *(one for one in path if one not in ("", folder))]),
    }
    if os.environ.get("PYTHONPATH"):
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        found["PYTHONPATH"] = os.pathsep.join(os.path.abspath(one) for one in entries if one)
    for name in kept:
        found[name] = _kept_value(name, name in notified)
    return found


def _kept_value(name: str, is_notified: bool) -> str:
    value = os.environ.get(name)
    if value is None:
        raise UsageError(f"--env {name}: it is not set here", f"write: {name}=… pai schedule …")
    if is_notified and not recordable(value):
        raise UsageError(
            f"the variable {name} holds a URL to notify, which is not put on record",
            f"set {name} where the scheduler runs, or name a command that reads a file",
        )
    if is_secret_name(name) or MASK in redact_secrets(f"{name}={value}"):
        raise UsageError(
            f"the variable {name} holds a secret, which is not put on record",
            "keep keys in the usual files: ~/.aws/credentials, ~/.aliyun/config.json",
        )
    return value


def _missing_settings(schedule: Schedule) -> list[str]:
    names = sorted(
        name
        for name in os.environ
        if name.startswith(_SETTINGS) and name not in schedule.environment
    )
    if not names:
        return []
    return [f"its runs do not have {', '.join(names)}, which are set here; --env NAME keeps one"]


# ====== What is shown ======


def _shown(schedule: Schedule) -> str:
    """Return what will be written, for people. Raises UsageError where that cannot be."""
    command = shlex.join(["pai", "-f", schedule.file, *schedule.options])
    parts = [("at each tick, in " + schedule.folder, command + "\n"), *backends.preview(schedule)]
    return "".join(f"# {place}\n{text}\n" for place, text in parts)


def _ask(shown: str) -> None:
    """Show what will be written, and go on if the user agrees. Raises UsageError if not."""
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask at",
            "add --yes to write it, or --dry-run to see what would be written",
        )
    print(shown, end="")
    print("pai: Write this? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was written", "answer y, or add --yes")
