"""`pai`: finds the verb, runs it, and turns what comes out of it into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pai_runner.errors import ExitCode, PaiError, UsageError, nearest

# verb -> (module that holds `run(arguments) -> int`, what it does in a line)
VERBS = {
    "explain": ("explain", "print what a command would run, without running it"),
    "parse": ("parse", "print the statements of a command"),
    "jobs": ("jobs", "list jobs, newest first"),
    "status": ("status", "show a job's record"),
    "logs": ("logs", "print a job's output; -f follows it"),
    "cancel": ("cancel", "end a job"),
    "runs": ("runs", "list runs: commands with their dates, attempts and results"),
    "backfill": ("backfill", "run a file of commands for a range of dates"),
    "rerun": ("rerun", "run a recorded command, or a whole run, again"),
    "models": ("models", "list, show, verify, prune and roll back exported models"),
    "schedule": ("schedule", "run files of PAI commands at the times of a cron expression"),
    "storage": ("storage", "list, copy, sync and remove files in buckets and on disks"),
    "top": ("top", "watch the jobs that run"),
    "tensorboard": ("tensorboard", "start TensorBoard on the events of a job or a location"),
    "doctor": ("doctor", "check this machine and the locations given"),
    "help": ("help", "help on: parameters, environment, exit-codes, algorithms"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pai` with `arguments` (default: the process's) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_streams()
    try:
        return _dispatch(words)
    except PaiError as error:
        from pai_runner.cli.output import say_error

        say_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output is gone (`pai jobs | head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return 128 + 2


def _open_standard_streams() -> None:
    """Give what was closed (`>&-`) to /dev/null, before a file or pipe of ours takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h"):
        from pai_runner.cli.help import general_help

        print(general_help())
        return ExitCode.OK if words else ExitCode.USAGE
    if words[0] == "--version":
        from pai_runner import __version__

        print(f"pai {__version__}")
        return ExitCode.OK
    if words[0].startswith("-"):
        verb, rest = "job", words
    else:
        verb, rest = _verb(words[0]), words[1:]
    return int(import_module(f"pai_runner.cli.{verb}").run(rest))


def _verb(word: str) -> str:
    if word in VERBS:
        return VERBS[word][0]
    if word.strip().lower().startswith("pai "):
        raise UsageError("a whole command was given as one word", f"write: pai -e '{word}'")
    close = nearest(word, VERBS)
    meant = f"; did you mean `{close[0]}`?" if close else ""
    raise UsageError(f"there is no verb `{word}`{meant}", f"verbs: {', '.join(VERBS)}")


if __name__ == "__main__":
    sys.exit(main())
