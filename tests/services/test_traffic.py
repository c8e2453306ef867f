"""Calls, canaries and origins in a real database: what the gateway told, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetssd.adapters.store import SqlStore
from fleetssd.calls import Call, Gap
from fleetssd.canary import Canary
from fleetssd.checkpoints import Checkpoint
from fleetssd.errors import Corrupt
from fleetssd.origins import Origin
from fleetssd.telemetry import CallEnd, Filter, Work
from fleetssd.trials import Trial
from tests.contract.stores import file

NOW = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ONE = "1" * 64
CALL = Call("a" * 32, NOW, "bot-1", "fleet/app#12", "header", "/api/chat", "fleet-coder", "m:1", ONE, 200, 2 * 10**9)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open an empty database with one checkpoint on file."""
    made = SqlStore.open(f"sqlite:///{tmp_path / 's.sqlite3'}")
    made.put_checkpoint(Checkpoint(ONE, "adapter", "m:1", "s", 1, "adapter-create", 1.0, 1, NOW))
    yield made
    made.close()


def call(name: str, after: float = 0.0, **changes: Any) -> Call:
    """Return a call with this id, so many seconds after NOW."""
    return replace(CALL, id=name, at=NOW + after * SECOND, **changes)


def ids(store: SqlStore, **wanted: Any) -> list[str]:
    """Return the ids of the calls of this kind."""
    return [each.id for each in store.calls(Filter(**wanted), 100)]


def test_a_call_comes_back_whole(store: SqlStore) -> None:
    """Every field makes the round trip, the texts included; the same id twice is one row."""
    full = replace(
        CALL, fault="cut", finish="length", prompt_tokens=5, answer_tokens=9, empty=False, streamed=True, held_ns=3,
        first_ns=7, load_ns=1, shadow=True, of="b" * 32, request=b"\x00{", reply=b"}",
    )  # fmt: skip
    store.add_calls([full], None)
    store.add_calls([full, call("other")], None)
    assert store.calls(Filter(), 9) == [full, call("other")]


def test_no_text_is_on_file_unless_it_was_told(store: SqlStore) -> None:
    """A call without texts leaves no row for them."""
    store.add_calls([CALL], None)
    with store.reading() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM call_texts").scalar() == 0


def test_each_filter_finds_its_calls(store: SqlStore) -> None:
    """Calls are found by request (and what was made for it), agent, task, checkpoint, time and failure."""
    store.add_calls(
        [
            call("aa1"),
            call("bb1", 10, of="aa1", checkpoint=None, model="m:2", shadow=True),
            call("cc1", 20, agent="bot-2", task="t", status=500, fault="engine"),
            call("dd1", 30, agent="bot-3", status=0, fault="gone", checkpoint="2" * 64),
        ],
        None,
    )
    assert ids(store, request="aa") == ["bb1", "aa1"]
    assert ids(store, agent="bot-2") == ["cc1"]
    assert ids(store, task="t") == ["cc1"]
    assert ids(store, checkpoint="22") == ["dd1"]
    assert ids(store, checkpoint="m:2") == ["bb1"]
    assert ids(store, errors=True) == ["dd1", "cc1"]
    assert ids(store, since=NOW + 10 * SECOND, until=NOW + 30 * SECOND) == ["cc1", "bb1"]
    assert [each.id for each in store.calls(Filter(), 2)] == ["dd1", "cc1"]


def test_a_moment_shows_what_was_under_way(store: SqlStore) -> None:
    """A call counts from its start until its answer ended."""
    store.add_calls([call("long", -30, total_ns=60 * 10**9), call("over", -5), call("later", 1)], None)
    assert ids(store, at=NOW) == ["long"]
    store.add_calls([call(f"short{n}", -10 + n / 100) for n in range(50)], None)
    assert [each.id for each in store.calls(Filter(at=NOW), 1)] == ["long"]


def test_gaps_are_kept_with_their_moments(store: SqlStore) -> None:
    """A gap says how many calls are missing and between which moments."""
    gap = Gap(3, NOW, NOW + SECOND)
    store.add_calls([], gap)
    assert store.gaps() == [gap]
    assert store.gaps(NOW + SECOND) == []


