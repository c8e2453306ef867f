"""What operations rely on in the forge and mirror ports: facts that hold for the fakes and for the real adapters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import pytest

from fleetssd import config
from fleetssd.adapters.git_mirror import GitMirror
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.diffs import PullDiff
from fleetssd.gitea import Commit, MergedPull, PullRow, moment, row_of
from fleetssd.gitea_links import confirm
from fleetssd.solutions import parse_diff, touched
from fleetssd.sweeps import unseen
from tests.contract.forges import Desk, Ground, embedded
from tests.fakes import FakeForge, FakeMirror
from tests.services.test_gitea_http import swept

NOBODY = "0" * 40


class Fakes:
    """A repository in which things are made up, and the two fakes that look at it."""

    place = "fleet/a"

    def __init__(self) -> None:
        self.forge, self.mirror, self.count = FakeForge(), FakeMirror(), 0

    def pull(self, *, merged: bool = True) -> tuple[int, int]:
        """Make one up."""
        self.count += 1
        made = self.forge.merge(self.count, merged=merged)
        if not merged:
            del self.forge.timelines[self.place, 1000 + self.count][1:]
        diff = self.mirror.diffs([made])[self.count]
        assert isinstance(diff, PullDiff)
        self.forge.diffs[self.count] = (diff.diff, diff.head_commit)
        return self.count, 1000 + self.count

    def comment(self, number: int) -> None:
        """Move the row."""
        (pull,) = [pull for pull in self.forge.pulls.values() if pull.key.number == number]
        self.forge.touch(pull)

    def push(self, number: int, message: str, *, branch: str) -> str:
        """Make a commit up."""
        sha = f"{len(self.forge.commits):039}c"
        self.forge.commits[sha] = Commit(sha, message, ("p" * 40,))
        self.mirror.messages[sha] = message
        self.mirror.landed |= {sha} if branch == "main" else set()
        row = {"type": "commit_ref", "ref_commit_sha": sha, "created_at": self.forge.now.isoformat()}
        self.forge.timelines.setdefault((self.place, number), []).append(row)
        return sha

    def later(self) -> None:
        """Move the clock."""
        self.forge.later(minutes=1)


class Real:
    """A repository in which things happen, and the two adapters that look at it."""

    def __init__(self, desk: Desk, forge: GiteaForge, mirror: GitMirror) -> None:
        self.desk, self.forge, self.mirror, self.count = desk, forge, mirror, 0
        self.place = desk.place

    def pull(self, *, merged: bool = True) -> tuple[int, int]:
        """Open one."""
        self.count += 1
        issue, branch = self.desk.issue(), f"work-{self.count}"
        self.desk.commit(branch, {f"{self.count}.txt": f"{self.count}\n"}, "add")
        number = self.desk.pull(branch, f"Fixes #{issue}")
        if merged:
            assert self.desk.merge(number, "squash").status_code == 200
        else:
            self.desk.maintainer.ask("PATCH", f"{self.desk.api}/pulls/{number}", {"state": "closed"})
        return number, issue

    def comment(self, number: int) -> None:
        """Write one."""
        self.desk.maintainer.post(f"{self.desk.api}/issues/{number}/comments", {"body": "Fine."})

    def push(self, number: int, message: str, *, branch: str) -> str:
        """Push one."""
        self.desk.git("fetch", "-q", "origin")
        self.desk.git("checkout", "-q", "-B", branch, "origin/main")
        made = self.desk.commit(branch, {f"{branch}.md": f"{self.count}\n"}, message)
        self.desk.until_referred(number, "commit_ref")
        return made

    def later(self) -> None:
        """Wait, or move the clock."""
        self.desk.ground.later()


Stage: TypeAlias = Fakes | Real


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Run an embedded forge."""
    with embedded(tmp_path_factory.mktemp("port")) as started:
        yield started


