"""What starts a schedule's runs, one word for each: catalog.BACKENDS."""

from __future__ import annotations

from pai_runner.errors import PaiError
from pai_runner.schedule import catalog, crontab, systemd
from pai_runner.schedule.catalog import Schedule

_SERVED = "`pai schedule serve` runs it, as long as that is running"


def preview(schedule: Schedule) -> list[tuple[str, str]]:
    """Return what `install` will write beside the record: pairs of a place and a text.

    Raises UsageError where the backend cannot do what the schedule says.
    """
    if schedule.backend == "crontab":
        return crontab.preview(schedule)
    if schedule.backend == "serve":
        return []
    return systemd.preview(schedule)


def install(schedule: Schedule) -> list[str]:
    """Put a schedule on record and have its ticks run. Returns what the user should know.

    Raises PaiError. Whatever is raised, nothing is left behind.
    """
    catalog.write(schedule)
    try:
        if schedule.backend == "crontab":
            return crontab.install(schedule)
        if schedule.backend == "serve":
            return [_SERVED]
        return systemd.install(schedule)
    except BaseException:  # Ctrl-C as well
        catalog.remove(schedule.name)
        raise


def remove(name: str, schedule: Schedule | None) -> list[str]:
    """Undo what `install` did. Returns what the user should know. Raises PaiError.

    `schedule` is None where the record is damaged and does not tell: then all backends are looked
    through.
    """
    notes = []
    if schedule is None:
        notes += _remove_everywhere(name)
    elif schedule.backend == "crontab":
        notes += crontab.remove(name)
    elif schedule.backend != "serve":
        notes += systemd.remove(name, schedule.backend == "systemd-system", schedule.units)
    catalog.remove(name)
    return notes


def _remove_everywhere(name: str) -> list[str]:
    notes = []
    try:
        notes += crontab.remove(name)
    except PaiError as error:
        notes.append(str(error))  # a machine without cron has no line in a crontab
    for is_system in (False, True):
        notes += systemd.remove(name, is_system, None)
    return notes
