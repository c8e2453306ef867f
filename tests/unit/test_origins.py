"""Whose work a record holds: by named tasks, by its author's calls, by what served; and how much of it was merged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fleetssd.canary import Canary
from fleetssd.checkpoints import Checkpoint, Night, Swap
from fleetssd.origins import (
    Origin,
    counted,
    merge_rates,
    moved,
    origin,
    plain_task,
    rounds_of,
    task_names,
    trained_round,
)
from fleetssd.telemetry import MergeRate, Work
from fleetssd.trials import Trial
from tests.contract.stores import NOW, record

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RECORD = record(12, merged_at=NOW, issues=("fleet/app#7",), author="Bot-1")
ROUNDS = {"base": 0, "one": 1, "two": 2}
WORK = Work("fleet/app#7", "bot-1", "one", True, 3, NOW - 2 * HOUR, NOW - HOUR)
LOOSE = replace(WORK, task="a1b2", named=False, checkpoint="base")


def found(*works: Work, moves: Any = ((NOW - 2 * DAY, "one"),)) -> Origin:
    """Return the origin of the record by these calls."""
    return origin(RECORD, works, ROUNDS, moves, DAY)


def test_calls_that_name_the_task_decide() -> None:
    """The highest round of what answered the task counts, whatever else the author asked."""
    assert found(WORK, LOOSE) == Origin("r12", 1, "task", ("one",), 3)
    assert found(WORK, replace(WORK, checkpoint="two", calls=1)) == Origin("r12", 2, "task", ("one", "two"), 4)


@pytest.mark.parametrize(
    "name",
    [
        "fleet/app#7",
        "fleet/app#12",
        "https://gitea.example/fleet/app/issues/7",
        "https://gitea.example/fleet/app/pulls/12",
    ],
)
def test_a_task_is_the_issue_or_the_pull_request(name: str) -> None:
    """Either may be named, by number or by address."""
    assert found(replace(WORK, task=name)).basis == "task"
    assert plain_task(name) in ("fleet/app#7", "fleet/app#12")


def test_calls_of_others_do_not_count() -> None:
    """Another agent's answers, and those after the merge, are not what was merged."""
    assert found(replace(WORK, agent="bot-2")).basis == "none"
    assert found(replace(WORK, first=NOW + HOUR, last=NOW + HOUR)).basis == "none"
    assert found(replace(WORK, task="fleet/app#8")).basis == "none"
    assert found(replace(WORK, agent="")).basis == "task"


def test_without_a_task_the_authors_own_time_counts() -> None:
    """Where no call names the task, what answered its author in the hours before counts."""
    assert found(LOOSE) == Origin("r12", 0, "time", ("base",), 3)
    assert found(replace(LOOSE, first=NOW - 3 * DAY, last=NOW - 2 * DAY)).basis == "none"
    assert found(replace(LOOSE, agent="")).basis == "none"


def test_a_checkpoint_that_is_not_on_file_proves_nothing() -> None:
    """A round is not guessed from calls that some unknown model answered."""
    assert found(replace(WORK, checkpoint="?")) == Origin("r12", None, "none")


def test_where_only_the_base_had_served_nothing_else_can_be() -> None:
    """Without calls the log of moves decides, where it leaves no doubt."""
    assert found(moves=()) == Origin("r12", 0, "swaps")
    assert found(moves=((NOW + HOUR, "one"),)) == Origin("r12", 0, "swaps")
    assert found(moves=((NOW - HOUR, "base"),)) == Origin("r12", 0, "swaps", ("base",))
    assert found().round is None


def test_a_split_canary_is_a_move_and_a_shadow_is_none() -> None:
    """A share of the fleet's work may be a candidate's, though the alias never led to it."""
    split = Trial(1, Canary("two", "m", "split", 0.1, NOW, NOW + HOUR), "base", "operator")
    shadow = replace(split, canary=replace(split.canary, mode="shadow"))
    flip = Swap(1, "flip", "dawn", "base", "one", "m", 1, "", {}, NOW, True)
    assert moved([flip, replace(flip, done=False), replace(flip, kind="settle")], [split, shadow]) == [
        (NOW, "one"),
        (NOW, "two"),
    ]


def test_rounds_follow_from_what_was_learned() -> None:
    """Samples of the frozen base make round 1 whatever the records are; merged work makes one more than its own."""
    assert trained_round("ssd", {"0": 5, "2": 1}) == 1
    assert trained_round("merged", {"0": 5}) == 1
    assert trained_round("merged", {"0": 5, "1": 2, "unknown": 3}) == 2
    base = Checkpoint("base", "base", "b", "s", None, "none", 1.0, 1, NOW)
    adapter = replace(base, digest="one", kind="adapter", night=3)
    nights = [Night(3, "done", "merged", {"arm": "merged", "rounds": {"1": 4}}, NOW)]
    assert rounds_of([base, adapter, replace(adapter, digest="old", night=1)], nights) == {
        "base": 0,
        "one": 2,
        "old": 1,
    }


def test_records_are_counted_by_round() -> None:
    """Each round is there once, lowest first; what is not on file, or not known, is unknown."""
    known = {"a": Origin("a", 1, "task"), "b": Origin("b", 0, "swaps"), "c": Origin("c", None, "none")}
    assert counted(["a", "b", "c", "d"], known) == {"0": 1, "1": 1, "unknown": 2}
    assert counted([], known) == {}


def test_every_name_of_a_task_is_asked_for_once() -> None:
    """Issue and pull request by number and by address, as they are and in small letters."""
    names = task_names(replace(RECORD, issues=("Fleet/App#7",), repository="Fleet/App"))
    assert "Fleet/App#7" in names
    assert "fleet/app#7" in names
    assert "https://gitea.example/Fleet/App/pulls/12" in names
    assert len(names) == len(set(names))


def test_merge_rates_count_ripe_tasks_of_one_checkpoint() -> None:
    """A young task, one that two checkpoints answered and one that nobody named count for none."""
    merged = [RECORD, record(20, issues=(), state="refused", reasons=("not_merged",), author="bot-1")]
    works = [
        WORK,
        replace(WORK, task="https://gitea.example/fleet/app/pulls/20"),
        replace(WORK, task="fleet/app#30", checkpoint="base"),
        replace(WORK, task="fleet/app#31"),
        replace(WORK, task="fleet/app#31", checkpoint="base"),
        replace(WORK, task="fleet/app#32", first=NOW),
        LOOSE,
    ]
    assert merge_rates(works, merged, NOW - HOUR) == {"one": MergeRate(2, 1), "base": MergeRate(1, 0)}


def test_another_agents_merge_is_not_mine() -> None:
    """Two agents at one issue: only the author's checkpoint gets the merge."""
    rates = merge_rates([replace(WORK, agent="bot-2"), replace(WORK, checkpoint="base")], [RECORD], NOW)
    assert rates == {"one": MergeRate(1, 0), "base": MergeRate(1, 1)}