@pytest.fixture(params=["fake", "adapter"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Give the fakes, then the adapters over the embedded forge."""
    if request.param == "fake":
        yield Fakes()
        return
    ground: Ground = request.getfixturevalue("ground")
    (tmp_path / "token").write_text(ground.maintainer.token)
    settings = config.Forge(url=ground.url, token_file=tmp_path / "token")
    forge = GiteaForge(settings, attempts=2, wait_seconds=0.01)
    yield Real(ground.repository(), forge, GitMirror(tmp_path / "mirrors", settings))
    forge.close()


def rows(stage: Stage, since: datetime | None = None) -> list[PullRow]:
    """Return what a sweep shows of the stage."""
    sweep = swept(stage.forge, since)
    assert sweep.complete
    return sorted((row for row in sweep.rows if row.repository == stage.place), key=lambda row: row.key.number)


def detail(stage: Stage, number: int) -> MergedPull:
    """Return a detail that must be there."""
    found = stage.forge.pull(stage.place, number)
    assert found is not None
    return found


def test_a_row_and_its_detail_tell_the_same(stage: Stage) -> None:
    """Each closed pull request is in the sweep once; what its row tells, its detail tells too."""
    numbers = [stage.pull()[0], stage.pull(merged=False)[0]]
    assert [row.key.number for row in rows(stage)] == numbers
    assert [row.merged for row in rows(stage)] == [True, False]
    assert rows(stage) == [row_of(detail(stage, number)) for number in numbers]


def test_a_window_begins_with_its_own_second(stage: Stage) -> None:
    """`since` keeps a row of that very second and drops it a second later; a sweep tells the time in UTC."""
    stage.pull()
    (row,) = rows(stage)
    moved = moment(row.updated_at)
    assert moved is not None
    assert rows(stage, moved) == [row]
    assert rows(stage, moved + timedelta(seconds=1)) == []
    told = swept(stage.forge, moved).upto
    assert told is None or told.tzinfo == UTC


def test_a_comment_moves_a_row_and_nothing_else(stage: Stage) -> None:
    """The row is unseen again; it closed when it closed."""
    number, _ = stage.pull()
    (before,) = rows(stage)
    seen = {before.key: before.updated_at}
    assert unseen(rows(stage), seen) == []
    stage.later()
    stage.comment(number)
    (after,) = unseen(rows(stage), seen)
    assert replace(after, updated_at=before.updated_at) == before


def test_what_is_not_there_is_none(stage: Stage) -> None:
    """An unknown number, an unknown commit, and a pull request that is asked for as an issue."""
    number, _ = stage.pull()
    pull = detail(stage, number)
    assert stage.forge.pull(stage.place, 999) is None
    assert stage.forge.issue(stage.place, 999) is None
    assert stage.forge.issue(stage.place, number) is None
    assert stage.forge.commit(stage.place, NOBODY) is None
    assert stage.forge.diff(stage.place, 999) is None
    assert stage.mirror.message(pull, NOBODY) == ""


def test_a_merge_closes_its_issue_and_a_closing_does_not(stage: Stage) -> None:
    """The issue's timeline confirms the merge, with the close beside it, and nothing of what was only closed."""
    for merged in (True, False):
        number, issue = stage.pull(merged=merged)
        text = stage.forge.issue(stage.place, issue)
        assert text is not None
        assert (text.number, text.repository) == (issue, stage.place)
        link = confirm(detail(stage, number), stage.place, issue, stage.forge.timeline(stage.place, issue))
        assert (link is not None) is merged
        if link is not None:
            assert (link.confidence, link.by_merge) == ("closed", True)


def test_git_and_the_api_tell_one_diff(stage: Stage) -> None:
    """Many at once: base, frozen head and bytes as the API has them, with every changed file's text."""
    numbers = [stage.pull()[0] for _ in range(2)]
    pulls = [detail(stage, number) for number in numbers]
    found = stage.mirror.diffs(pulls)
    assert list(found) == numbers
    for pull in pulls:
        change = found[pull.key.number]
        assert isinstance(change, PullDiff)
        assert stage.forge.diff(stage.place, pull.key.number) == (change.diff, change.head_commit)
        assert (change.base_commit, len(change.merge_parents)) == (pull.merge_base, 1)
        assert touched(parse_diff(change.diff.decode())) == change.changed_paths
        assert [path for path, _ in change.files] == list(change.changed_paths)


def test_a_pushed_commit_is_told_by_both(stage: Stage) -> None:
    """API and git know its message; it is contained once it is in the branch of the merge; the timeline names it."""
    number, _ = stage.pull()
    pull = detail(stage, number)
    aside = stage.push(number, f"About #{number}", branch="aside")
    assert stage.mirror.contained(pull, [aside]) is False
    main = stage.push(number, f"Again about #{number}", branch="main")
    assert stage.mirror.contained(pull, [aside, main]) is True
    for sha, text in ((aside, f"About #{number}"), (main, f"Again about #{number}")):
        told = stage.forge.commit(stage.place, sha)
        assert told is not None
        assert (told.sha, told.message.strip(), len(told.parents)) == (sha, text, 1)
        assert stage.mirror.message(pull, sha).strip() == text
    named = [row["ref_commit_sha"] for row in stage.forge.timeline(stage.place, number) if row["type"] == "commit_ref"]
    assert named == [aside, main]
