"""Polling, over the real database: once, again, late, broken, killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.errors import Rejected, Transient
from fleetssd.gitea import Delivery, PullKey
from fleetssd.operations.ingest import PollSummary, poll_once
from fleetssd.records import Record
from tests.fakes import FORGE as INSTANCE
from tests.fakes import FORGE_START as START
from tests.fakes import FakeForge, FakeMirror, Killed

SETTINGS = parse(
    {
        "data_dir": "/unused",
        "forge": {"url": INSTANCE, "token_file": "/unused"},
        "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
    }
)


class Dying:
    """A store that kills the process at its n-th write, before or after it is done."""

    WRITES = ("put_pulls", "replace_record", "note_claims", "settle", "set_cursors", "close_delivery")

    def __init__(self, store: SqlStore, at: int, *, after: bool) -> None:
        self.store, self.left, self.after = store, at, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        return self._counted(method) if name in self.WRITES else method

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            result = method(*arguments)
            if self.left == 0:
                raise Killed
            return result

        return call


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty database."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield made
    made.close()


def poll(store: Any, forge: FakeForge, mirror: FakeMirror | None = None, settings: Any = SETTINGS) -> PollSummary:
    """Poll once."""
    redact = lambda text: (text, 0)  # noqa: E731
    return poll_once(settings, forge, mirror or FakeMirror(), store, redact, forge.now, lambda *_: None)


def known(store: SqlStore) -> dict[int, Record]:
    """Return the records by the number of their pull request."""
    return {record.pull: record for record in store.records()}


def hint(number: int, text: str = "1") -> Delivery:
    """Make a delivery that names a merge."""
    return Delivery(f"uuid-{text}", "pull_request", "fleet/a", 1, number, text * 64)


def test_a_merge_becomes_a_record(store: SqlStore) -> None:
    """A merged pull request is read, linked to its issue and filed; the cursor moves to the forge's clock."""
    forge = FakeForge()
    forge.merge(1)
    summary = poll(store, forge)
    assert (summary.rows, summary.read, summary.train + summary.held_out, summary.failed) == (1, 1, 1, 0)
    assert known(store)[1].issues == ("fleet/a#1001",)
    assert store.cursor(INSTANCE) == START


def test_a_quiet_poll_asks_once(store: SqlStore) -> None:
    """With nothing new, one sweep is all."""
    forge = FakeForge()
    forge.merge(1)
    poll(store, forge)
    forge.calls.clear()
    assert poll(store, forge).read == 0
    assert forge.calls == ["sweep"]


def test_a_comment_after_the_merge_changes_nothing(store: SqlStore) -> None:
    """A record that was taken stays as it was at its merge; its timeline alone is looked at, once, for a revert."""
    forge = FakeForge()
    pull = forge.merge(1)
    poll(store, forge)
    before = known(store)
    forge.later(minutes=1)
    forge.issues["fleet/a", 1001] = forge.issues["fleet/a", 1001].__class__("fleet/a", 1001, "changed", "", 1)
    forge.touch(pull)
    forge.calls.clear()
    poll(store, forge)
    poll(store, forge)
    assert forge.calls == ["sweep", "timeline 1", "sweep"]
    assert known(store) == before


def test_a_record_outlives_its_author(store: SqlStore) -> None:
    """An account that is deleted, or a title that is edited, after the merge takes nothing back."""
    forge = FakeForge()
    pull = forge.merge(1)
    poll(store, forge)
    before = known(store)
    forge.later(minutes=1)
    forge.touch(replace(pull, author="Ghost", title='Revert "Work 1"', body=""))
    poll(store, forge)
    assert known(store) == before


def test_a_late_row_is_found_by_the_overlap(store: SqlStore) -> None:
    """A row that appears after the sweep that should have shown it is in the next window."""
    forge = FakeForge()
    forge.later(minutes=10)
    poll(store, forge)
    late = forge.now - timedelta(seconds=200)
    forge.now, now = late, forge.now
    forge.merge(1)
    forge.now = now
    poll(store, forge)
    assert list(known(store)) == [1]


