"""Any order of polls, webhooks, duplicates, page shifts, failures and crashes ends in the same records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from fleetssd.adapters.store import SqlStore
from fleetssd.errors import FleetError, Transient
from fleetssd.gitea import Commit
from tests.fakes import FORGE_START as START
from tests.fakes import FakeForge, FakeMirror, Killed, MemoryStore
from tests.services.test_ingest import SETTINGS, Dying, hint, poll

KINDS = (
    "merge", "agent", "twin", "close", "comment", "undo", "undo", "revert", "late", "break", "mend", "hint", "again",
    "poll", "poll", "poll", "shift", "kill before", "kill after",
)  # fmt: skip
STEPS = st.tuples(st.sampled_from(KINDS), st.integers(1, 3))
STORIES = st.lists(STEPS, min_size=10, max_size=40)
WINDOWS = st.integers(1, 4)
LATEST = timedelta(seconds=100)
PUSHED = "e"


class Story:
    """A forge, a store, and the steps that happen to them; every step takes some seconds."""

    def __init__(self, store: Any, window: int) -> None:
        self.store, self.forge, self.mirror, self.hints = store, FakeForge(window=window), FakeMirror(), 0
        self.late: dict[int, datetime] = {}

    def step(self, what: str, number: int) -> None:
        """Let one thing happen."""
        self.forge.later(seconds=20)
        if what == "poll":
            self._poll(self.store)
        elif what.startswith("kill"):
            self._poll(Dying(self.store, 2 * number, after=what == "kill after"))
        elif what == "shift":
            self.forge.complete = False
            self._poll(self.store, number)
            self.forge.complete = True
        else:
            getattr(self, f"_{what}")(number)

    def _poll(self, store: Any, *shifted: int) -> None:
        fresh = {number for number, at in self.late.items() if self.forge.now - at < LATEST}
        self.forge.hidden = fresh | set(shifted)
        with contextlib.suppress(FleetError, Killed):
            poll(store, self.forge, self.mirror)
        self.late.clear()  # a late row shows in the next poll

    def _merge(self, number: int, **more: Any) -> None:
        key = next((key for key in self.forge.pulls if key.number == number and self.forge.pulls[key].merged), None)
        if key is None:
            self.forge.merge(number, **more)

    def _agent(self, number: int) -> None:
        self._merge(number, merger="agent-2")

    def _twin(self, number: int) -> None:
        self._merge(number, issue=2000)

    def _revert(self, number: int) -> None:
        if any(pull.key.number == number and pull.merged for pull in self.forge.pulls.values()):
            self._merge(number + 20, author="maintainer", title=f'Revert "Work {number} (#{number})"', body="")

    def _close(self, number: int) -> None:
        self._merge(number, merged=False)

    def _comment(self, number: int) -> None:
        for pull in [pull for pull in self.forge.pulls.values() if pull.key.number == number]:
            moved = replace(pull, updated_at=self.forge.now.isoformat())
            self.forge.pulls[pull.key] = moved
            self.forge.touch(moved)

    def _undo(self, number: int) -> None:
        """Push git's own revert to the branch."""
        for pull in [pull for pull in self.forge.pulls.values() if pull.key.number == number and pull.merged]:
            sha = PUSHED * 39 + str(number)
            row = {"type": "commit_ref", "ref_commit_sha": sha, "created_at": self.forge.now.isoformat()}
            self.forge.timelines.setdefault(("fleet/a", number), []).append(row)
            self.forge.commits[sha] = Commit(sha, f"This reverts commit {pull.merge_commit}.", ())
            self.mirror.landed.add(sha)
            self._comment(number)

    def _late(self, number: int) -> None:
        if number not in {key.number for key in self.forge.pulls}:
            self._merge(number)
            self.late[number] = self.forge.now

    def _break(self, number: int) -> None:
        self.forge.broken[number] = Transient("busy")

    def _mend(self, number: int) -> None:
        self.forge.broken.pop(number, None)

    def _hint(self, number: int) -> None:
        self.hints += 1
        self.store.add_deliveries([hint(number, f"{self.hints:03}")], START)

    def _again(self, number: int) -> None:
        self.store.add_deliveries([hint(number, f"{self.hints:03}")], START)

    def end(self) -> list[Any]:
        """Mend everything, let time pass, poll, and return what is on file."""
        self.forge.broken.clear()
        for _ in range(4):
            self._poll(self.store)
            self.forge.later(days=2)
            self.forge.merge(99, closed_at=START)  # somebody's news, for which a poll looks around
        self._poll(self.store)
        assert self.store.open_deliveries() == []
        return known(self.store)


def known(store: Any) -> list[Any]:
    """Return the records without their ids, which tell how they were first met."""
    found = [record for record in store.records() if record.pull != 99]
    plain = [replace(record, id="", ties=(), reasons=tuple(sorted(record.reasons))) for record in found]
    return sorted(plain, key=lambda record: record.pull)


def whole(story: Story, fresh: Callable[[], Any]) -> list[Any]:
    """Return what one undisturbed poll of the same forge files."""
    store, story.forge.window = fresh(), 1000
    try:
        poll(store, story.forge, story.mirror)
        return known(store)
    finally:
        getattr(store, "close", lambda: None)()


MERGED_WHILE_AT_REST = [("break", 1), ("hint", 1), *[("poll", 1)] * 5, *[("merge", 1)] * 20]
"""A hint fails until it rests; then the pull request is merged, and the next poll comes after the overlap of two."""


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STORIES, WINDOWS)
@example(MERGED_WHILE_AT_REST, 1)
def test_every_order_ends_in_the_same_records(steps: list[tuple[str, int]], window: int) -> None:
    """What was disturbed in every way, window by window, is what one quiet backfill files."""
    story = Story(MemoryStore(), window)
    for what, number in steps:
        event(what)
        story.step(what, number)
    assert story.end() == whole(story, MemoryStore)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STORIES, window=WINDOWS)
def test_every_order_ends_in_the_same_records_in_a_database(
    tmp_path: Path, steps: list[tuple[str, int]], window: int
) -> None:
    """The same with real transactions."""
    made = iter(range(10**6))

    def fresh() -> SqlStore:
        name = next(made)
        (tmp_path / f"{name}.sqlite3").unlink(missing_ok=True)
        return SqlStore.open(f"sqlite:///{tmp_path / f'{name}.sqlite3'}")

    for old in tmp_path.glob("*.sqlite3*"):
        old.unlink()
    story = Story(fresh(), window)
    try:
        for what, number in steps:
            story.step(what, number)
        assert story.end() == whole(story, fresh)
    finally:
        story.store.close()


def test_the_settings_hold_no_surprise() -> None:
    """The overlap is longer than a row is ever late here."""
    assert SETTINGS.forge.overlap_seconds > LATEST.total_seconds()
