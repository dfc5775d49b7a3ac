"""The time, so that what depends on it is found in one place and tests can set it."""

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo


def now() -> datetime:
    """This moment, UTC."""
    return datetime.now(UTC)


def day_start(day: date, time_zone: str) -> datetime:
    """The moment `day` begins in the zone, UTC. Where midnight is skipped by a clock change, the first one after."""
    return datetime.combine(day, time.min, ZoneInfo(time_zone)).astimezone(UTC)
