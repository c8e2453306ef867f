"""The rolling window of training records."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fleetssd.buffer import leaving, window
from fleetssd.gitea import PullKey, PullRow
from fleetssd.records import Record, State, refused_row

START = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = refused_row(PullRow(PullKey("f", 1, 0), "fleet/a", "", "", "agent-1", True, (), START, ""), ())


def record(number: int, repository: int = 1, state: State = "train") -> Record:
    """Make the record that was merged as number `number`."""
    return replace(
        EMPTY, id=f"{number:03}", repository_id=repository, state=state, merged_at=START + timedelta(minutes=number)
    )


def ids(records: tuple[Record, ...]) -> list[str]:
    """Return the ids in order."""
    return [record.id for record in records]


def test_the_newest_are_in() -> None:
    """The window holds the newest training records, newest first, and says of the others that they are too old."""
    records = [record(n) for n in (2, 1, 3)]
    assert ids(window(records, 2, 2)) == ["003", "002"]
    assert leaving(records, 2, 9) == {"001": "the window holds the newest 2 records"}


def test_no_repository_fills_the_window() -> None:
    """Beyond its share a repository makes room for older records of others."""
    records = [record(1, 2), record(2), record(3), record(4)]
    assert ids(window(records, 3, 2)) == ["004", "003", "001"]
    assert leaving(records, 3, 2) == {"002": "fleet/a has 2 newer records, its share of the window"}


def test_only_training_records_are_in() -> None:
    """What is held out or refused neither enters nor leaves."""
    records = [record(1), record(2, state="held_out"), record(3, state="refused")]
    assert ids(window(records, 9, 9)) == ["001"]
    assert leaving(records, 9, 9) == {}


def test_records_of_one_moment_have_an_order() -> None:
    """Merges in the same second are ordered by id, so that the window is the same every time."""
    records = [replace(record(1), id="b"), replace(record(1), id="a")]
    assert ids(window(records, 1, 1)) == ["a"]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), max_size=30), st.integers(1, 10), st.integers(1, 10))
def test_the_window_is_full_but_never_over(parts: list[tuple[int, int]], size: int, share: int) -> None:
    """Every record is in or out, the limits hold, and a record is out only where a limit says so."""
    records = [replace(record(at, repository), id=f"{n}") for n, (at, repository) in enumerate(parts)]
    inside, outside = window(records, size, share), leaving(records, size, share)
    assert len(inside) + len(outside) == len(records)
    of = {repository: sum(r.repository_id == repository for r in records) for repository in (1, 2, 3)}
    assert len(inside) == min(size, sum(min(count, share) for count in of.values()))
    assert all(sum(r.repository_id == repository for r in inside) <= share for repository in of)