def test_rows_that_cannot_teach_are_not_read(store: SqlStore) -> None:
    """A stranger's, an unmerged and an unwatched pull request are refused by their rows."""
    forge = FakeForge()
    forge.merge(1, author="visitor")
    forge.merge(2, merged=False)
    forge.merge(3, repository="other/b")
    forge.merge(4, repository="other/b", author="visitor")
    poll(store, forge)
    assert forge.calls == ["sweep"]
    assert {n: record.reasons for n, record in known(store).items()} == {
        1: ("author_not_agent",), 2: ("not_merged",), 3: ("repository_not_watched",),
    }  # fmt: skip


def test_a_refused_pull_request_can_still_be_merged(store: SqlStore) -> None:
    """Closed first and merged later, it is one record, under the id it had."""
    forge = FakeForge()
    forge.merge(1, merged=False)
    poll(store, forge)
    first = known(store)[1]
    forge.later(minutes=1)
    forge.merge(1)
    poll(store, forge)
    second = known(store)[1]
    assert (first.id, len(store.records())) == (second.id, 1)
    assert (first.reasons, second.reasons) == (("not_merged",), ())


def test_a_hidden_pull_request_is_passed_over(store: SqlStore) -> None:
    """A row whose detail is gone is remembered, and not asked for again."""
    forge = FakeForge()
    pull = forge.merge(1)
    del forge.pulls[pull.key]
    poll(store, forge)
    forge.calls.clear()
    poll(store, forge)
    assert (forge.calls, store.records()) == (["sweep"], [])


def test_one_failure_holds_up_nobody(store: SqlStore) -> None:
    """A pull request that cannot be read now does not stop the others, but holds the cursor until it can."""
    forge = FakeForge()
    forge.merge(1)
    forge.merge(2)
    forge.broken[1] = Transient("busy")
    assert poll(store, forge).failed == 1
    assert (list(known(store)), store.cursor(INSTANCE)) == ([2], None)
    forge.broken.clear()
    poll(store, forge)
    assert sorted(known(store)) == [1, 2]
    assert store.cursor(INSTANCE) == START


def test_a_poll_that_reads_nothing_says_why(store: SqlStore) -> None:
    """Where every read fails, the first error is the poll's."""
    forge = FakeForge()
    forge.merge(1)
    forge.broken[1] = Rejected("no")
    with pytest.raises(Rejected):
        poll(store, forge)
    forge.broken.clear()
    with pytest.raises(Transient):
        poll(store, forge, FakeMirror(broken=Transient("no git")))
    assert (store.records(), store.cursor(INSTANCE)) == ([], None)


def test_rows_that_keep_moving_hold_the_cursor(store: SqlStore) -> None:
    """An incomplete sweep is filed, and swept again from where it began."""
    forge = FakeForge(complete=False)
    forge.merge(1)
    summary = poll(store, forge)
    assert (summary.complete, list(known(store)), store.cursor(INSTANCE)) == (False, [1], None)


def test_the_mirror_says_why_there_is_no_diff(store: SqlStore) -> None:
    """A reason from git refuses the record."""
    forge = FakeForge()
    forge.merge(1)
    poll(store, forge, FakeMirror(reasons={1: "head_gone"}))
    assert known(store)[1].reasons == ("head_gone",)


def test_a_comment_can_name_the_issue(store: SqlStore) -> None:
    """Where the pull request has comments, they are read for keywords."""
    forge = FakeForge()
    forge.merge(1, body="nothing here", comments=1)
    forge.timelines["fleet/a", 1] = [{"type": "comment", "body": "closes #1001"}, {"type": "comment", "body": None}]
    poll(store, forge)
    assert known(store)[1].issues == ("fleet/a#1001",)


