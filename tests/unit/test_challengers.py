"""Challengers: who is carried, how long, at which level; what promotes and what never does."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import sequential
from fleetssd.budget import gamma
from fleetssd.challengers import Challenger, Round, Ruling, carried, misfit, promotions, rule, standing, stays
from fleetssd.checkpoints import Checkpoint, Night, StageRow, VerdictRow
from fleetssd.config import Gate
from fleetssd.retention import expendable
from fleetssd.schedule import NextTimes
from fleetssd.serving import pending
from fleetssd.status import build_status, night_table

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
POLICY = Gate(challengers=3)
RULES = POLICY.model_dump(mode="json")
DESIGN = {"effect": 0.05, "stake": 0.4, "alpha": 0.01, "miss": 0.15}
HOPELESS = -math.log(0.15)


def interval(point: float) -> dict[str, float]:
    """Return an interval around a point."""
    return {"point": point, "low": point - 0.1, "high": point + 0.1}


def night(number: int, kind: Any = "keep", row: dict[str, Any] | None = None, **changes: Any) -> Night:
    """Return a decided night whose candidate is ahead and was asked issue `q<number>`, with these changes."""
    told: dict[str, Any] = {
        "policy": RULES, "lift": interval(0.04), "lift_k": interval(0.0), "alarms": [], "guards": [],
        **changes.pop("told", {}),
    }  # fmt: skip
    plan = {"base": "b", "incumbent": "b", "held_out": [f"q{number}"], "decode": {"temperature": 1.0, "order": ["t"]}}
    stages = [StageRow(number, "sample", {"design": DESIGN}, NOW, NOW)]
    stages += [StageRow(number, "challenge", row, NOW, NOW)] if row else []
    verdict = VerdictRow(number, kind, "why", f"n{number}", told, NOW)
    return Night(number, "done", "ssd", {**plan, **changes}, NOW, stages=tuple(stages), verdict=verdict)


def row(kind: str = "carry", origin: int = 1, gain: float = 1.0, problems: tuple[str, ...] = ("f1", "f2")) -> Any:
    """Return what a night says of the challenger of night `origin`."""
    asked = {"problems": list(problems), "gains": [gain], "against": -1.0, "samples": 4, "voids": 0}
    said = {"kind": kind, "reason": "said", "artefact": f"n{origin}", "origin": origin, "round": asked}
    return {**said, "e_value": 2.5, "needed": 91.0, "issues": len(problems)}


def challenger(*rounds: Round, level: float = 0.05) -> Challenger:
    """Return a challenger of night 1 with these rounds."""
    return Challenger(1, "n1", 1, level, 0.4, frozenset(), {}, rounds)


def asked(deltas: Any, *, voids: int = 0) -> Round:
    """Return a round of these deltas, four samples each."""
    found, bet = np.asarray(deltas, dtype=float), sequential.Design(0.05, 0.4, 0.05)
    against = float(sequential.log_e(bet.effect - found, bet.stake))
    problems = tuple(f"f{index}" for index in range(len(found)))
    return Round(problems, (float(sequential.log_e(found, bet.stake)),), against, 4 * len(found), voids)


def judged(*rounds: Round, at: int = 2, lift_k: float = 0.0, policy: Gate = POLICY) -> Ruling:
    """Return the ruling on these rounds at night `at`."""
    return rule(challenger(*rounds), policy, night=at, lift_k=lift_k, hopeless=HOPELESS)


def test_capital_is_carried_on() -> None:
    """E-values of fresh issues multiply over nights; of two rivals the lesser decides."""
    assert carried([math.log(4), math.log(6)]) == pytest.approx(math.log(24))
    both = [Round(("a",), (1.0, 3.0), 0.0, 1, 0), Round(("b",), (2.0, -1.0), 0.0, 1, 0)]
    assert challenger(*both).log_e == pytest.approx(2.0)
    assert challenger().e_value == 1.0


@pytest.mark.parametrize(
    ("kind", "told", "kept"),
    [
        ("keep", {}, True),
        ("reject", {}, False),
        ("promote", {}, False),
        ("invalid", {}, False),
        ("keep", {"policy": {**RULES, "challengers": 0}}, False),
        ("keep", {"lift": {"point": 0.0}}, False),
        ("keep", {"lift_k": {"point": -0.06}}, False),
        ("keep", {"alarms": [{"name": "length"}]}, False),
        ("keep", {"guards": [{"state": "open"}]}, False),
        ("keep", {"guards": [{"state": "holds"}, {"state": "few"}]}, True),
    ],
)
def test_who_may_be_carried(kind: str, told: dict[str, Any], kept: bool) -> None:
    """Only who was kept out, is ahead, and misses nothing but the proof; and only where settings say so."""
    assert stays(night(1, kind, told=told)) is kept
    assert (standing([night(1, kind, told=told)]) is not None) is kept


def test_a_challenger_begins_with_no_capital() -> None:
    """The night that chose it adds nothing to its e-value; its issues are not fresh, its stake is that night's."""
    found = standing([night(1)])
    assert found is not None
    assert (found.digest, found.e_value, found.fresh, found.seen) == ("n1", 1.0, 0, {"q1"})
    assert found.level == pytest.approx(0.025 * gamma(1))
    assert found.stake == DESIGN["stake"]


