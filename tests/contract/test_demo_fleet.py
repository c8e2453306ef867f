"""The demonstration's agents and maintainer at a forge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetssd.demo.fleet import Fleet, Work
from fleetssd.errors import Misconfigured, Rejected
from tests.contract.forges import Ground, embedded

STYLES = ("squash", "merge", "rebase", "rebase-merge")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Run a forge."""
    with embedded(tmp_path_factory.mktemp("fleet")) as started:
        yield started


@pytest.fixture
def fleet(ground: Ground, tmp_path: Path) -> Iterator[Fleet]:
    """Put the demo's people into a repository of its own."""
    assert ground.server is not None
    tokens = {name: ground.server.token_file(name) for name in ("agent-1", "agent-2", "maintainer")}
    with Fleet(ground.url, f"fleet/{tmp_path.name.replace('_', '-')}", tmp_path / "clone.git", tokens) as made:
        made.found({"README.md": "# tools\n", "pkg/old.py": "OLD = 1\n"})
        yield made


def work(number: int) -> Work:
    """Describe one piece of work."""
    return Work(
        title=f"Add f{number}",
        body="Please.",
        branch=f"work/f{number}",
        files={f"pkg/f{number}.py": f"F = {number}\n", **({"pkg/old.py": None} if number == 0 else {})},
        message=f"Add f{number}\n",
        agent=f"agent-{number % 2 + 1}",
        style=STYLES[number % len(STYLES)],
    )


def test_work_becomes_merged_pull_requests(ground: Ground, fleet: Fleet) -> None:
    """Numbers follow the items; each pull request is its agent's, merged by the human, its issue closed."""
    items = [work(number) for number in range(8)]
    pulls = fleet.work(items)
    assert pulls == list(range(9, 17))
    api = f"/repos/{fleet.repository}"
    for number, pull in enumerate(pulls):
        row = ground.maintainer.get(f"{api}/pulls/{pull}")
        assert (row["merged"], row["user"]["login"], row["merged_by"]["login"]) == (
            True,
            items[number].agent,
            "maintainer",
        )
        assert row["body"] == f"Closes #{number + 1}"
        assert ground.maintainer.get(f"{api}/issues/{number + 1}")["state"] == "closed"
    names = {row["path"] for row in ground.maintainer.get(f"{api}/git/trees/main", recursive="true")["tree"]}
    assert {f"pkg/f{number}.py" for number in range(8)} <= names
    assert "pkg/old.py" not in names


def test_a_second_stretch_of_work_starts_from_the_merged_main(ground: Ground, fleet: Fleet) -> None:
    """Work that comes later is based on what was merged before."""
    fleet.work([work(1)])
    (pull,) = fleet.work([work(2)])
    row = ground.maintainer.get(f"/repos/{fleet.repository}/pulls/{pull}")
    assert row["changed_files"] == 1
    tree = ground.maintainer.get(f"/repos/{fleet.repository}/git/trees/{row['merge_base']}", recursive="true")
    assert "pkg/f1.py" in {entry["path"] for entry in tree["tree"]}


def test_no_token_is_left_in_the_clone(fleet: Fleet) -> None:
    """The clone's configuration holds neither a token nor a header."""
    fleet.work([work(3)])
    text = (fleet.folder / "config").read_text()
    assert "extraHeader" not in text
    assert all(path.read_text().strip() not in text for path in fleet.tokens.values())


def test_a_missing_token_file_says_whose(fleet: Fleet) -> None:
    """Without a token file for an agent the fleet says which one is missing."""
    fleet.tokens = {"maintainer": fleet.tokens["maintainer"]}
    with pytest.raises(Misconfigured, match="agent-1"):
        fleet.work([Work("t", "b", "x", {"a": "1"}, "m\n")])


def test_a_refusal_is_told_with_its_status(fleet: Fleet) -> None:
    """What the forge refuses for good comes back as Rejected with the HTTP status."""
    with pytest.raises(Rejected) as caught:
        fleet.open_issues([Work("", "b", "x", {"a": "1"}, "m\n")])
    assert caught.value.status == 422
