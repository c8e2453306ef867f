"""What is asked of calls: how they ended, what served when, and moments as people write them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.errors import Rejected
from fleetssd.telemetry import CallEnd, MergeRate, failed, read_moment, served_at, tally

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
GOOD = CallEnd("/api/chat", 200, "", "stop", False, 2 * 10**9)


def test_a_window_is_counted() -> None:
    """Failures, empty answers and cut ones are counted, and only answers have a time."""
    ends = [
        GOOD,
        replace(GOOD, empty=True),
        replace(GOOD, finish="length"),
        replace(GOOD, fault="cut"),
        replace(GOOD, status=500, fault="engine"),
        replace(GOOD, status=404, fault="engine"),
        replace(GOOD, status=0, fault="gone"),
    ]
    found = tally(ends, MergeRate(3, 1))
    assert (found.calls, found.errors, found.empty, found.capped, found.tasks, found.merged) == (7, 4, 1, 1, 3, 1)
    assert found.seconds == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"fault": "refused", "status": 429},
        {"status": 400, "fault": "engine"},
        {"path": "/api/embed"},
        {"finish": "load"},
        {"finish": "unload"},
    ],
)
def test_what_says_nothing_of_a_checkpoint_is_left_out(changes: Any) -> None:
    """Refusals of the gateway, wrong requests, embeddings and loads are no call of a window."""
    assert tally([replace(GOOD, **changes)]).calls == 0


@given(st.integers(0, 599), st.sampled_from(["", "engine", "away", "cut", "gone", "late"]))
def test_a_call_failed_or_was_answered(status: int, fault: Any) -> None:
    """Only a good status without a fault is an answer."""
    assert failed(status, fault) == (fault != "" or not 200 <= status < 400)


def checkpoint(name: str) -> Checkpoint:
    """Return a checkpoint."""
    return Checkpoint(name, "base" if name == "base" else "merged", name, name, None, "none", 1.0, 1, NOW)


def move(number: int, to: str, origin: str, hours: float, *, done: bool = True) -> Swap:
    """Return a flip, so many hours after NOW."""
    return Swap(number, "flip", "dawn", origin, to, to, 1, "", {}, NOW + timedelta(hours=hours), done)


def test_the_swap_log_says_what_served_when() -> None:
    """Before the first move its origin served, after each its target; what was never proven does not count."""
    points = [checkpoint(name) for name in ("base", "one", "two")]
    log = [move(1, "one", "base", 1), move(2, "two", "one", 2), move(3, "base", "two", 3, done=False)]
    found = [served_at(log, points, NOW + timedelta(hours=hours)) for hours in (0.5, 1, 1.5, 2.5, 3.5)]
    assert [point and point.digest for point, _ in found] == ["base", "one", "one", "two", "two"]
    assert [line and line.id for _, line in found] == [None, 1, 1, 2, 2]
    assert served_at([], points, NOW)[0] == points[0]
    assert served_at([], [], NOW) == (None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("03:12", datetime(2026, 11, 22, 3, 12, tzinfo=UTC)),
        ("3:12", datetime(2026, 11, 22, 3, 12, tzinfo=UTC)),
        ("23:12", datetime(2026, 11, 21, 23, 12, tzinfo=UTC)),
        ("2026-11-20 03:12", datetime(2026, 11, 20, 3, 12, tzinfo=UTC)),
        ("2026-11-20T03:12:00+01:00", datetime(2026, 11, 20, 2, 12, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("1.5d", NOW - timedelta(hours=36)),
    ],
)
def test_moments_are_read_as_people_write_them(text: str, moment: datetime) -> None:
    """A clock time is the last one that was; what names no zone is UTC."""
    assert read_moment(text, NOW) == moment


@given(st.text(max_size=20))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    """Whatever is written gives an aware moment or one sentence that says how to write it."""
    try:
        moment = read_moment(text, NOW)
    except Rejected as error:
        moment, said = NOW, error.message
        assert "is no moment" in said
    assert moment.tzinfo is not None
