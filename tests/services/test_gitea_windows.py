"""Long lists are read window by window: nothing is missed while rows move, nor where a sweep was cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetssd import config
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.gitea import stamp
from fleetssd.sweeps import Part
from tests.services.test_gitea_http import Answer, Script, script

__all__ = ["script"]

START = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
"""What the scripted server says of the time."""
WINDOW = 8


class History:
    """A server's closed pull requests with their times; `during` happens at every request."""

    def __init__(self, ages: list[int]) -> None:
        self.times = {number: NOW - timedelta(seconds=age) for number, age in enumerate(ages)}
        self.asked: list[dict[str, str]] = []
        self.cap = 3
        self.during: Callable[[int], None] = lambda _: None

    def __call__(self, path: str, query: dict[str, str]) -> Answer:
        """Answer a search, newest number first."""
        if path.endswith("/settings/api"):
            return Answer(body={"max_response_items": self.cap})
        self.during(len(self.asked))
        self.asked.append(query)
        rows = [n for n in sorted(self.times, reverse=True) if self._between(stamp(self.times[n]), query)]
        page, limit = int(query["page"]), min(int(query["limit"]), self.cap)
        body = [self._row(number) for number in rows[(page - 1) * limit : page * limit]]
        return Answer(body=body, headers={"X-Total-Count": str(len(rows))})

    @staticmethod
    def _between(text: str, query: dict[str, str]) -> bool:
        return query.get("since", "") <= text <= query.get("before", "9")

    def _row(self, number: int) -> dict[str, Any]:
        return {
            "number": number, "updated_at": stamp(self.times[number]), "pull_request": {"merged": True},
            "repository": {"id": 1, "full_name": "fleet/a"}, "user": {"login": "agent-1"},
        }  # fmt: skip


@pytest.fixture
def forge(script: Script, tmp_path: Path) -> Iterator[GiteaForge]:
    """Open a forge with small windows."""
    (tmp_path / "token").write_text("t0ken")
    made = GiteaForge(config.Forge(url=script.url, token_file=tmp_path / "token"), attempts=1, window=WINDOW)
    yield made
    made.close()


def shown(parts: list[Part]) -> list[int]:
    """Return the numbers of the rows."""
    return [row.key.number for part in parts for row in part.rows]


def test_a_long_history_comes_in_windows(script: Script, forge: GiteaForge) -> None:
    """Oldest update first, no part larger than a window, each with the time up to which all is shown."""
    script.decide = History([n * 86_400 for n in range(60)])
    parts = list(forge.sweep(lambda _: None))
    assert sorted(set(shown(parts))) == list(range(60))
    assert max(len(part.rows) for part in parts) <= WINDOW
    ends = [part.upto for part in parts if part.upto is not None]
    assert len(ends) == len(parts) > 60 // WINDOW
    assert ends == sorted(ends)
    assert ends[-1] == NOW
    assert parts[0].total == 60


def test_a_short_history_is_one_window(script: Script, forge: GiteaForge) -> None:
    """Where a window holds all of it, no request looks for the end of one."""
    script.decide = history = History(list(range(WINDOW)))
    (part,) = forge.sweep(lambda _: None)
    assert (len(part.rows), part.done, part.upto) == (WINDOW, True, NOW)
    assert [query["page"] for query in history.asked] == ["1", "2", "3"]
    assert not any("before" in query for query in history.asked)


def test_a_second_with_too_many_is_still_read_in_parts(script: Script, forge: GiteaForge) -> None:
    """A script that touched everything at once makes a window that no time can part: pages part it."""
    script.decide = History([500] * 30 + [900, 100])
    parts = list(forge.sweep(lambda _: None))
    assert sorted(set(shown(parts))) == list(range(32))
    assert max(len(part.rows) for part in parts) <= WINDOW + 3
    assert sum(part.done for part in parts) < len(parts)


def test_what_keeps_moving_ends_the_sweep(script: Script, forge: GiteaForge) -> None:
    """A window that never rests is told as incomplete, and no later one is read before it."""
    script.decide = history = History([n * 86_400 for n in range(60)])

    oldest = history.times[59]

    def flicker(request: int) -> None:
        history.times.pop(59, None)
        history.times |= {59: oldest} if request % 2 else {}

    history.during = flicker
    parts = list(forge.sweep(lambda _: None))
    assert not parts[-1].complete
    assert not parts[-1].done


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ages=st.lists(st.integers(400, 10**8), min_size=1, max_size=40),
    moves=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 39)), max_size=8),
    cut=st.integers(0, 6),
)
def test_nothing_is_missed_whatever_moves(
    script: Script, forge: GiteaForge, ages: list[int], moves: list[tuple[int, int]], cut: int
) -> None:
    """Rows that move while pages are read, and a sweep that is cut short anywhere and goes on: every row is shown."""
    script.decide = history = History(ages)

    def move(request: int) -> None:
        for when, number in moves:
            if when == request and number in history.times:
                history.times[number] = NOW

    history.during = move
    filed, upto = set[int](), None
    for count, part in enumerate(forge.sweep(lambda _: None)):
        if count == cut:
            break
        filed.update(shown([part]))
        upto = part.upto if part.done else upto
    rest = list(forge.sweep(lambda _: upto))
    while not rest[-1].complete:
        rest += forge.sweep(lambda _: upto)
    assert filed | set(shown(rest)) == set(history.times)


def test_repositories_are_come_back_to_one_by_one(script: Script, tmp_path: Path) -> None:
    """Asked one by one, each list goes on where it was; the whole is told last."""
    (tmp_path / "token").write_text("t0ken")
    settings = config.Forge(url=script.url, token_file=tmp_path / "token", mode="repository")
    fleet = config.Fleet(agents=("agent-1",), repositories=("fleet/a", "fleet/b"))
    history = History([n * 86_400 for n in range(20)])

    def decide(path: str, query: dict[str, str]) -> Answer:
        if path.endswith(("/fleet/a", "/fleet/b")):
            return Answer(body={"id": ord(path[-1]), "full_name": path[-7:]})
        return history(path, query)

    script.decide = decide
    forge = GiteaForge(settings, fleet, attempts=1, window=WINDOW)
    try:
        places = {"": None, "97 agent-1": NOW - timedelta(days=3), "98 agent-1": None}
        parts = list(forge.sweep(lambda place: places[place]))
    finally:
        forge.close()
    assert {part.place for part in parts[:-1]} == set(places) - {""}
    assert set(shown([part for part in parts if part.place.startswith("97")])) == {0, 1, 2, 3}
    assert set(shown([part for part in parts if part.place.startswith("98")])) == set(range(20))
    assert (parts[-1].place, parts[-1].done, parts[-1].rows) == ("", True, ())
