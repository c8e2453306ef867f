"""When a night and a dawn are due: moments in, decisions out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from fleetssd.config import Schedule

MISSED = timedelta(hours=6)
"""A night that the daemon slept through still runs this long after its hour; later it waits for the next one."""
FIRST = timedelta(minutes=15)
"""Before the first night nothing can have been missed: a daemon that is new at 05:00 waits for its hour."""


@dataclass(frozen=True, slots=True)
class NextTimes:
    """The next night and dawn, in UTC; None where the schedule is off."""

    night: datetime | None
    dawn: datetime | None


def night_due(now: datetime, schedule: Schedule, last_night_started: datetime | None) -> date | None:
    """Return the local date whose night must start now, or None.

    A missed night is made up for within `MISSED`; a local date has one night at most, started by whomever.
    """
    if not schedule.enabled:
        return None
    zone, latest = _zone(schedule), _latest(now, schedule.night, _zone(schedule))
    grace = FIRST if last_night_started is None else MISSED
    if now - latest >= grace:
        return None
    day = latest.astimezone(zone).date()
    if last_night_started is not None and (last_night_started >= latest or _day(last_night_started, schedule) >= day):
        return None
    return day


def dawn_due(now: datetime, schedule: Schedule, last_night_started: datetime | None) -> date | None:
    """Return the local date of the dawn that has come since the last night started, or None.

    It stays due until the next night: a night that ends after dawn is not held back for a day.
    """
    if not schedule.enabled or last_night_started is None:
        return None
    zone = _zone(schedule)
    latest = _latest(now, schedule.dawn, zone)
    return latest.astimezone(zone).date() if latest > last_night_started else None


def next_times(now: datetime, schedule: Schedule) -> NextTimes:
    """Return the next night and the next dawn after now."""
    if not schedule.enabled:
        return NextTimes(None, None)
    zone = _zone(schedule)
    return NextTimes(_next(now, schedule.night, zone), _next(now, schedule.dawn, zone))


def _day(started: datetime, schedule: Schedule) -> date:
    """Return the date that a night counts for: a made-up night counts for the date that it was due on."""
    zone = _zone(schedule)
    latest = _latest(started, schedule.night, zone)
    return (latest if started - latest < MISSED else started).astimezone(zone).date()


def _latest(now: datetime, hour: str, zone: tzinfo) -> datetime:
    today = now.astimezone(zone).date()
    at = _moment(today, hour, zone)
    return at if at <= now else _moment(today - timedelta(days=1), hour, zone)


def _next(now: datetime, hour: str, zone: tzinfo) -> datetime:
    today = now.astimezone(zone).date()
    at = _moment(today, hour, zone)
    return at if at > now else _moment(today + timedelta(days=1), hour, zone)


def _moment(day: date, hour: str, zone: tzinfo) -> datetime:
    """Return a local hour of a date in UTC; an hour that the change to summer time skips is one hour later."""
    return datetime.combine(day, time.fromisoformat(_padded(hour)), zone).astimezone(UTC)


def _padded(hour: str) -> str:
    left, _, right = hour.partition(":")
    return f"{int(left):02}:{int(right):02}"


def _zone(schedule: Schedule) -> tzinfo:
    # A machine without a zone database still knows UTC.
    return UTC if schedule.timezone == "UTC" else ZoneInfo(schedule.timezone)
