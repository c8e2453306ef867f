"""One list of closed pull requests, read window by window, so that it need not be held and can be come back to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count

from fleetssd import gitea
from fleetssd.adapters.gitea_http.client import Client, date, shaped, total
from fleetssd.gitea import PullKey, PullRow, Request
from fleetssd.sweeps import FIRST, WINDOW, Part, middle, next_page

READINGS = 4
"""How often a window is read again while its rows keep moving."""
Ask = Callable[[datetime | None, datetime | None, int], Request]
"""Makes the request of a page of a window: since, before, page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: its rows, how many objects were on it, what the server says of all and of the time."""

    rows: tuple[PullRow, ...]
    length: int
    total: int | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Windows:
    """Reads one list. `size` is how many rows a page really has, `rows` how many a window may have."""

    client: Client
    ask: Ask
    size: Callable[[], int]
    place: str = ""
    rows: int = WINDOW

    def page(self, since: datetime | None, before: datetime | None = None, number: int = 1) -> Page:
        """Read one page."""
        body, response = self.client.get(self.ask(since, before, number))
        with shaped(self.client.root, "a list of pull requests"):
            found = [gitea.parse_row(item, self.client.root) for item in gitea.items(body)]
        length = len(body) if isinstance(body, list) else 0
        return Page(tuple(row for row in found if row is not None), length, total(response), date(response))

    def parts(self, since: datetime | None, first: Page) -> Iterator[Part]:
        """Yield the list from `since` on, oldest window first; `first` is the first page of all of it."""
        page, span = first, None
        while True:
            left, before = page.total, None
            if page.at is not None and left is not None and left > self.rows:
                before, page = self._end(since, page, span)
            complete = True
            for part in self._window(since, before, page):
                complete = part.complete
                yield replace(part, total=left)
            if before is None or not complete:
                return
            span = before - since if since is not None else None
            # Both ends of a window are in it: rows of this very second are shown twice, and none is left out.
            since, page = before, self.page(before)

    def _end(self, since: datetime | None, page: Page, span: timedelta | None) -> tuple[datetime | None, Page]:
        """Return where a window from `since` on should end, and its first page."""
        assert page.at is not None  # noqa: S101  asked for only where the server tells the time
        low, high = since or FIRST, page.at
        fits: tuple[datetime, Page] | None = None
        over: tuple[datetime | None, Page] = (None, page)
        for _ in count():
            tried = middle(low, high, span)
            span = None
            if tried is None:
                # A single second has too many: it is one window, however large.
                return fits if fits is not None and fits[1].total else over
            found = self.page(since, tried)
            held = found.total or 0
            if held > self.rows:
                high, over = tried, (tried, found)
            else:
                low, fits = tried, (tried, found)
                if 4 * held >= self.rows:
                    return fits
        raise AssertionError

    def _window(self, since: datetime | None, before: datetime | None, first: Page) -> Iterator[Part]:
        """Yield one window's rows, no more of them at once than a window may have, until they keep still."""
        for _ in range(READINGS):
            reading = _Reading(self, since, before, first)
            rows: dict[PullKey, PullRow] = {}
            for page in reading.pages():
                rows |= {row.key: row for row in page.rows}
                if len(rows) > self.rows:
                    yield Part(tuple(rows.values()), self.place)
                    rows = {}
            if not reading.moved:
                yield Part(tuple(rows.values()), self.place, done=True, upto=before or first.at)
                return
            if rows:
                yield Part(tuple(rows.values()), self.place)
            first = self.page(since, before)
        yield Part((), self.place, complete=False)


class _Reading:
    """One walk over the pages of a window; `moved` tells whether its rows moved meanwhile."""

    def __init__(self, windows: Windows, since: datetime | None, before: datetime | None, first: Page) -> None:
        self.windows, self.since, self.before, self.first = windows, since, before, first
        self.moved = False

    def pages(self) -> Iterator[Page]:
        """Yield the pages; a server that knows no pages gives the first one for ever, and then it ends."""
        page, so_far, shown, size = self.first, 0, set[PullKey](), 0
        for number in count(1):
            keys = {row.key for row in page.rows}
            if page.total is None and keys and keys <= shown:
                return
            shown |= keys
            so_far += page.length
            self.moved = self.moved or page.total != self.first.total
            yield page
            if number == 1 and page.total is not None and page.length < page.total:
                # Pages are counted only where the first one was as long as the server says that pages are.
                size = self.windows.size()
                size = size if size == page.length else 0
            following = next_page(number, page.length, so_far, page.total, size)
            if following is None:
                return
            page = self.windows.page(self.since, self.before, following)
