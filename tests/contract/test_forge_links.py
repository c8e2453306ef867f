"""What a forge says of merges and of the issues they answer at its oddest, and what the reader makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetssd.adapters.git_mirror import GitMirror
from fleetssd.adapters.gitea_http import GiteaForge
from fleetssd.config import parse
from fleetssd.diffs import PullDiff
from fleetssd.gitea import PullKey
from fleetssd.gitea_links import confirm
from fleetssd.operations.reading import Look, Read, Reader
from tests.contract.forges import Desk, Ground

Opened = Callable[..., Reader]


@pytest.fixture
def opened(ground: Ground, tmp_path: Path) -> Iterator[Opened]:
    """Open a reader with the maintainer's token, or another one."""
    made: list[GiteaForge] = []

    def reader(token: str = "") -> Reader:
        (tmp_path / "token").write_text(token or ground.maintainer.token)
        table = {
            "data_dir": str(tmp_path),
            "forge": {"url": ground.url, "token_file": str(tmp_path / "token")},
            "fleet": {"agents": ["*"], "repositories": ["*"]},
        }
        settings = parse(table)
        made.append(GiteaForge(settings.forge, attempts=2, wait_seconds=0.01))
        return Reader(settings, made[-1], GitMirror(tmp_path / "mirrors", settings.forge))

    yield reader
    for forge in made:
        forge.close()


def read(reader: Reader, desk: Desk, number: int) -> Read:
    """Read a pull request in full; it must be there."""
    pull = reader.forge.pull(desk.place, number)
    assert pull is not None
    found = reader.read(Look(PullKey(reader.settings.forge.url, pull.key.repository_id, number), desk.place, None))
    assert isinstance(found, Read), found
    return found


def issues(found: Read) -> list[int]:
    """Return the numbers of the issues that a pull request answers."""
    return [issue.number for issue in found.issues]


def worked(desk: Desk, body: str, **more: str) -> int:
    """Open a pull request over one new file."""
    desk.commit("work", {"a.py": "A = 1\n"}, "add")
    return desk.pull("work", body, **more)


@pytest.mark.parametrize("forwarded", [False, True])
def test_a_merge_base_that_is_the_head_is_found_in_git(desk: Desk, opened: Opened, forwarded: bool) -> None:
    """After a merge by hand that was checked again the API's diff is empty; git knows where the change began."""
    desk.maintainer.ask("PATCH", desk.api, {"allow_manual_merge": True})
    base = desk.git("rev-parse", "origin/main")
    number = worked(desk, "no link")
    head = desk.git("rev-parse", "work")
    desk.ground.switched(recheck_before_mark=True)
    desk.git("checkout", "-q", "main")
    desk.git("merge", "-q", *(["--ff-only"] if forwarded else ["--no-ff", "-m", "By hand"]), "work")
    desk.git("push", "-q", "origin", "main")
    assert desk.merge(number, "manually-merged", MergeCommitID=desk.git("rev-parse", "HEAD")).status_code == 200
    reader = opened()
    pull = reader.forge.pull(desk.place, number)
    assert pull is not None
    if pull.merge_base != head:
        pytest.skip("this server did not check the pull request again before it was marked")
    assert desk.maintainer.ask("GET", f"{desk.api}/pulls/{number}.diff").text == ""
    found = reader.diffs([pull])[0][number]
    if forwarded:  # a fast-forward leaves no commit that knows
        assert found == "base_unknown"
    else:
        assert isinstance(found, PullDiff)
        assert (found.base_commit, found.head_commit, found.changed_paths) == (base, head, ("a.py",))


def test_a_row_younger_than_the_merge_is_no_link(desk: Desk, opened: Opened) -> None:
    """A body that is edited after the merge: the issue that it closed stays linked, the new target is none."""
    true, late = desk.issue("true"), desk.issue("late")
    number = worked(desk, f"Fixes #{true}")
    assert desk.merge(number, "squash").status_code == 200
    desk.ground.later()
    body = f"Was about #{true}. Fixes #{late}"
    assert desk.agent.ask("PATCH", f"{desk.api}/pulls/{number}", {"body": body}).status_code == 201
    assert ("pull_ref", "closes") in desk.references(late)
    assert issues(read(opened(), desk, number)) == [true]


