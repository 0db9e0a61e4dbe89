"""`pai schedule VERB NAME`: runs files of PAI commands at the times of a cron expression."""

from __future__ import annotations

from collections.abc import Sequence

from pai_runner.cli.verbs import run_verb

VERBS = {
    "install": ("schedule_install", "install", "have a file run: by cron, systemd or serve"),
    "ls": ("schedule_ls", "ls", "list the schedules, their next ticks and last results"),
    "rm": ("schedule_install", "rm", "remove a schedule, and what install wrote"),
    "next": ("schedule_ls", "upcoming", "print the next ticks of a schedule"),
    "run-now": ("schedule_run", "run_now", "run a schedule's file for the tick of this minute"),
    "run": ("schedule_run", "run", "run what is due; this is what cron and systemd start"),
    "serve": ("schedule_serve", "run", "run the schedules in this process, without cron"),
}


def run(arguments: Sequence[str]) -> int:
    """Run the verb that comes first. Returns the exit code."""
    about = "the name of a schedule, as `pai schedule ls` shows it."
    return run_verb("schedule", VERBS, about, arguments, subject="NAME")
