"""APScheduler's view of our ticks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from apscheduler.triggers.base import BaseTrigger

from pai_runner.schedule.ticks import latest_tick, ticks_after
from pai_runner.schedule.zones import zone


class CronTicks(BaseTrigger):  # type: ignore[misc]
    """The ticks of a canonical expression in the zone of that name; six fields name seconds.

    APScheduler's own CronTrigger numbers the days of the week from Monday, and does otherwise
    than cron when clocks change.
    """

    __slots__ = ("cron", "timezone")

    def __init__(self, cron: str, timezone: str) -> None:
        self.cron = cron
        self.timezone = timezone

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """Return the tick after `previous`; of those that were missed, the latest."""
        following = next(ticks_after(self.cron, zone(self.timezone), previous or now), None)
        if following is None or following.timestamp() > now.timestamp():
            return following
        return latest_tick(self.cron, zone(self.timezone), now)

    def __getstate__(self) -> dict[str, str]:
        return {"cron": self.cron, "timezone": self.timezone}

    def __setstate__(self, state: Mapping[str, str]) -> None:
        self.cron = state["cron"]
        self.timezone = state["timezone"]

    def __str__(self) -> str:
        return f"{self.cron} {self.timezone}"
