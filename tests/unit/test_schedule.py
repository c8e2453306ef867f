"""When nights and dawns are due, in any zone, through both changes of summer time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.config import Schedule
from fleetssd.schedule import MISSED, NextTimes, dawn_due, next_times, night_due

PLAIN = Schedule()
BERLIN = Schedule(timezone="Europe/Berlin", night="02:30")
LATE = Schedule(night="23:00", dawn="7:05")
YESTERDAY = datetime(2026, 11, 21, 2, 0, 5, tzinfo=UTC)


def at(hour: int, minute: int = 0, second: int = 0, *, day: int = 22) -> datetime:
    """Return a moment of November 2026 in UTC."""
    return datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


# --- nights


def test_night_is_due_at_its_hour() -> None:
    """Not a second before two, and from two on."""
    assert night_due(at(1, 59, 59), PLAIN, YESTERDAY) is None
    assert night_due(at(2), PLAIN, YESTERDAY) == date(2026, 11, 22)


def test_night_that_started_is_not_due_again() -> None:
    """A date has one night, however often the clock is looked at."""
    assert night_due(at(2, 0, 15), PLAIN, at(2)) is None
    assert night_due(at(7), PLAIN, at(2)) is None


def test_missed_night_runs_late() -> None:
    """A daemon that was down at two makes up for it until eight, and not after."""
    assert night_due(at(7, 59, 59), PLAIN, YESTERDAY) == date(2026, 11, 22)
    assert night_due(at(8), PLAIN, YESTERDAY) is None


def test_new_daemon_has_missed_nothing() -> None:
    """Before the first night only its very hour starts one: a daemon installed at five waits."""
    assert night_due(at(2, 5), PLAIN, None) == date(2026, 11, 22)
    assert night_due(at(5), PLAIN, None) is None


def test_night_by_hand_counts_for_its_date() -> None:
    """A night that an operator started an hour before its time is that date's night."""
    assert night_due(at(2), PLAIN, at(1)) is None
    assert night_due(at(2, day=23), PLAIN, at(14)) == date(2026, 11, 23)


def test_late_night_past_midnight_counts_for_the_day_before() -> None:
    """A night of 23:00 that was made up for at 01:30 leaves the next 23:00 free."""
    assert night_due(at(1, 30, day=23), LATE, at(23, day=21)) == date(2026, 11, 22)
    assert night_due(at(23, day=23), LATE, at(1, 30, day=23)) == date(2026, 11, 23)


def test_clock_that_went_back_starts_nothing() -> None:
    """A night that started in what is now the future is not repeated."""
    assert night_due(at(2), PLAIN, at(3)) is None


def test_schedule_that_is_off_is_never_due() -> None:
    """Switched off means off."""
    off = Schedule(enabled=False)
    assert night_due(at(2), off, YESTERDAY) is None
    assert dawn_due(at(6), off, at(2)) is None
    assert next_times(at(2), off) == NextTimes(None, None)


def test_hours_are_local() -> None:
    """Half past two in Berlin is half past one UTC in winter, half past midnight in summer."""
    assert night_due(at(1, 30), BERLIN, YESTERDAY) == date(2026, 11, 22)
    assert night_due(at(1, 29, 59), BERLIN, YESTERDAY) is None
    summer = datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
    assert night_due(summer, BERLIN, summer - timedelta(days=1)) == date(2026, 7, 1)


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
def test_change_of_summer_time_has_one_night(day: date) -> None:
    """On a date whose half past two is missing, or comes twice, exactly one night runs."""
    now = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    last, nights = now - timedelta(hours=21, minutes=30), []
    for _ in range(24 * 4):
        due = night_due(now, BERLIN, last)
        if due:
            nights.append(due)
            last = now
        now += timedelta(minutes=15)
    assert nights == [day]


@given(
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
    hour=st.integers(0, 23),
    start=st.datetimes(datetime(2011, 12, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    steps=st.lists(st.integers(1, 40 * 60), min_size=1, max_size=60),
)
def test_no_date_has_two_nights(zone: str, hour: int, start: datetime, steps: list[int]) -> None:
    """Wherever, whenever, and however rarely the clock is looked at: no date is due twice, and dates only go up."""
    schedule = Schedule(timezone=zone, night=f"{hour:02}:00")
    now, last, nights = start.replace(tzinfo=UTC), None, []
    for step in steps:
        due = night_due(now, schedule, last)
        if due is not None:
            nights.append(due)
            last = now
        now += timedelta(minutes=step)
    assert nights == sorted(set(nights))


# --- dawns


def test_dawn_is_due_once_it_came_after_the_night() -> None:
    """Six o'clock after a night of two is due, and stays so until the next night."""
    assert dawn_due(at(5, 59, 59), PLAIN, at(2)) is None
    assert dawn_due(at(6), PLAIN, at(2)) == date(2026, 11, 22)
    assert dawn_due(at(20), PLAIN, at(2)) == date(2026, 11, 22)


def test_night_in_the_afternoon_waits_for_the_next_dawn() -> None:
    """What an operator starts at two in the afternoon wakes up tomorrow."""
    assert dawn_due(at(20), PLAIN, at(14)) is None
    assert dawn_due(at(6, day=23), PLAIN, at(14)) == date(2026, 11, 23)


def test_there_is_no_dawn_without_a_night() -> None:
    """Where no night ever ran there is nothing to wake up on."""
    assert dawn_due(at(6), PLAIN, None) is None


# --- the next times


def test_next_times_are_after_now() -> None:
    """At two sharp the next night is tomorrow's and the next dawn today's."""
    assert next_times(at(2), PLAIN) == NextTimes(at(2, day=23), at(6))
    assert next_times(at(1), LATE) == NextTimes(at(23), at(7, 5))


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_next_night_is_due_when_it_comes(now: datetime) -> None:
    """The moment that the page announces is a moment at which the night is due."""
    coming = next_times(now, BERLIN).night
    assert coming is not None
    assert now < coming <= now + timedelta(hours=25)
    assert night_due(coming, BERLIN, coming - timedelta(hours=20)) is not None
    assert night_due(coming - timedelta(seconds=1), BERLIN, coming - timedelta(hours=20)) is None
    assert timedelta(hours=20) > MISSED
