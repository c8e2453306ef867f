"""Settling over the real database: twins of held-out issues, what an operator holds out, and any order of arrival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd import config
from fleetssd.adapters.minhash import buckets
from fleetssd.adapters.store import SqlStore
from fleetssd.config import parse
from fleetssd.errors import Rejected
from fleetssd.gitea import MergedPull
from fleetssd.operations.heldout import held_out, hold_out
from fleetssd.operations.ingest import poll_once
from fleetssd.operations.sides import settle_new
from fleetssd.records import PullDiff, Record, side
from fleetssd.split import settle
from fleetssd.toy.work import some_work
from fleetssd.twins import ties
from tests.fakes import FORGE, FORGE_START, FakeForge, FakeMirror, MemoryStore
from tests.unit.test_split import EMPTY

SETTINGS = parse(
    {
        "data_dir": "/unused",
        "forge": {"url": FORGE, "token_file": "/unused"},
        "fleet": {"agents": ["agent-*"], "repositories": ["fleet/*"]},
    }
)
RULES = SETTINGS.records
OUT = next(number for number in range(1001, 1100) if side([f"1#{number}"], RULES) == "held_out")
IN, IN_2 = [number for number in range(1001, 1100) if side([f"1#{number}"], RULES) == "train"][:2]

WISH = "Write `discount(prices, limit)`: return the total of the prices over 30, less 5 percent, but at most the limit."
CODE = """def discount(prices, limit):
    total = 0
    for price in prices:
        if price > 30:  # only the dear ones
            total += price * 0.95
    return min(total, limit)
"""
TWIN_WISH = WISH.replace("discount", "rebate").replace("prices", "amounts").replace("limit", "cap")
TWIN_CODE = """def rebate(amounts, cap):
    acc = 0
    for a in amounts:
        if (a > 30):
            # nur die teuren
            acc += a * 0.95

    return min(acc, cap)
"""
OTHER_WISH, OTHER_CODE = WISH.replace("30", "70"), CODE.replace("30", "70").replace("min", "max")


class Written(FakeMirror):
    """Diffs that add one file with the code of each pull request."""

    def __init__(self, code: dict[int, str]) -> None:
        super().__init__()
        self.code = code

    def diffs(self, pulls: Sequence[MergedPull]) -> dict[int, PullDiff | str]:
        """Return each pull request's file as a diff."""
        found: dict[int, PullDiff | str] = {}
        for pull in pulls:
            path, code = f"src/f{pull.key.number}.py", self.code[pull.key.number]
            lines = "".join(f"+{line}\n" for line in code.splitlines())
            head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,9 @@\n"
            found[pull.key.number] = PullDiff("b" * 40, "h" * 40, (head + lines).encode(), (path,), (), ("p" * 40,))
        return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty database."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield made
    made.close()


def poll(store: Any, forge: FakeForge, code: dict[int, str]) -> None:
    """Poll once with the real sketch."""
    redact = lambda text: (text, 0)  # noqa: E731
    poll_once(SETTINGS, forge, Written(code), store, redact, forge.now, lambda *_: None, buckets)


def known(store: SqlStore) -> dict[int, Record]:
    """Return the records by the number of their pull request."""
    return {record.pull: record for record in store.records()}


