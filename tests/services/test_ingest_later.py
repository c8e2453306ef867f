"""What happens to a pull request after its merge, and what a poll does with those that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.config import Settings, parse
from fleetssd.errors import Misconfigured, Transient
from fleetssd.gitea import Commit, MergedPull
from tests.fakes import FORGE as INSTANCE
from tests.fakes import FORGE_START as START
from tests.fakes import FakeForge, FakeMirror
from tests.services.test_ingest import hint, known, poll

PLAIN = {"data_dir": "/unused", "forge": {"url": INSTANCE, "token_file": "/unused", "unreadable_after": 2}}
UNDO = "d" * 40


def settings(**fleet: Any) -> Settings:
    """Return settings with another fleet."""
    return parse({**PLAIN, "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"], **fleet}})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty database."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield made
    made.close()


def taken(store: SqlStore) -> tuple[FakeForge, MergedPull]:
    """Take one record."""
    forge = FakeForge()
    pull = forge.merge(1)
    poll(store, forge)
    forge.later(minutes=1)
    forge.calls.clear()
    return forge, pull


def push(forge: FakeForge, pull: MergedPull, message: str, sha: str = UNDO) -> None:
    """Push a commit that names the pull request."""
    row = {"type": "commit_ref", "ref_commit_sha": sha, "created_at": forge.now.isoformat()}
    forge.timelines.setdefault(("fleet/a", pull.key.number), []).append(row)
    forge.commits[sha] = Commit(sha, message, ())
    forge.touch(pull)


def test_a_revert_that_was_pushed_takes_its_record_back(store: SqlStore) -> None:
    """A commit in the branch says that it reverts the merge: the row moved, the timeline and the commit tell."""
    forge, pull = taken(store)
    push(forge, pull, f'Revert "Work 1 (#1)"\n\nThis reverts commit {pull.merge_commit}.')
    poll(store, forge, FakeMirror(landed={UNDO}))
    assert known(store)[1].reasons == ("reverted_later",)
    assert forge.calls == ["sweep", "timeline 1", "pull 1", "commit dddddddd"]


@pytest.mark.parametrize(
    ("message", "landed"),
    [(f"This reverts commit {1:040}.", False), (f"This reverts commit {7:040}.", True), ("Mention #1", True)],
)
def test_a_commit_that_takes_nothing_back_changes_nothing(store: SqlStore, message: str, landed: bool) -> None:
    """On a branch that was never merged, about another commit, or only a mention: the record stays."""
    forge, pull = taken(store)
    before = known(store)
    push(forge, pull, message)
    poll(store, forge, FakeMirror(landed={UNDO} if landed else set()))
    assert known(store) == before


@pytest.mark.parametrize("merged", [True, False])
def test_a_revert_that_no_list_shows_is_in_the_timeline(store: SqlStore, merged: bool) -> None:
    """Where only the agents' pull requests are listed, a maintainer's revert shows in the timeline of its victim."""
    forge, pull = taken(store)
    who = {
        "number": 9, "title": 'Revert "Work 1 (#1)"', "body": "", "user": {"login": "maintainer"},
        "pull_request": {"merged": merged}, "repository": {"id": 1, "full_name": "fleet/a"},
    }  # fmt: skip
    rows = [None, {"type": "pull_ref", "ref_issue": {**who, "repository": None}, "created_at": forge.now.isoformat()}]
    rows.append({"type": "pull_ref", "ref_issue": who, "created_at": forge.now.isoformat()})
    forge.timelines["fleet/a", 1] = rows  # type: ignore[assignment]
    forge.touch(pull)
    poll(store, forge)
    assert known(store)[1].reasons == (("reverted_later",) if merged else ())


def test_a_backfill_finds_old_reverts(store: SqlStore) -> None:
    """A pull request that moved since its merge is looked at for reverts when it is first read."""
    forge = FakeForge()
    pull = forge.merge(1)
    forge.later(days=1)
    pull = replace(pull, updated_at=forge.now.isoformat())
    forge.pulls[pull.key] = pull
    push(forge, pull, f"This reverts commit {pull.merge_commit}.")
    poll(store, forge, FakeMirror(landed={UNDO}))
    assert (known(store)[1].state, known(store)[1].reasons) == ("refused", ("reverted_later",))


def test_a_timeline_that_cannot_be_read_is_read_again(store: SqlStore) -> None:
    """A failure on the way to a revert holds the cursor; the next poll finds the revert."""
    forge, pull = taken(store)
    push(forge, pull, f"This reverts commit {pull.merge_commit}.")
    forge.broken[-1] = Transient("busy")
    with pytest.raises(Transient):
        poll(store, forge, FakeMirror(landed={UNDO}))
    forge.broken.clear()
    poll(store, forge, FakeMirror(landed={UNDO}))
    assert known(store)[1].reasons == ("reverted_later",)


def test_what_can_never_be_read_holds_nothing_up(store: SqlStore) -> None:
    """After some polls it is filed as unreadable and the cursor moves; read in the end, it is a record."""
    forge = FakeForge()
    forge.merge(1)
    forge.merge(2)
    forge.broken[1] = Transient("broken for ever")
    assert poll(store, forge, settings=settings()).failed == 1
    assert (sorted(known(store)), store.cursor(INSTANCE)) == ([2], None)
    forge.later(minutes=1)
    poll(store, forge, settings=settings())
    assert known(store)[1].reasons == ("unreadable",)
    assert store.cursor(INSTANCE) == forge.now
    forge.calls.clear()
    poll(store, forge, settings=settings())
    assert "pull 1" not in forge.calls
    forge.later(hours=2)
    forge.broken.clear()
    forge.merge(3)
    first = known(store)[1].id
    poll(store, forge, settings=settings())
    assert (known(store)[1].id, known(store)[1].reasons) == (first, ())


def test_an_unreadable_pull_request_rests_longer_and_longer(store: SqlStore) -> None:
    """The pause doubles, up to a day; others' news are what makes a poll look."""
    forge = FakeForge()
    forge.merge(1)
    forge.broken[1] = Transient("broken for ever")
    tried = []
    for hour in range(60):
        forge.merge(100 + hour)
        forge.calls.clear()
        poll(store, forge, settings=settings())
        tried += [hour] if "pull 1" in forge.calls else []
        forge.later(hours=1)
    assert tried == [0, 1, 2, 4, 8, 16, 32, 56]


