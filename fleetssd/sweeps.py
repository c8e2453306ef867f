"""Sweeps over lists of closed pull requests: their pages, and windows of time that are small enough to hold.

A row's `updated_at` only ever moves on, so a window that ends in the past loses rows and gains none: what it showed
stays shown, and a sweep that was cut short goes on where its last whole window ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from fleetssd.gitea import PullKey, PullRow

WINDOW = 1000
"""Rows of a window, at most, unless a single second has more."""
FIRST = datetime(2005, 1, 1, tzinfo=UTC)
"""Where the search for the end of the first window starts; what is older is in that window all the same."""
_SECOND = timedelta(seconds=1)
Since: TypeAlias = Callable[[str], datetime | None]
"""Tells where to go on in a list, by its name; None for its beginning."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a list of closed pull requests.

    `place` names the list; it is empty for the whole forge. Where `done`, everything of that list that was updated at
    or before `upto` is in this part or was in an earlier one; `upto` is None where the server tells no time.
    `complete` is False where rows kept moving between the pages: take what is there, and look again later. `gaps` say,
    in words, what could not be asked for; `total` is how many rows the list has left, this part's included, where the
    server says it.
    """

    rows: tuple[PullRow, ...] = ()
    place: str = ""
    done: bool = False
    upto: datetime | None = None
    complete: bool = True
    gaps: tuple[str, ...] = ()
    total: int | None = None


def next_page(page: int, on_page: int, so_far: int, total: int | None, limit: int = 0) -> int | None:
    """Return the page to ask for next, or None at the end.

    A short page is not the end (the server caps `limit` in silence); an empty one is, and so is the announced total:
    what came so far, or what pages of `limit` rows, where that is really what the server gives, have covered.
    """
    if on_page == 0 or (total is not None and max(so_far, page * limit) >= total):
        return None
    return page + 1


def middle(low: datetime, high: datetime, span: timedelta | None) -> datetime | None:
    """Return a whole second between the two to try for the end of a window, `span` after the first if that is between.

    None where there is no second between them.
    """
    tried = low + span if span is not None and low + span < high else low + (high - low) / 2
    tried = max(tried.replace(microsecond=0), low.replace(microsecond=0) + _SECOND)
    return tried if low < tried < high else None


def window_start(cursor: datetime | None, overlap_seconds: float) -> datetime | None:
    """Return where the next window starts: rows may appear a little after their own `updated_at`."""
    return None if cursor is None else cursor - timedelta(seconds=overlap_seconds)


def unseen(rows: Iterable[PullRow], seen: Mapping[PullKey, str]) -> list[PullRow]:
    """Return the rows that are new or have moved since they were last read, each once."""
    latest = {row.key: row for row in rows}
    return [row for row in latest.values() if seen.get(row.key) != row.updated_at]


def searching_costs_more(total: int | None, limit: int, share: float, lists: int) -> bool:
    """Tell whether reading a whole search takes more requests than asking `lists` times.

    `share` is that part of the search's rows that somebody wants; the lists need pages for those alone.
    """
    if total is None or total <= limit:
        return False
    return -(-total // limit) > lists + total * share / limit