def test_rounds_are_carried_and_never_asked_again() -> None:
    """A night's round adds its capital, and its problems are seen; one kept meanwhile does not take its place."""
    found = standing([night(1), night(2, row=row(gain=1.5))])
    assert found is not None
    assert (found.digest, found.log_e, found.fresh, found.seen) == ("n1", 1.5, 2, {"q1", "f1", "f2"})


def test_what_an_evaluation_left_out_is_fresh() -> None:
    """An evaluation that stopped after one issue has judged by that one only."""
    found = standing([night(1, held_out=["q1", "q2"], told={"stopped": {"problems": 1}})])
    assert found is not None
    assert found.seen == {"q1"}


@pytest.mark.parametrize(
    "later",
    [
        [night(2, "promote")],
        [night(2, "reject", incumbent="other")],
        [night(2, "reject", base="other")],
        [night(2, "reject", told={"policy": {**RULES, "alpha": 0.1}})],
        [night(2, "reject", told={"policy": {**RULES, "challengers": 0}})],
        [night(2, "reject", row("drop"))],
        [night(2, "reject", row("promote"))],
        [night(2, "reject"), night(3, "reject"), night(4, "reject")],
    ],
)
def test_what_ends_a_challenger(later: list[Night]) -> None:
    """A newer promotion, another incumbent, base or rule, the settings, its own ruling, and the end of its nights."""
    assert standing([night(1), night(2, "reject")]) is not None
    assert standing([night(1), *later]) is None


def test_each_further_challenger_is_read_at_a_smaller_level() -> None:
    """The second has gamma(2) of its half of alpha, twice that after a promotion, and not so under `spending`."""
    first = [night(1), night(2, row=row("drop"))]
    found = standing(first)
    assert found is not None
    assert (found.digest, found.look, found.level) == ("n2", 2, pytest.approx(0.025 * gamma(2)))
    won = standing([night(1), night(2, row=row("promote"))])
    assert won is not None
    assert won.level == pytest.approx(0.05 * gamma(2))
    rules = {"policy": {**RULES, "budget": "spending"}}
    strict = standing([night(1, told=rules), night(2, row=row("promote"), told=rules)])
    assert strict is not None
    assert strict.level == pytest.approx(0.025 * gamma(2))


def test_terms_that_changed_are_named() -> None:
    """A plan with tuples and one from the database are the same; how long challengers live is no term."""
    found = standing([night(1)])
    assert found is not None
    plan = {**night(1).plan, "decode": {"temperature": 1.0, "order": ("t",)}}
    assert misfit(found, plan, {**RULES, "challengers": 9}) == ""
    assert misfit(found, {**plan, "incumbent": "x", "k": 3}, RULES) == "incumbent, k"