def test_a_wrong_token_files_nothing_as_unreadable(store: SqlStore) -> None:
    """What an operator has to mend holds the cursor as long as it takes."""
    forge = FakeForge()
    forge.merge(1)
    forge.merge(2)
    forge.broken[1] = Misconfigured("not with this token")
    poll(store, forge, settings=settings())
    for _ in range(4):
        with pytest.raises(Misconfigured):
            poll(store, forge, settings=settings())
    assert (sorted(known(store)), store.cursor(INSTANCE)) == ([2], None)


def test_a_delivery_of_what_could_not_be_read_is_read(store: SqlStore) -> None:
    """A hint is a reason to try again at once."""
    forge = FakeForge()
    forge.merge(1)
    forge.broken[1] = Transient("busy")
    for _ in range(2):
        with pytest.raises(Transient):
            poll(store, forge)
    forge.broken.clear()
    forge.rows.clear()
    store.add_deliveries([hint(1)], START)
    poll(store, forge)
    assert known(store)[1].reasons == ()


def test_another_fleet_is_judged_anew(store: SqlStore) -> None:
    """A new agent's old work comes in, one who left goes out, and comes back with the setting, texts and all."""
    forge = FakeForge()
    forge.merge(1)
    forge.merge(2, author="bot")
    forge.merge(3, merger="robot")
    forge.merge(4, repository="other/b", author="stranger")
    poll(store, forge, settings=settings())
    first = known(store)
    assert {n: record.reasons for n, record in first.items()} == {1: (), 2: ("author_not_agent",), 3: ()}
    forge.later(days=9)
    poll(store, forge, settings=settings(agents=["bot", "robot"]))
    later = known(store)
    assert later[1].reasons == ("author_not_agent",)
    assert (later[2].reasons, later[2].id) == ((), first[2].id)
    assert later[3].reasons == ("author_not_agent", "merger_is_agent")
    forge.later(days=9)
    poll(store, forge, settings=settings())
    assert known(store)[1] == first[1]
    assert known(store)[3] == first[3]
    poll(store, forge, settings=settings(agents=["*"], repositories=["*"], require_human_merge=False))
    assert 4 in known(store)
    forge.calls.clear()
    forge.later(days=9)
    poll(store, forge, settings=settings(agents=["*"], repositories=["*"], require_human_merge=False))
    assert forge.calls == ["sweep"]


