"""Sweeps by search or by repository: which way is taken, and what one missing name costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetssd import config
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.adapters.gitea_http.client import Pace
from fleetssd.errors import Misconfigured, Rejected
from tests.services.test_gitea_http import Answer, Script, script, swept

__all__ = ["script"]


def ident(repository: str) -> int:
    """Return the id of a repository."""
    return int.from_bytes(repository.encode())


def row(number: int, repository: str = "fleet/a", author: str = "agent-1") -> dict[str, Any]:
    """Return a row of a list."""
    return {
        "number": number, "updated_at": "2026-11-22T05:00:00Z", "pull_request": {"merged": True},
        "repository": {"id": ident(repository), "full_name": repository}, "user": {"login": author},
    }  # fmt: skip


class World:
    """A server with some repositories; `rows` are what it lists, `moved` what was renamed, `closed` what is refused."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.moved, self.closed = rows, dict[str, str](), dict[str, int]()
        self.asked: list[str] = []
        self.status = 301

    def __call__(self, path: str, query: dict[str, str]) -> Answer:
        """Answer a request."""
        path = path.removeprefix("/api/v1")
        self.asked.append(path + (f"?{query['created_by']}" if "created_by" in query else ""))
        for place, status in self.closed.items():
            if self.asked[-1].startswith(place):
                return Answer(status, {"message": "no"})
        if path == "/settings/api":
            return Answer(body={"max_response_items": 50})
        names = sorted({str(row["repository"]["full_name"]) for row in self.rows})
        if path.startswith("/orgs/") or path == "/repos/search":
            owner = "" if path == "/repos/search" else path.split("/")[2]
            rows = [{"id": ident(name), "full_name": name} for name in names if name.startswith(owner)]
            return Answer(body={"ok": True, "data": rows} if path == "/repos/search" else rows)
        if path == "/repos/issues/search":
            return self._page(self.rows, query)
        return self._one(path, query)

    def _one(self, path: str, query: dict[str, str]) -> Answer:
        _, _, owner, name, *rest = path.split("/")
        now = self.moved.get(f"{owner}/{name}")
        if now:
            return Answer(self.status, b"moved", {"Location": f"/api/v1/repos/{'/'.join([now, *rest])}"})
        if not rest:
            return Answer(body={"id": ident(f"{owner}/{name}"), "full_name": f"{owner}/{name}"})
        who = query.get("created_by")
        return self._page(
            [
                r
                for r in self.rows
                if r["repository"]["full_name"] == f"{owner}/{name}" and who in (None, r["user"]["login"])
            ],
            query,
        )

    def _page(self, rows: list[dict[str, Any]], query: dict[str, str]) -> Answer:
        page, limit = int(query["page"]), int(query["limit"])
        return Answer(body=rows[(page - 1) * limit : page * limit], headers={"X-Total-Count": str(len(rows))})


Open = Callable[..., GiteaForge]


@pytest.fixture
def opened(script: Script, tmp_path: Path) -> Iterator[Open]:
    """Open forges on the script."""
    made: list[GiteaForge] = []
    (tmp_path / "token").write_text("t0ken")

    def opens(world: World, *repositories: str, agents: tuple[str, ...] = ("agent-1",), **more: Any) -> GiteaForge:
        script.decide = world
        settings = config.Forge(url=script.url, token_file=tmp_path / "token", **more)
        made.append(
            GiteaForge(settings, config.Fleet(agents=agents, repositories=repositories), attempts=1, wait_seconds=0.01)
        )
        return made[-1]

    yield opens
    for forge in made:
        forge.close()


def numbers(forge: GiteaForge) -> list[int]:
    """Return the numbers that a sweep finds."""
    return sorted(found.key.number for found in swept(forge).rows)


def test_a_server_of_our_own_is_searched(opened: Open) -> None:
    """Where most rows are ours, the search is the cheaper way, and a quiet sweep is one request."""
    world = World([row(n) for n in range(120)])
    forge = opened(world, "fleet/*")
    assert numbers(forge) == list(range(120))
    assert world.asked.count("/repos/issues/search") == 3
    world.rows, world.asked = [], []
    assert numbers(forge) == []
    assert world.asked == ["/repos/issues/search"]


