"""Deadlines: so many hours later, of all hours or of those in which people work. Pure."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from services.approvals.domain.rules import BusinessHours


def after(start: datetime, hours: float, business: BusinessHours | None) -> datetime:
    """The moment so many hours after `start`, UTC; of business hours only those count.

    Business hours are of the clock on the wall: a day on which that is put forward or back has as many as any other.
    """
    left = timedelta(hours=hours)
    if business is None:
        return start + left
    zone = ZoneInfo(business.time_zone)
    wall = start.astimezone(zone).replace(tzinfo=None)
    while True:
        opens, closes = datetime.combine(wall, business.start), datetime.combine(wall, business.end)
        if wall.isoweekday() in business.weekdays and wall < closes:
            begins = max(wall, opens)
            if begins + left <= closes:
                return (begins + left).replace(tzinfo=zone).astimezone(UTC)
            left -= closes - begins
        wall = datetime.combine(wall.date() + timedelta(days=1), business.start)