def test_a_promoted_challenger_waits_for_dawn_and_stays() -> None:
    """It is what is pending, by the row of the night that promoted it; nothing that is carried leaves the engine."""
    points = [Checkpoint("b", "base", "m:b", "s", None, "none", 1.0, 1, NOW)]
    points += [Checkpoint(f"n{n}", "adapter", f"m:{n}", f"s{n}", n, "adapter-registry", 1.0, 1, NOW) for n in (1, 2)]
    assert expendable([night(1), night(2, "reject", row())], [], points, 0) == (points[2],)
    nights = [night(1), night(2, "reject", row("promote"))]
    assert pending(nights, [], points) == points[1]
    assert expendable(nights, [], points, 0) == (points[2],)
    assert [(each.number, digest, why) for each, digest, why in promotions(nights)] == [
        (2, "n1", "challenger of night 1: said")
    ]


def test_status_tells_of_a_challenger() -> None:
    """Who is carried, with its e-value and the one it needs, and what each night said of it."""
    nights = [night(1), night(2, "reject", row(gain=math.log(4)))]
    now = build_status(
        now=NOW, nights=nights, swaps=[], checkpoints=[], records=[], cursor=None, watch_minutes=1.0,
        upcoming=NextTimes(NOW, NOW + timedelta(hours=1)),
    )  # fmt: skip
    assert now.challenger is not None
    assert now.challenger["e_value"] == pytest.approx(4.0)
    assert (now.challenger["digest"], now.challenger["night"], now.challenger["nights"]) == ("n1", 1, 1)
    assert [line["challenger"] and line["challenger"]["kind"] for line in night_table(nights)] == [None, "carry"]


def test_how_a_challenger_ends_or_goes_on() -> None:
    """Proven: promoted. Hopeless: dropped. Its nights over: dropped. Few issues, voids, pass@k: not promoted yet."""
    proven = asked([0.5] * 30)
    assert judged(proven).kind == "promote"
    assert judged(asked([0.5] * 15)).reason.endswith("20 issues are needed")
    assert judged(asked([0.5] * 15), asked([0.5] * 15)).kind == "promote"
    assert judged(proven, lift_k=-0.06).kind == "carry"
    assert judged(asked([0.5] * 30, voids=7)).reason.endswith("7 of 120 runs were sandbox faults")
    assert judged(asked([-0.5] * 30)).reason.startswith("futile")
    assert judged(asked([0.04] * 20), at=3).kind == "carry"
    assert judged(asked([0.04] * 20), at=4).reason.startswith("expired after 3 nights")


quarters = st.lists(st.integers(-4, 4), min_size=20, max_size=40)


@given(st.lists(quarters, min_size=1, max_size=3), st.data())
def test_a_worse_answer_or_a_void_never_promotes(raw: list[list[int]], data: st.DataObject) -> None:
    """Law: lower any delta of any night, with a void in its place or without, and nothing becomes a promotion."""
    which = data.draw(st.integers(0, len(raw) - 1))
    index = data.draw(st.integers(0, len(raw[which]) - 1))
    lower = data.draw(st.integers(-4, raw[which][index]))
    voids = data.draw(st.integers(0, 4))
    worse = [list(each) for each in raw]
    worse[which][index] = lower
    before = judged(*(asked(np.array(each) / 4) for each in raw))
    after = judged(*(asked(np.array(each) / 4, voids=voids * (n == which)) for n, each in enumerate(worse)))
    assert before.kind == "promote" or after.kind != "promote"


def lives(gain: float, count: int) -> float:
    """Return the share promoted of challengers with this true gain: three nights of 25 fresh issues, 4 samples."""
    rng, won = np.random.default_rng(7), 0
    for _ in range(count):
        rate = rng.beta(0.5, 0.5, size=(3, 25))
        better = np.clip(rate + gain, 0.0, 1.0)
        deltas = (rng.binomial(4, better) - rng.binomial(4, rate)) / 4
        rounds: list[Round] = []
        for number, each in enumerate(deltas, start=2):
            rounds.append(asked(each))
            ruling = judged(*rounds, at=number)
            won += ruling.kind == "promote"
            if ruling.kind != "carry":
                break
    return won / count


def test_a_useless_challenger_is_seldom_promoted() -> None:
    """Of 2,000 that gain nothing, looked at each night, at most the level of 5 % is promoted; a great gain is found."""
    assert lives(0.0, 2000) <= 0.05
    assert lives(-0.05, 500) <= 0.01
    assert lives(0.2, 200) >= 0.5
