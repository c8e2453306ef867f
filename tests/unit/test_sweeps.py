"""Pages and windows of lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import sweeps
from fleetssd.gitea import PullKey, PullRow


def row(number: int, updated_at: str) -> PullRow:
    """Make a row that matters only by its number and its time."""
    key = PullKey("http://forge", 1, number)
    return PullRow(key, "fleet/a", "", "", "agent-1", True, (), None, updated_at)


def test_a_short_page_is_not_the_end() -> None:
    """The server may cut `limit` in silence, so only an empty page or the total ends a sweep."""
    assert sweeps.next_page(1, 10, 10, 25) == 2
    assert sweeps.next_page(3, 5, 25, 25) is None
    assert sweeps.next_page(2, 3, 53, None) == 3
    assert sweeps.next_page(4, 0, 20, 25) is None


@given(st.integers(0, 200), st.integers(1, 50), st.booleans())
def test_paging_reads_every_row_and_ends(total: int, cap: int, told: bool) -> None:
    """Whatever cap the server applies, walking the pages sees every row once."""
    rows, page, seen = list(range(total)), 1, list[int]()
    while True:
        found = rows[(page - 1) * cap : page * cap]
        seen += found
        following = sweeps.next_page(page, len(found), len(seen), total if told else None)
        if following is None:
            break
        page = following
    assert seen == rows


def test_windows_overlap() -> None:
    """A window starts a little before the cursor, since rows appear after their own time; the first has none."""
    cursor = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert sweeps.window_start(cursor, 300) == datetime(2026, 11, 21, 11, 55, tzinfo=UTC)
    assert sweeps.window_start(None, 300) is None


def test_only_new_and_moved_rows_are_looked_at() -> None:
    """A row is looked at once for every time it moves, however often pages repeat it."""
    rows = [row(1, "a"), row(2, "b"), row(2, "b"), row(3, "d")]
    seen = {row(1, "a").key: "a", row(3, "d").key: "c"}
    assert sweeps.unseen(rows, seen) == [row(2, "b"), row(3, "d")]


@pytest.mark.parametrize(
    ("total", "lists", "share", "more"),
    [(None, 1, 1.0, False), (50, 0, 1.0, False), (500, 3, 0.1, True), (500, 3, 1.0, False), (500, 10, 0.0, False)],
)
def test_the_cheaper_way_to_ask_is_counted(total: int | None, lists: int, share: float, *, more: bool) -> None:
    """Ten pages of a search against one request a list and pages for the wanted share; unknown totals search."""
    assert sweeps.searching_costs_more(total, 50, share, lists) is more


FIRST = datetime(2005, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 10**9).map(lambda second: FIRST + timedelta(seconds=second / 2))


@given(MOMENTS, MOMENTS, st.none() | st.timedeltas(timedelta(0), timedelta(days=999)))
def test_a_window_ends_at_a_second_between(low: datetime, high: datetime, span: timedelta | None) -> None:
    """Between two moments there is a whole second to end a window at, or they are within two seconds."""
    found = sweeps.middle(low, high, span)
    if found is None:
        assert high - low <= timedelta(seconds=2)
    else:
        assert low < found < high
        assert found.microsecond == 0


def test_a_window_is_first_tried_as_long_as_the_last() -> None:
    """Where the last window's length fits it is tried, else the middle."""
    low = datetime(2026, 1, 1, tzinfo=UTC)
    assert sweeps.middle(low, low + timedelta(days=8), timedelta(days=1)) == low + timedelta(days=1)
    assert sweeps.middle(low, low + timedelta(days=8), timedelta(days=9)) == low + timedelta(days=4)