def test_a_public_server_is_asked_by_repository(opened: Open) -> None:
    """Where the search is full of strangers' work, the watched repositories are asked, now and in the next sweeps."""
    world = World([row(n, f"people/{n}", "visitor") for n in range(400)] + [row(7), row(8, "fleet/b")])
    forge = opened(world, "fleet/a", "fleet/b", agents=("agent-1", "agent-2"))
    assert numbers(forge) == [7, 8]
    first = list(world.asked)
    assert first.count("/repos/issues/search") == 1
    assert first[-4:] == [f"/repos/fleet/{name}/issues?agent-{n}" for name in "ab" for n in (1, 2)]
    world.asked.clear()
    assert numbers(forge) == [7, 8]
    assert world.asked == first[-4:]


def test_a_token_that_may_not_search_asks_by_repository(opened: Open) -> None:
    """A closed search is told, and the repositories are asked one by one."""
    world = World([row(1), row(2, "fleet/b")])
    world.closed["/repos/issues/search"] = 403
    sweep = swept(opened(world, "fleet/*"))
    assert sorted(found.key.number for found in sweep.rows) == [1, 2]
    assert "one by one" in sweep.gaps[0]


def test_a_bad_token_stays_an_error(opened: Open) -> None:
    """Neither way works with it."""
    world = World([row(1)])
    world.closed["/"] = 401
    with pytest.raises(Misconfigured):
        swept(opened(world, "fleet/a"))


def test_an_unknown_agent_costs_only_its_own_rows(opened: Open) -> None:
    """A server that knows an account no longer refuses the whole request; the other agents are still asked."""
    world = World([row(1), row(2, author="agent-2")])
    world.closed["/repos/fleet/a/issues?agent-2"] = 404
    sweep = swept(opened(world, "fleet/a", agents=("agent-2", "agent-1"), mode="repository"))
    assert [found.key.number for found in sweep.rows] == [1]
    assert sweep.gaps == ("fleet/a has nothing for agent-2: gone, hidden or renamed",)


def test_another_refusal_is_an_error(opened: Open) -> None:
    """What is not about a missing name fails the sweep, so that the cursor stays."""
    world = World([row(1)])
    world.closed["/repos/fleet/a/issues"] = 422
    with pytest.raises(Rejected):
        swept(opened(world, "fleet/a", mode="repository"))


def test_a_renamed_repository_is_asked_under_its_new_name(opened: Open) -> None:
    """The redirect is followed once, the new name is used from then on, and the setting is named."""
    world = World([row(1, "fleet/new")])
    world.moved["fleet/old"] = "fleet/new"
    forge = opened(world, "fleet/old", "fleet/gone", mode="repository")
    world.closed["/repos/fleet/gone"] = 404
    sweep = swept(forge)
    assert [found.repository for found in sweep.rows] == ["fleet/new"]
    assert sweep.gaps == (
        "fleet/old is now fleet/new: change fleet.repositories",
        "fleet/gone is gone or hidden from this token",
    )
    world.asked.clear()
    swept(forge)
    assert world.asked == ["/repos/fleet/new/issues?agent-1"]


@pytest.mark.parametrize("status", [301, 307])
def test_a_repository_is_known_under_other_names(opened: Open, status: int) -> None:
    """By a name that the settings still have, or by one that a record still has; a stranger is asked about once."""
    world = World([row(1, "fleet/new")])
    world.moved, world.status = {"fleet/old": "fleet/new"}, status
    forge = opened(world, "fleet/old", mode="search")
    assert forge.follows(ident("fleet/new"), "fleet/new")
    assert not forge.follows(ident("people/x"), "people/x")
    world.asked.clear()
    assert not forge.follows(ident("people/x"), "people/x")
    assert world.asked == []
    assert opened(world, "fleet/new").follows(ident("fleet/new"), "fleet/old")


@pytest.mark.parametrize("closed", [{}, {"/orgs/": 404}, {"/orgs/": 403}])
def test_globs_are_listed(opened: Open, closed: dict[str, int]) -> None:
    """An organisation lists its repositories; where it is none, the search over repositories does."""
    world = World([row(1, "fleet/a"), row(2, "fleet/b"), row(3, "other/c")])
    world.closed = dict(closed)
    assert numbers(opened(world, "fleet/*", mode="repository")) == [1, 2]
    assert numbers(opened(world, "*/c", mode="repository", agents=("agent-*",))) == [3]
    assert world.asked[-1] == "/repos/other/c/issues"


def test_requests_keep_their_distance() -> None:
    """Ten a second are a tenth of a second apart; no limit is no wait."""
    pace, start = Pace(10.0), time.monotonic()
    for _ in range(3):
        pace.wait()
    assert time.monotonic() - start >= 0.2
    free = Pace(0.0)
    free.wait()
    assert free.free_at == 0.0
