"""One suite over every store: nights, their stages, samples, answers and verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleetssd.checkpoints import Sample, StageRow
from fleetssd.errors import Corrupt
from fleetssd.ports import Store
from tests.contract.stores import HOUR, NOW, answer, file, verdict


def test_night_opens_with_its_plan_frozen(store: Store) -> None:
    """Opening a night closes its first stage in the same transaction; the plan comes back as JSON says it."""
    night = store.open_night({"night": 1, "train": ("r1", "r2"), "lora": {"rank": 8}}, "ssd", NOW)
    assert (night.number, night.state, night.arm, night.started_at) == (1, "running", "ssd", NOW)
    assert night.plan == {"night": 1, "train": ["r1", "r2"], "lora": {"rank": 8}}
    assert [(row.stage, row.result["train"]) for row in night.stages] == [("freeze", 2)]
    assert store.night(1) == night


def test_night_opens_once(store: Store) -> None:
    """A restarted night is the night that it was, with the plan that it had."""
    first = store.open_night({"night": 1, "train": []}, "ssd", NOW)
    assert store.open_night({"night": 1, "train": ["r9"]}, "merged", NOW + HOUR) == first
    assert store.nights() == [first]


def test_unknown_night_is_none(store: Store) -> None:
    """A night that never was is none."""
    assert store.night(4) is None
    assert store.nights() == []


def test_nights_come_oldest_first(store: Store) -> None:
    """The order is by number."""
    for number in (2, 10, 1):
        store.open_night({"night": number}, "ssd", NOW)
    assert [night.number for night in store.nights()] == [1, 2, 10]


def test_stage_is_written_once(store: Store) -> None:
    """The first row of a stage is its truth; stages come in the night's order."""
    store.open_night({"night": 1}, "ssd", NOW)
    train = StageRow(1, "train", {"losses": [1.5, 0.25]}, NOW, NOW + HOUR)
    sample = StageRow(1, "sample", {"samples": 3}, NOW, NOW)
    store.finish_stage(train)
    store.finish_stage(sample)
    store.finish_stage(replace(train, result={"losses": []}))
    night = store.night(1)
    assert night is not None
    assert night.stages[1:] == (sample, train)


def test_a_challengers_row_comes_before_the_nights_own(store: Store) -> None:
    """A night that carries a challenger has one more stage, between the evaluation and the verdict."""
    store.open_night({"night": 1}, "ssd", NOW)
    rows = {name: StageRow(1, name, {}, NOW, NOW) for name in ("decide", "challenge", "evaluate")}  # type: ignore[arg-type]
    for row in rows.values():
        store.finish_stage(row)
    night = store.night(1)
    assert night is not None
    assert [row.stage for row in night.stages] == ["freeze", "evaluate", "challenge", "decide"]


def test_stage_of_an_unknown_night_is_corrupt(store: Store) -> None:
    """A stage belongs to a night."""
    with pytest.raises(Corrupt):
        store.finish_stage(StageRow(1, "train", {}, NOW, NOW))


def test_failed_night_says_why(store: Store) -> None:
    """A night that failed is closed with its reason."""
    store.open_night({"night": 1}, "ssd", NOW)
    store.fail_night(1, "no disk", NOW + HOUR)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.failure, night.finished_at) == ("failed", "no disk", NOW + HOUR)


def test_decided_night_cannot_fail(store: Store) -> None:
    """A verdict stands, whatever happens to the process afterwards."""
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), [], NOW)
    store.fail_night(1, "killed", NOW)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.failure) == ("done", "")


def test_samples_come_in_the_order_of_the_plan(store: Store) -> None:
    """One sample a record; the first one stays; the plan's order is the order of training."""
    file(store, 1, 2, 3)
    store.open_night({"night": 1, "train": ["r3", "r1", "r2"]}, "ssd", NOW)
    made = {name: Sample(1, name, "p", f"c {name}", 2**31 - 1, "stop", "engine") for name in ("r1", "r2", "r3")}
    store.add_samples([made["r1"], made["r2"]])
    store.add_samples([replace(made["r1"], completion="again"), made["r3"]])
    assert store.samples(1) == [made["r3"], made["r1"], made["r2"]]
    assert store.samples(2) == []


def test_samples_are_kept_together_or_not_at_all(store: Store) -> None:
    """A chunk with one impossible row leaves nothing."""
    file(store, 1)
    store.open_night({"night": 1, "train": ["r1"]}, "ssd", NOW)
    good = Sample(1, "r1", "p", "c", 1, "stop", "engine")
    with pytest.raises(Corrupt):
        store.add_samples([good, replace(good, record="lost")])
    assert store.samples(1) == []


def test_answers_are_kept_once_and_in_order(store: Store) -> None:
    """One answer a (night, arm, problem, index), the first one stays, ordered by those."""
    store.open_night({"night": 1}, "ssd", NOW)
    made = [answer("candidate", "p2", 0), answer("base", "p1", 10), answer("base", "p1", 2)]
    store.add_answers(made)
    store.add_answers([replace(made[0], passed=False), answer("base", "p0", 0, fault=True, detail="oom")])
    found = store.answers(1)
    assert [(row.arm, row.problem, row.index) for row in found] == [
        ("base", "p0", 0), ("base", "p1", 2), ("base", "p1", 10), ("candidate", "p2", 0),
    ]  # fmt: skip
    assert store.answers(1, "candidate") == [made[0]]
    assert store.answers(2) == []
    assert found[0].fault is True


def test_verdict_closes_the_night_and_uses_its_records(store: Store) -> None:
    """Verdict, used records, stage and state are one write."""
    file(store, 1, 2)
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), ["r1", "r2"], NOW)
    night = store.night(1)
    assert night is not None
    assert (night.state, night.verdict, night.finished_at) == ("done", verdict(1), NOW + HOUR)
    assert (night.stages[-1].stage, night.stages[-1].started_at) == ("decide", NOW)
    assert store.used_records() == {"r1": 1, "r2": 1}


def test_second_verdict_changes_nothing(store: Store) -> None:
    """A night decides once: a repeated decision uses no record twice and changes no mind."""
    file(store, 1, 2)
    store.open_night({"night": 1}, "ssd", NOW)
    store.decide(verdict(1), ["r1"], NOW)
    before = store.night(1)
    store.decide(verdict(1, "reject"), ["r2"], NOW + HOUR)
    assert store.night(1) == before
    assert store.used_records() == {"r1": 1}


def test_refused_verdict_leaves_nothing(store: Store) -> None:
    """A verdict that names a lost record is not half written."""
    file(store, 1)
    store.open_night({"night": 1}, "ssd", NOW)
    before = store.night(1)
    with pytest.raises(Corrupt):
        store.decide(verdict(1), ["r1", "lost"], NOW)
    assert store.night(1) == before
    assert store.used_records() == {}


def test_first_use_of_a_record_is_remembered(store: Store) -> None:
    """Every night trains from the base, so a record may teach again; its first night stays known."""
    file(store, 1)
    for number in (2, 3):
        store.open_night({"night": number}, "ssd", NOW)
        store.decide(verdict(number), ["r1"], NOW)
    assert store.used_records() == {"r1": 2}
