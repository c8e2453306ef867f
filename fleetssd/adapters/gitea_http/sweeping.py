"""Sweeps: one search over the whole server, or one list for each repository, whichever takes fewer requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from fleetssd import config, gitea
from fleetssd.adapters.gitea_http.client import Client, date, shaped, total
from fleetssd.errors import FleetError, Misconfigured, Rejected
from fleetssd.gitea import PullKey, PullRow, Request, Sweep
from fleetssd.records import watched

SWEEPS = 4
"""How often a sweep is read again while its rows keep moving."""
LISTED_FOR = 30
"""So many sweeps use one list of the repositories, and one finding that a search costs more."""
Ask = Callable[[int], Request]
"""Makes the request of a page."""


class _Costly(Exception):
    """The search is not worth its pages."""


@dataclass
class _Found:
    """What one way of asking brought."""

    rows: dict[PullKey, PullRow] = field(default_factory=dict)
    at: datetime | None = None
    moved: bool = False
    gaps: list[str] = field(default_factory=list)


class Sweeper:
    """Sweeps with one client. Without a fleet there are no repositories to ask one by one: it searches."""

    def __init__(self, client: Client, settings: config.Forge, fleet: config.Fleet | None) -> None:
        self.client, self.fleet, self.root = client, fleet, settings.url
        self.mode = settings.mode if fleet is not None else "search"
        self.limit, self.cap = settings.page_size, -1
        self.repositories: list[str] = []
        self.listed_for = self.costly_for = 0

    def sweep(self, since: datetime | None) -> Sweep:
        """Return every closed pull request updated at or after `since`, each once."""
        rows: dict[PullKey, PullRow] = {}
        at: datetime | None = None
        gaps: list[str] = []
        for _ in range(SWEEPS):
            found = self._once(since)
            at = at or found.at
            rows |= found.rows
            gaps = found.gaps
            if not found.moved:
                return Sweep(tuple(rows.values()), at, gaps=tuple(gaps))
        return Sweep(tuple(rows.values()), at, complete=False, gaps=tuple(gaps))

    def _once(self, since: datetime | None) -> _Found:
        if self.mode == "search":
            return self._search(since)
        if self.mode == "repository":
            return self._by_repository(since)
        if self.costly_for > 0:
            self.costly_for -= 1
            return self._by_repository(since)
        try:
            return self._search(since)
        except _Costly:
            self.costly_for = LISTED_FOR
        except (Rejected, Misconfigured) as error:
            # A token for single repositories, or a server that lets nobody search. A bad token fails here again.
            found = self._by_repository(since)
            self.costly_for = LISTED_FOR
            found.gaps.append(
                f"the search is closed to this token ({error.message}); repositories are asked one by one"
            )
            return found
        return self._by_repository(since)

    def _search(self, since: datetime | None) -> _Found:
        found = _Found()
        self._pages(found, lambda page: gitea.search_request(since, page, self.limit), self._check_cost)
        return found

    def _check_cost(self, rows: list[PullRow], total: int | None) -> None:
        """Leave a search that is mostly about repositories of other people."""
        if self.mode != "auto" or self.fleet is None or total is None or total <= self.limit or not rows:
            return
        ours = sum(watched(row.repository, self.fleet) for row in rows)
        lists = len(self._watched(_Found())) * len(self._authors())
        if lists and gitea.searching_costs_more(total, self.limit, ours / len(rows), lists):
            raise _Costly

    def _by_repository(self, since: datetime | None) -> _Found:
        found = _Found()
        for repository in self._watched(found):
            for author in self._authors():
                try:
                    self._pages(found, partial(gitea.list_request, repository, since, author, limit=self.limit))
                except Rejected as error:
                    if error.status not in (404, 410):
                        raise
                    # The repository is gone or hidden, or nobody has this name (any more): the others still count.
                    found.gaps.append(f"{repository} has nothing for {author or 'us'}: gone, hidden or renamed")
        return found

    def _authors(self) -> tuple[str, ...]:
        """Return whose pull requests to ask for one by one: anybody's, where a glob stands for the agents."""
        names = self.fleet.agents if self.fleet is not None else ()
        return ("",) if any(_glob(name) for name in names) or len(names) > 3 else names

    def _watched(self, found: _Found) -> list[str]:
        """Return the watched repositories under the names that they have now; asked for again now and then."""
        if self.fleet is None:
            return []
        self.listed_for -= 1
        if self.listed_for < 0:
            names: dict[str, None] = {}
            for glob in self.fleet.repositories:
                names |= dict.fromkeys(self._matching(glob) if _glob(glob) else self._now(glob, found))
            self.repositories, self.listed_for = list(names), LISTED_FOR
        return self.repositories

    def _matching(self, glob: str) -> Iterable[str]:
        owner = glob.partition("/")[0]
        fleet = config.Fleet(agents=("-",), repositories=(glob,))
        try:
            rows = self._all(lambda page: gitea.repositories_request("" if _glob(owner) else owner, page, self.limit))
        except (Rejected, Misconfigured):  # a person, not an organisation, or a token without read:organization
            rows = self._all(lambda page: gitea.repositories_request("", page, self.limit))
        return [name for row in rows if watched(name := str(row.get("full_name") or ""), fleet)]

    def _now(self, name: str, found: _Found) -> list[str]:
        """Return the present name of a repository: a renamed one redirects."""
        row = self.client.object(gitea.repository_request(name))
        if row is None:
            found.gaps.append(f"{name} is gone or hidden from this token")
            return []
        now = str(row.get("full_name") or name)
        if now.lower() != name.lower():
            found.gaps.append(f"{name} is now {now}: change fleet.repositories")
        return [now]

    def _pages(
        self, found: _Found, ask: Ask, check: Callable[[list[PullRow], int | None], None] = lambda *_: None
    ) -> None:
        """Read all pages of one list of pull requests into `found`; `check` sees the first page."""
        totals, so_far, page, size = set[int | None](), 0, 1, 0
        while True:
            body, response = self.client.get(ask(page))
            with shaped(self.root, "a list of pull requests"):
                rows = [row for item in gitea.items(body) if (row := gitea.parse_row(item, self.root)) is not None]
            on_page = len(body) if isinstance(body, list) else 0
            announced = total(response)
            if page == 1:
                found.at = found.at or date(response)
                check(rows, announced)
            if announced is None and rows and all(row.key in found.rows for row in rows):
                return  # a server that knows no pages gives the first one for ever
            found.rows |= {row.key: row for row in rows}
            totals.add(announced)
            so_far += on_page
            if page == 1 and announced is not None and on_page < announced:
                # Pages are counted only where the first one was as long as the server says that pages are.
                size = self._page_size()
                size = size if size == on_page else 0
            following = gitea.next_page(page, on_page, so_far, announced, size)
            if following is None:
                found.moved = found.moved or len(totals) > 1
                return
            page = following

    def _all(self, ask: Ask) -> list[dict[str, Any]]:
        """Read all pages of a list of objects."""
        rows: list[dict[str, Any]] = []
        so_far, page = 0, 1
        while True:
            body, response = self.client.get(ask(page))
            listed = body.get("data") if isinstance(body, dict) else body
            on_page = len(listed) if isinstance(listed, list) else 0
            fresh = [row for row in gitea.items(listed) if row not in rows]
            rows += fresh
            if not fresh:  # a server that knows no pages gives the first one for ever
                return rows
            so_far += on_page
            following = gitea.next_page(page, on_page, so_far, total(response))
            if following is None:
                return rows
            page = following

    def _page_size(self) -> int:
        """Return how many rows a page really has, from the server's own caps, asked once; 0 where it does not say."""
        if self.cap < 0:
            try:
                self.cap = gitea.page_cap(self.client.get(gitea.settings_request())[0])
            except FleetError:  # the sweep itself will say what is wrong; without caps it asks for one page more
                self.cap = 0
        return min(self.limit, self.cap)


def _glob(name: str) -> bool:
    return any(char in name for char in "*?[")