def test_ends_are_those_of_one_checkpoint_and_window(store: SqlStore) -> None:
    """A window holds its start and not its end; what the gateway held is not the checkpoint's time."""
    store.add_calls([call("a", 0, held_ns=10**9, empty=True), call("b", 5), call("c", 1, checkpoint="2" * 64)], None)
    found = store.call_ends(ONE, NOW, NOW + 5 * SECOND)
    assert found == [CallEnd("/api/chat", 200, "", "", True, 10**9)]
    assert store.answering(NOW, NOW + 5 * SECOND) == [ONE, "2" * 64]


def test_work_is_counted_by_task_agent_and_checkpoint(store: SqlStore) -> None:
    """Answers are grouped; failures and shadows answered nobody."""
    store.add_calls(
        [
            call("a"),
            call("b", 5),
            call("c", 6, shadow=True),
            call("d", 7, fault="cut"),
            call("e", 8, task="conversation", task_source="conversation", agent="Bot-1"),
        ],
        None,
    )
    work = Work("fleet/app#12", "bot-1", ONE, True, 2, NOW, NOW + 5 * SECOND)
    loose = Work("conversation", "Bot-1", ONE, False, 1, NOW + 8 * SECOND, NOW + 8 * SECOND)
    span = (NOW, NOW + DAY)
    assert store.works(*span) == [work]
    assert store.works(*span, tasks=["fleet/app#12", "conversation"]) == [work]
    assert store.works(*span, agent="Bot-1") == [loose, work]
    assert store.works(*span, tasks=[]) == []


def test_old_calls_are_pruned_with_their_texts(store: SqlStore) -> None:
    """What is older goes, a bounded number at a time; what is younger stays."""
    old = [call(f"old{n}", -n, request=b"x") for n in range(1, 6)]
    store.add_calls([*old, call("new", request=b"y")], Gap(1, NOW - DAY, NOW - DAY))
    assert [store.prune_calls(NOW, 3), store.prune_calls(NOW, 3), store.prune_calls(NOW, 3)] == [3, 2, 0]
    assert ids(store) == ["new"]
    assert store.gaps() == []
    with store.reading() as session:
        assert session.connection().exec_driver_sql("SELECT call FROM call_texts").scalars().all() == ["new"]


TRIAL = Trial(0, Canary(ONE, "m:1", "split", 0.1, NOW, NOW + DAY), "b" * 64, "operator")


def test_a_canary_runs_alone_and_ends_once(store: SqlStore) -> None:
    """No second canary starts beside one; its end is written by whoever comes first."""
    begun = store.begin_trial(TRIAL)
    assert begun is not None
    assert begun.canary == TRIAL.canary
    assert store.begin_trial(TRIAL) is None
    assert store.canary() == TRIAL.canary
    ended = store.end_trial(begun.id, "aborted", "watch", "slow", NOW, {"calls": 3})
    assert ended is not None
    assert (ended.outcome, ended.ended_by, ended.ended_at, ended.evidence) == ("aborted", "watch", NOW, {"calls": 3})
    assert store.end_trial(begun.id, "promoted", "operator", "", NOW, {}) is None
    assert store.canary() is None
    assert store.trials() == [ended]
    assert store.begin_trial(TRIAL) is not None
    with pytest.raises(Corrupt, match="canary 99"):
        store.end_trial(99, "aborted", "operator", "", NOW, {})


def test_origins_are_looked_for_once(store: SqlStore) -> None:
    """A record waits until its origin is on file, whatever that says; refused ones wait for nothing."""
    file(store, 1, 2)
    file(store, 3, state="refused")
    assert [record.id for record in store.without_origin(9)] == ["r1", "r2"]
    known = Origin("r1", 1, "task", (ONE,), 4)
    store.put_origins([known, Origin("r2", None, "none")])
    assert store.without_origin(9) == []
    assert store.origins(["r1"]) == {"r1": known}
    store.put_origins([replace(known, round=2)])
    assert store.origins()["r1"].round == 2


def test_what_was_closed_since_is_read_in_every_state(store: SqlStore) -> None:
    """Refused pull requests tell too what was not merged."""
    file(store, 1)
    (late,) = file(store, 9, state="refused")
    assert store.merged_since(late.merged_at) == [late]