def test_a_title_that_was_changed_after_the_merge_is_read_as_it_was(desk: Desk, opened: Opened) -> None:
    """The timeline keeps the old title, and with it the issue that the merge closed."""
    true = desk.issue()
    number = worked(desk, "No words.", title=f"Fixes #{true}")
    assert desk.merge(number, "squash").status_code == 200
    desk.ground.later()
    assert desk.agent.ask("PATCH", f"{desk.api}/pulls/{number}", {"title": "Something else"}).status_code == 201
    assert desk.references(true)[0][1] == "neutered"
    assert issues(read(opened(), desk, number)) == [true]


def test_closes_on_an_unmerged_pull_request_is_no_link(desk: Desk, opened: Opened) -> None:
    """The row says `closes` for ever; without a merge it means nothing, and the pull request is read no further."""
    issue = desk.issue()
    number = worked(desk, f"Fixes #{issue}")
    assert desk.maintainer.ask("PATCH", f"{desk.api}/pulls/{number}", {"state": "closed"}).status_code == 201
    assert desk.references(issue) == [("pull_ref", "closes")]
    reader = opened()
    found = read(reader, desk, number)
    assert (found.pull is not None and found.pull.merged, found.issues) == (False, ())
    assert found.pull is not None
    assert confirm(found.pull, desk.place, issue, reader.forge.timeline(desk.place, issue)) is None


def test_a_keyword_in_a_comment_links(desk: Desk, opened: Opened) -> None:
    """The row is `comment_ref` and as good as one from the body."""
    issue = desk.issue()
    number = worked(desk, "no link")
    desk.maintainer.post(f"{desk.api}/issues/{number}/comments", {"body": f"This closes #{issue}"})
    assert desk.merge(number, "squash").status_code == 200
    assert desk.references(issue) == [("comment_ref", "closes"), ("close", "none")]
    found = read(opened(), desk, number)
    assert (issues(found), [link.confidence for link in found.links]) == ([issue], ["closed"])


def test_a_reference_to_what_the_token_may_not_read_holds_nothing_up(ground: Ground, opened: Opened) -> None:
    """Anybody can write the number of a private issue: 403 there leaves the public pull request readable."""
    hidden, desk = ground.repository(private=True), ground.repository()
    secret, issue = hidden.issue(), desk.issue()
    number = worked(desk, f"Fixes {hidden.place}#{secret}, fixes #{issue}")
    assert desk.merge(number, "squash").status_code == 200
    narrow = ground.newcomer("narrow", "read:repository", "read:issue", "public-only")
    hidden.maintainer.ask("PUT", f"{hidden.api}/collaborators/{narrow.login}", {"permission": "read"})
    assert narrow.ask("GET", f"{hidden.api}/issues/{secret}").status_code == 403
    assert issues(read(opened(narrow.token), desk, number)) == [issue]


def test_a_pushed_revert_is_read_from_git_where_the_api_has_no_commit(desk: Desk, opened: Opened) -> None:
    """The timeline names the commit; its message is in git, too."""
    number = worked(desk, "no link")
    assert desk.merge(number, "squash").status_code == 200
    desk.ground.later()
    desk.git("fetch", "-q", "origin")
    desk.git("checkout", "-q", "-B", "main", "origin/main")
    merge = desk.git("rev-parse", "HEAD")
    message = f'Revert "Add it (#{number})"\n\nThis reverts commit {merge}.'
    desk.git("rm", "-q", "a.py")
    desk.git("commit", "-q", "-m", message)
    desk.git("push", "-q", "origin", "main")
    undo = desk.git("rev-parse", "HEAD")
    desk.until_referred(number, "commit_ref")
    fault = {"path": f"/api/v1{desk.api}/git/commits/{undo}", "status": 404, "body": '{"message":"not found"}'}
    desk.ground.quirk(faults=[fault])
    reader = opened()
    assert read(reader, desk, number).reverted is True
    pull = reader.forge.pull(desk.place, number)
    assert pull is not None
    assert reader.mirror.message(pull, undo) == f"{message}\n"
    assert reader.mirror.message(pull, "0" * 40) == ""
