"""Sweeps: one search over the whole server, or one list for each repository, whichever takes fewer requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from fleetssd import config, gitea
from fleetssd.adapters.gitea_http.client import Client, shaped, total
from fleetssd.adapters.gitea_http.windows import Page, Windows
from fleetssd.errors import FleetError, Misconfigured, Rejected
from fleetssd.gitea import Request
from fleetssd.records import watched
from fleetssd.sweeps import Part, Since, next_page, searching_costs_more

LISTED_FOR = 30
"""So many sweeps use one list of the repositories, and one finding that a search costs more."""


@dataclass(frozen=True, slots=True)
class Place:
    """A repository under the name that it has now."""

    id: int
    name: str


class Sweeper:
    """Sweeps with one client. Without a fleet there are no repositories to ask one by one: it searches."""

    def __init__(self, client: Client, settings: config.Forge, fleet: config.Fleet | None, window: int) -> None:
        self.client, self.fleet, self.root, self.window = client, fleet, settings.url, window
        self.mode = settings.mode if fleet is not None else "search"
        self.limit, self.cap = settings.page_size, -1
        self.places, self.told = list[Place](), list[str]()
        self.listed_for = self.costly_for = 0
        self.strangers = dict[int, str]()
        self.former: set[int] | None = None

    def sweep(self, since: Since) -> Iterator[Part]:
        """Yield every closed pull request updated where `since` says, or later, in parts."""
        self.former = None  # what was renamed a moment ago is known at once
        windows = Windows(self.client, self._search_request, self._page_size, rows=self.window)
        first, gaps = self._searched(windows, since("")), list[str]()
        if isinstance(first, Page):
            yield from windows.parts(since(""), first)
            return
        gaps += [first] if first else []
        yield from self._by_repository(since, gaps)

    def follows(self, repository_id: int, name: str) -> bool:
        """Tell whether a watched repository had this name before, or has it now and is watched by an earlier one."""
        if self.fleet is None or self.strangers.get(repository_id) == name:
            return False
        place = Place(repository_id, name)
        if self.former is None:
            exact = [known for known in self.fleet.repositories if not _glob(known)]
            self.former = {found.id for known in exact for found in self._now(known, [])}
        found = place in self.places or repository_id in self.former
        if found or any(now.id == repository_id and watched(now.name, self.fleet) for now in self._now(name, [])):
            return True
        # Asked about once under each name that it has.
        self.strangers[repository_id] = name
        return False

    def _search_request(self, since: datetime | None, before: datetime | None, page: int) -> Request:
        return gitea.search_request(since, before, page, self.limit)

    def _searched(self, windows: Windows, since: datetime | None) -> Page | str:
        """Return the search's first page, or why the repositories are asked one by one; empty where that is cheaper."""
        if self.mode == "repository":
            return ""
        if self.mode == "search":
            return windows.page(since)
        if self.costly_for > 0:
            self.costly_for -= 1
            return ""
        try:
            page = windows.page(since)
        except (Rejected, Misconfigured) as error:
            # A token for single repositories, or a server that lets nobody search. A bad token fails there again.
            self.costly_for = LISTED_FOR
            return f"the search is closed to this token ({error.message}); repositories are asked one by one"
        if not self._costs_more(page):
            return page
        self.costly_for = LISTED_FOR
        return ""

    def _costs_more(self, page: Page) -> bool:
        """Tell whether a search is mostly about repositories of other people."""
        if self.fleet is None or page.total is None or page.total <= self.limit or not page.rows:
            return False
        ours = sum(watched(row.repository, self.fleet) for row in page.rows)
        lists = len(self._watched()) * len(self._authors())
        return bool(lists) and searching_costs_more(page.total, self.limit, ours / len(page.rows), lists)

    def _by_repository(self, since: Since, gaps: list[str]) -> Iterator[Part]:
        """Yield the parts of one list after the other, and a last one for all of them."""
        at: datetime | None = None
        complete = True
        for place in self._watched():
            for author in self._authors():
                ask = partial(self._list_request, place.name, author)
                windows = Windows(self.client, ask, self._page_size, f"{place.id} {author}", self.window)
                begin = since(windows.place)
                try:
                    first = windows.page(begin)
                    at = at or first.at
                    for part in windows.parts(begin, first):
                        complete = complete and part.complete
                        if part.rows:
                            yield part
                except Rejected as error:
                    if error.status not in (404, 410):
                        raise
                    # The repository is gone or hidden, or nobody has this name (any more): the others still count.
                    gaps.append(f"{place.name} has nothing for {author or 'us'}: gone, hidden or renamed")
        told, self.told = self.told, []
        yield Part(done=complete, upto=at, complete=complete, gaps=(*told, *gaps))

    def _list_request(
        self, repository: str, author: str, since: datetime | None, before: datetime | None, page: int
    ) -> Request:
        return gitea.list_request(repository, author, since, before, page, self.limit)

    def _authors(self) -> tuple[str, ...]:
        """Return whose pull requests to ask for one by one: anybody's, where a glob stands for the agents."""
        names = self.fleet.agents if self.fleet is not None else ()
        return ("",) if any(_glob(name) for name in names) or len(names) > 3 else names

    def _watched(self) -> list[Place]:
        """Return the watched repositories under the names that they have now; asked for again now and then."""
        if self.fleet is None:
            return []
        self.listed_for -= 1
        if self.listed_for < 0:
            found: dict[int, Place] = {}
            for glob in self.fleet.repositories:
                found |= {
                    place.id: place for place in (self._matching(glob) if _glob(glob) else self._now(glob, self.told))
                }
            self.places, self.listed_for = list(found.values()), LISTED_FOR
        return self.places

    def _matching(self, glob: str) -> Iterable[Place]:
        owner = glob.partition("/")[0]
        fleet = config.Fleet(agents=("-",), repositories=(glob,))
        try:
            rows = self._all(lambda page: gitea.repositories_request("" if _glob(owner) else owner, page, self.limit))
        except (Rejected, Misconfigured):  # a person, not an organisation, or a token without read:organization
            rows = self._all(lambda page: gitea.repositories_request("", page, self.limit))
        return [place for place in map(self._place, rows) if watched(place.name, fleet)]

    def _now(self, name: str, gaps: list[str]) -> list[Place]:
        """Return the repository that this name leads to: a renamed one redirects."""
        try:
            row = self.client.object(gitea.repository_request(name))
        except Misconfigured as error:
            if getattr(error, "status", None) != 403:  # a token for public repositories only, and this is none
                raise
            row = None
        if row is None:
            gaps.append(f"{name} is gone or hidden from this token")
            return []
        place = self._place(row)
        if place.name.lower() != name.lower():
            gaps.append(f"{name} is now {place.name}: change fleet.repositories")
        return [place]

    def _place(self, row: dict[str, Any]) -> Place:
        with shaped(self.root, "a repository"):
            return Place(int(row["id"]), str(row["full_name"]))

    def _all(self, ask: Callable[[int], Request]) -> list[dict[str, Any]]:
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
            following = next_page(page, on_page, so_far, total(response))
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