def test_a_mention_is_asked_about_only_without_a_closer(store: SqlStore) -> None:
    """A plain mention can be what an edit left of a closing note; with a confirmed closer it is not looked at."""
    forge = FakeForge()
    forge.merge(1, body="about #1001")
    forge.merge(2, body="Fixes #1002, see #1001")
    poll(store, forge)
    assert (known(store)[1].issues, known(store)[2].issues) == (("fleet/a#1001",), ("fleet/a#1002",))
    assert forge.calls.count("issue 1001") == 1


def test_an_edit_after_the_merge_hides_no_link(store: SqlStore) -> None:
    """Of two closers, one was edited into a mention after the merge: both issues are still what was answered."""
    forge = FakeForge()
    pull = forge.merge(1, body="Fixes #1001, see #1002")
    edited = forge.now + timedelta(minutes=1)
    forge.pulls[pull.key] = replace(pull, updated_at=edited.isoformat())
    forge.merge(1, issue=1002, body=pull.body, updated_at=edited.isoformat())
    forge.timelines["fleet/a", 1002][0] |= {"ref_action": "neutered", "updated_at": edited.isoformat()}
    poll(store, forge)
    assert known(store)[1].issues == ("fleet/a#1001", "fleet/a#1002")


def test_an_issue_that_does_not_exist_is_no_link(store: SqlStore) -> None:
    """A keyword before a number that is no issue leaves the pull request's own text as the prompt."""
    forge = FakeForge()
    forge.merge(1, body="Fixes #5")
    poll(store, forge)
    assert (known(store)[1].issues, known(store)[1].prompt) == ((), "Work 1\n\nFixes #5")


def test_a_revert_takes_its_record_back(store: SqlStore) -> None:
    """A merged revert, whoever wrote it, refuses what it reverts, now and whenever that is read again."""
    forge = FakeForge()
    forge.merge(1)
    poll(store, forge)
    forge.later(minutes=1)
    forge.merge(2, author="maintainer", title='Revert "Work 1 (#1)"', body=f"This reverts commit {1:040}.")
    poll(store, forge)
    assert (known(store)[1].state, known(store)[1].reasons) == ("refused", ("reverted_later",))
    assert known(store)[2].reasons == ("author_not_agent", "is_revert")
    poll(store, forge)
    assert known(store)[1].reasons == ("reverted_later",)


def test_a_reverted_refusal_stays_reverted(store: SqlStore) -> None:
    """What was refused, then reverted, then read again, is still reverted."""
    forge = FakeForge()
    pull = forge.merge(1, merger="agent-2")
    forge.merge(2, title='Revert "Work 1"', body="Reverts #1")
    poll(store, forge)
    assert known(store)[1].reasons == ("merger_is_agent", "reverted_later")
    forge.later(hours=1)
    poll(store, forge)
    forge.merge(1)
    forge.touch(pull)
    poll(store, forge)
    assert known(store)[1].reasons == ("reverted_later",)


def test_twins_and_shared_issues_are_settled(store: SqlStore) -> None:
    """Of two pull requests for one issue the earlier teaches; the later is its near-duplicate."""
    forge = FakeForge()
    forge.merge(1, issue=500)
    forge.later(seconds=5)
    forge.merge(2, issue=500)
    poll(store, forge)
    assert known(store)[1].state in ("train", "held_out")
    assert known(store)[2].reasons == ("near_duplicate",)


def test_a_delivery_finds_what_no_sweep_shows(store: SqlStore) -> None:
    """A hint at a pull request that is in no window is read by itself, and then closed."""
    forge = FakeForge()
    forge.merge(1)
    forge.rows.clear()
    store.add_deliveries([hint(1)], START)
    summary = poll(store, forge)
    assert (summary.deliveries, list(known(store)), store.open_deliveries()) == (1, [1], [])


def test_a_delivery_of_what_is_known_reads_nothing(store: SqlStore) -> None:
    """A hint at a pull request of this sweep, of an earlier one, or named twice costs nothing more."""
    forge = FakeForge()
    forge.merge(1)
    store.add_deliveries([hint(1, "1")], START)
    store.add_deliveries([hint(1, "2")], START)
    poll(store, forge)
    store.add_deliveries([hint(1, "3")], START)
    forge.later(hours=1)
    poll(store, forge)
    assert forge.calls.count("pull 1") == 1
    assert store.open_deliveries() == []