@pytest.mark.parametrize("twin_first", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_held_out_twin_with_changed_names_never_teaches(store: SqlStore, twin_first: bool, together: bool) -> None:
    """Renamed, reformatted and with translated comments, in either order: not in the window, and it says why."""
    forge, code = FakeForge(), {1: CODE, 2: TWIN_CODE, 3: OTHER_CODE}
    merges = [(1, OUT, WISH), (2, IN, TWIN_WISH)]
    for number, issue, wish in [*(reversed(merges) if twin_first else merges), (3, IN_2, OTHER_WISH)]:
        forge.merge(number, issue=issue, prompt=wish)
        if not together:
            poll(store, forge, code)
        forge.later(minutes=1)
    poll(store, forge, code)
    found = known(store)
    assert (found[1].state, found[2].state) == ("held_out", "refused")
    assert found[2].reasons == ("near_duplicate",)
    assert store.window(500, 500) == [found[3].id]
    assert held_out(store, SETTINGS).overlap == ()


def test_a_poll_that_was_killed_before_settling_is_settled_by_the_next(store: SqlStore) -> None:
    """What is filed and not settled is settled even where the forge has nothing new to say."""
    forge, code = FakeForge(), {1: CODE, 2: TWIN_CODE}
    forge.merge(1, issue=OUT, prompt=WISH)
    poll(store, forge, code)
    forge.later(hours=1)
    renamed = {name: getattr(known(store)[1], name).replace("discount", "rebate") for name in ("prompt", "solution")}
    twin = replace(known(store)[1], id="twin", pull=2, state="train", split_keys=(f"1#{IN}",), ties=(), **renamed)
    store.put_pulls([(twin.key, "t", twin)], forge.now)
    poll(store, forge, code)
    assert known(store)[2].reasons == ("near_duplicate",)
    assert store.unsettled(9) == []


def test_settling_in_steps_ends_where_settling_at_once_ends(store: SqlStore) -> None:
    """One by one over the database, or all in one pure step: the same records on the same sides."""
    filed = []
    for number, item in enumerate(some_work(2, 120)):
        keys, at = (f"1#{number % 100}",), FORGE_START + timedelta(minutes=number)
        one = replace(EMPTY, id=f"{number:04}", pull=number, split_keys=keys, state=side(keys, RULES), merged_at=at)
        filed.append(replace(one, reasons=(), prompt=item.body, solution=item.after, solution_path=item.path))
    changed = {one.id: one for one in settle([replace(one, ties=ties(one, buckets)) for one in filed], RULES)}
    memory = MemoryStore()
    for one in reversed(filed):
        memory.put_pulls([(one.key, "t", one)], FORGE_START)
        settle_new(memory, RULES, buckets, FORGE_START)
        store.put_pulls([(one.key, "t", one)], FORGE_START)
    settle_new(store, RULES, buckets, FORGE_START)
    expected = {one.id: (changed.get(one.id, one).state, changed.get(one.id, one).reasons) for one in filed}
    assert {one.id: (one.state, one.reasons) for one in store.records()} == expected
    assert {one.id: (one.state, one.reasons) for one in memory.records()} == expected


def test_what_an_operator_holds_out_takes_its_twins_along(store: SqlStore) -> None:
    """An issue that is held out by hand examines; what answers it again, renamed or not, never teaches."""
    forge, code = FakeForge(), {1: CODE, 2: TWIN_CODE, 3: OTHER_CODE, 4: OTHER_CODE}
    forge.merge(1, issue=IN, prompt=WISH)
    forge.later(minutes=1)
    forge.merge(2, issue=IN_2, prompt=TWIN_WISH)
    poll(store, forge, code)
    assert {record.state for record in store.records()} == {"train"}
    (moved,) = hold_out(store, SETTINGS, buckets, f"fleet/a#{IN}", forge.now)
    assert (moved.pull, moved.state) == (1, "held_out")
    assert known(store)[2].reasons == ("near_duplicate",)
    forge.later(minutes=1)
    forge.merge(3, issue=IN, prompt=OTHER_WISH)
    poll(store, forge, code)
    assert store.window(9, 9) == []


def test_an_issue_can_be_held_out_before_it_is_answered(store: SqlStore) -> None:
    """A number that no record names yet is held out for what is merged later, by its pull request's number too."""
    forge = FakeForge()
    forge.merge(1, issue=IN, prompt=WISH)
    poll(store, forge, {1: CODE})
    assert hold_out(store, SETTINGS, buckets, f"fleet/a#{IN_2}", forge.now) == []
    forge.later(minutes=1)
    forge.merge(2, issue=IN_2, prompt=OTHER_WISH)
    poll(store, forge, {2: OTHER_CODE})
    assert known(store)[2].state == "held_out"
    assert [record.pull for record in hold_out(store, SETTINGS, buckets, "fleet/a#1", forge.now)] == [1]


@pytest.mark.parametrize("name", ["fleet/a", "a#1", "fleet/a#x", "fleet/b#1"])
def test_a_name_that_names_nothing_is_rejected(store: SqlStore, name: str) -> None:
    """What is no issue, or of a repository that was never read, is refused with a hint."""
    with pytest.raises(Rejected) as caught:
        hold_out(store, SETTINGS, buckets, name, FORGE_START)
    assert caught.value.hint


def test_a_frozen_set_stays_as_it_is(store: SqlStore) -> None:
    """After the freeze a new issue teaches, and a second answer to a held-out one does neither."""
    forge, code = FakeForge(), {1: CODE, 2: OTHER_CODE, 3: "x = 1\n"}
    late = next(number for number in range(OUT + 1, 2000) if side([f"1#{number}"], RULES) == "held_out")
    forge.merge(1, issue=OUT, prompt=WISH)
    poll(store, forge, code)
    store.freeze_held_out(forge.now)
    forge.later(minutes=1)
    forge.merge(2, issue=late, prompt=OTHER_WISH)
    forge.merge(3, body=f"Fixes #{OUT}, fixes #{late}", issue=OUT, prompt="Set it")
    poll(store, forge, code)
    found = known(store)
    assert (found[1].state, found[3].reasons) == ("held_out", ("held_out_issue",))
    assert [record.pull for record in store.records("held_out")] == [1]


def test_the_held_out_set_is_described(store: SqlStore) -> None:
    """It says how many there are, of which repository and label, and what of the window leaks into it."""
    keys: Any = {"split_keys": ("1#1",), "reasons": (), "prompt": "p"}
    examines = replace(EMPTY, id="a", pull=1, state="held_out", labels=("house",), **keys)
    teaches = replace(EMPTY, id="b", pull=2, state="train", **keys | {"split_keys": ("1#2",)})
    for one in (examines, teaches):
        store.put_pulls([(one.key, "t", one)], FORGE_START)
        store.settle([one], FORGE_START)
    found = held_out(store, SETTINGS)
    assert (found.records, found.executed, found.waiting, found.consulted, found.frozen_at) == (1, 0, 1, 0, None)
    assert (found.by_repository, found.by_slice) == ({"fleet/a": 1}, {"house": 1})
    assert [(leak.held_out, leak.train) for leak in found.overlap] == [("fleet/a#1", "fleet/a#2")]


def test_the_threshold_is_a_setting() -> None:
    """At 1 only what is equal but for its names is a near-duplicate; below 0.7 the buckets would miss too many."""
    assert config.Records(near_duplicate=1).near_duplicate == 1
    with pytest.raises(ValueError, match="near_duplicate"):
        config.Records(near_duplicate=0.6)