def test_labels_choose_who_teaches(store: SqlStore) -> None:
    """A label may be needed, and another may refuse; letter case does not count."""
    forge = FakeForge()
    forge.merge(1, labels=("Teach/Python",))
    forge.merge(2, labels=("teach/c", "wontlearn"))
    forge.merge(3)
    poll(store, forge, settings=settings(labels=["teach/*"], exclude_labels=["WONTLEARN"]))
    assert {n: record.reasons for n, record in known(store).items()} == {
        1: (), 2: ("label_excluded",), 3: ("label_missing",),
    }  # fmt: skip


def test_without_git_the_forge_tells_the_diff(store: SqlStore) -> None:
    """Where git is switched off the API's diff makes the record; where that is gone too, the reason says so."""
    forge = FakeForge()
    forge.merge(1)
    forge.merge(2)
    forge.merge(3)
    text = (
        b"diff --git a/t/test_x.py b/t/test_x.py\nnew file mode 100755\nindex 0..1\n--- /dev/null\n+++ b/t/test_x.py\n"
    )
    forge.diffs[1] = (text + b"@@ -0,0 +1 @@\n+assert 1\n", "e" * 40)
    forge.diffs[3] = (b"<html>no diff</html>", "e" * 40)
    forge.commits[f"{1:040}"] = Commit(f"{1:040}", "squashed", ("p" * 40,))
    summary = poll(store, forge, FakeMirror(broken=Misconfigured("git over HTTP is switched off")))
    record = known(store)[1]
    assert (record.reasons, record.tests) == ((), (("t/test_x.py", "assert 1\n"),))
    assert (record.head_commit, summary.without_git) == ("e" * 40, 1)
    assert (known(store)[2].reasons, known(store)[3].reasons) == (("head_gone",), ("no_diff",))


def test_without_git_or_api_the_first_error_is_told(store: SqlStore) -> None:
    """Nothing at all can be had: the mirror's own error is the poll's."""
    forge = FakeForge()
    forge.merge(1)
    with pytest.raises(Misconfigured, match="switched off"):
        poll(store, forge, FakeMirror(broken=Misconfigured("git over HTTP is switched off")))


def test_comments_older_than_the_pull_request_can_be_shown(store: SqlStore) -> None:
    """A setting shows the people's comments, none of them an agent's or later than the pull request."""
    forge = FakeForge()
    forge.merge(1, opened_at=START)
    rows = [("maintainer", "mind the gap", -1), ("agent-2", "I know!", -1), ("maintainer", "the answer is 42", 1)]
    forge.timelines["fleet/a", 1001] += [
        {
            "type": "comment",
            "user": {"login": who},
            "body": body,
            "created_at": (START + timedelta(hours=h)).isoformat(),
        }
        for who, body, h in rows
    ]
    shown = settings().model_copy(update={"records": settings().records.model_copy(update={"comments": "people"})})
    poll(store, forge, settings=shown)
    assert known(store)[1].prompt.endswith("Comment by maintainer:\n\nmind the gap")
    assert "42" not in known(store)[1].prompt


def test_a_renamed_repository_is_followed(store: SqlStore) -> None:
    """Named exactly in the settings and renamed since, it teaches on under its id, and the poll says so."""
    forge = FakeForge(followed={"fleet/new"})
    forge.merge(1, repository="fleet/new")
    forge.merge(2, repository="fleet/other")
    summary = poll(store, forge, settings=settings(repositories=["fleet/old"]))
    assert {n: record.reasons for n, record in known(store).items()} == {1: (), 2: ("repository_not_watched",)}
    assert [gap.split()[0] for gap in summary.gaps] == ["fleet/new"]


def test_a_delivery_of_a_renamed_repository_is_read(store: SqlStore) -> None:
    """A hint that names it as it was is read, and judged by the name that it has."""
    forge = FakeForge(followed={"fleet/new"})
    forge.merge(1, repository="fleet/new")
    forge.rows.clear()
    store.add_deliveries([hint(1)], START)
    poll(store, forge, settings=settings(repositories=["fleet/a"]))
    assert known(store)[1].reasons == ()


def test_settings_may_follow_a_rename(store: SqlStore) -> None:
    """Where the settings are given a repository's new name, what was taken under the old one stays."""
    forge, _ = taken(store)
    before = known(store)
    forge.followed = {"fleet/a"}
    poll(store, forge, settings=settings(repositories=["fleet/new"]))
    assert known(store) == before