def test_a_delivery_of_a_stranger_is_judged_like_any_other(store: SqlStore) -> None:
    """A hint is read from the forge, never believed: wrong author, gone, or another repository's id."""
    forge = FakeForge()
    forge.merge(1, author="visitor")
    forge.rows.clear()
    store.add_deliveries([hint(1, "1")], START)
    store.add_deliveries([hint(2, "2")], START)
    store.add_deliveries([Delivery("uuid-3", "pull_request", "fleet/a", 9, 1, "3" * 64)], START)
    poll(store, forge)
    assert {n: record.reasons for n, record in known(store).items()} == {1: ("author_not_agent",)}
    assert store.open_deliveries() == []


def test_progress_ends_at_the_end(store: SqlStore) -> None:
    """Progress counts the pull requests that are read."""
    forge, told = FakeForge(), list[tuple[int, int]]()
    for number in (1, 2, 3):
        forge.merge(number)
    redact = lambda text: (text, 0)  # noqa: E731
    poll_once(SETTINGS, forge, FakeMirror(), store, redact, START, lambda done, total, _: told.append((done, total)))
    assert (told[0], told[-1]) == ((0, 3), (3, 3))


def world() -> FakeForge:
    """Make a forge on which every kind of write happens: refusals, records, twins, a revert."""
    forge = FakeForge()
    forge.merge(1, issue=500)
    forge.merge(2, issue=500)
    forge.merge(3, author="visitor")
    forge.merge(4)
    forge.merge(5, title='Revert "Work 4"', body=f"This reverts commit {4:040}.")
    forge.merge(6, body="Fixes #1004", prompt="again")
    return forge


def end(store: SqlStore) -> tuple[Any, ...]:
    """Return everything that must not depend on crashes."""
    deliveries = [delivery.id for delivery in store.open_deliveries()]
    keys = [PullKey(INSTANCE, 1, number) for number in range(100)]
    return sorted(store.records(), key=lambda r: r.pull), store.seen(keys), store.cursor(INSTANCE), deliveries


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_changes_nothing(tmp_path: Path, after: bool) -> None:
    """Killed before or after any of its writes and started again, a poll ends in the same state as one that was not."""
    whole = SqlStore.open(f"sqlite:///{tmp_path / 'whole.sqlite3'}")
    whole.add_deliveries([hint(1)], START)
    poll(whole, world())
    expected = end(whole)
    whole.close()
    assert len(expected[0]) == 6
    for at in range(1, 40):
        store = SqlStore.open(f"sqlite:///{tmp_path / f'{at}.sqlite3'}")
        try:
            store.add_deliveries([hint(1)], START)
            try:
                poll(Dying(store, at, after=after), world())
                finished = True
            except Killed:
                finished = False
            poll(store, world())
            assert end(store) == expected, at
        finally:
            store.close()
        if finished:
            break
    assert finished
    assert at > 6


def test_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    """In one poll or one by one, forwards or backwards, by sweep or by hint: the same records."""
    ends = []
    for name, order in (("once", None), ("forwards", [1, 2, 3, 4, 5, 6]), ("backwards", [6, 5, 4, 3, 2, 1])):
        store = SqlStore.open(f"sqlite:///{tmp_path / f'{name}.sqlite3'}")
        forge = world()
        rows = dict(forge.rows)
        for number in order or []:
            key = PullKey(INSTANCE, 1, number)
            forge.rows = {key: rows[key]} if number % 3 else {}
            if number % 2 or not forge.rows:
                store.add_deliveries([hint(number, str(number))], START)
            poll(store, forge)
        forge.rows = rows
        poll(store, forge)
        ends.append(sorted(store.records(), key=lambda r: r.pull))
        store.close()
    assert ends[0] == ends[1] == ends[2]
