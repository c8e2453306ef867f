"""The error budget over nights and over arms: published values, promises, and where its state comes from."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import budget
from fleetssd.budget import Look, Rule
from fleetssd.checkpoints import Night, VerdictRow
from fleetssd.scoring import NORMAL

NOW = datetime(2026, 12, 1, 2, tzinfo=UTC)


def past(*promoted: bool, rule: Rule = "lord", alpha: float = 0.05) -> list[Look]:
    """Return looks, one a night, that promoted or not."""
    return [Look(night, each, 0.001, rule, alpha) for night, each in enumerate(promoted, start=1)]


def night(number: int, kind: str | None, **evidence: object) -> Night:
    """Return a night with a verdict of this kind, or with none."""
    verdict = VerdictRow(number, kind, "", "d", evidence, NOW) if kind else None  # type: ignore[arg-type]
    return Night(number, "done" if kind else "failed", "ssd", {}, NOW, verdict=verdict)


@pytest.mark.parametrize(
    ("look", "share"),
    [(1, 0.030396), (2, 0.007599), (3, 0.003377), (7, 0.00062), (14, 0.000155), (30, 0.000034)],
)
def test_the_spent_budget_of_a_look(look: int, share: float) -> None:
    """The m-th look may spend 6 alpha / (pi^2 m^2)."""
    assert budget.spend(look, 0.05) == pytest.approx(share, abs=6e-7)


def test_the_spent_budget_is_never_overdrawn() -> None:
    """The shares of ten thousand looks stay below alpha; there is no look 0 and no lag 0."""
    assert 0.0499 < sum(budget.spend(look, 0.05) for look in range(1, 10_001)) < 0.05
    with pytest.raises(ValueError, match="from 1"):
        budget.spend(0, 0.05)
    with pytest.raises(ValueError, match="from 1"):
        budget.gamma(0)


def test_wealth_is_spent_once() -> None:
    """The shares of one wealth over all looks sum to 1, and the first look gets the most."""
    shares = [budget.gamma(lag) for lag in range(1, 200_001)]
    tail = 200_000**-0.6 / 0.6 / 2.2857656656801293  # the integral of what is left
    assert sum(shares) + tail == pytest.approx(1.0, abs=1e-5)
    assert shares == sorted(shares, reverse=True)


def test_without_a_promotion_the_start_wealth_is_all_there_is() -> None:
    """LORD's first share is half of alpha's first share, and a thousand dry nights spend less than half of alpha."""
    assert budget.tonight([], "lord", 0.05).alpha == pytest.approx(0.025 * budget.gamma(1))
    assert sum(budget.lord(look, [], 0.05) for look in range(1, 1001)) < 0.025


def test_a_promotion_gives_wealth_back() -> None:
    """The night after a promotion may spend more than it could without, the second promotion gives twice the first."""
    dry, first = budget.lord(5, [], 0.05), budget.lord(5, [4], 0.05)
    assert first - dry == pytest.approx(0.025 * budget.gamma(1))
    assert budget.lord(5, [3, 4], 0.05) - budget.lord(5, [3], 0.05) == pytest.approx(0.05 * budget.gamma(1))


def test_a_fleet_that_learns_can_go_on_learning_after_two_years() -> None:
    """With a promotion every tenth night the 700th night may still spend 300 times what alpha-spending leaves it."""
    every_tenth = list(range(10, 700, 10))
    assert budget.lord(700, every_tenth, 0.05) > 300 * budget.spend(700, 0.05)
    assert budget.lord(700, every_tenth, 0.05) > 1e-3


@given(st.lists(st.booleans(), max_size=60))
def test_lord_never_owes(promoted: list[bool]) -> None:
    """Law: all shares so far sum to at most alpha times the promotions (at least one), which bounds the false share."""
    history = past(*promoted)
    spent = sum(budget.tonight(history[:count], "lord", 0.05).alpha for count in range(len(history) + 1))
    assert spent <= 0.05 * max(1, sum(promoted)) + 1e-12


def test_false_promotions_stay_a_small_share() -> None:
    """Simulated: 300 fleets, 120 nights, one night in five truly better: at most 5 % of the promotions are useless."""
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(300):
        better = rng.random(120) < 0.2
        z = rng.normal(size=120) + 3.5 * better
        history: list[Look] = []
        false = 0
        for number in range(120):
            promoted = 1.0 - NORMAL.cdf(z[number]) <= budget.tonight(history, "lord", 0.05).alpha
            false += promoted and not better[number]
            history.append(Look(number, bool(promoted), 0.0, "lord", 0.05))
        shares.append(false / max(1, sum(look.promoted for look in history)))
    assert np.mean(shares) <= 0.05


def test_the_state_is_what_the_verdicts_say() -> None:
    """Every verdict before tonight is a look, by number; a failed night is none, nor is tonight's own verdict."""
    nights = [
        night(4, "invalid", alpha=0.001, budget={"rule": "lord", "budget": 0.05}),
        night(1, "keep", alpha=0.03),
        night(2, None),
        night(3, "promote", alpha=0.01, budget={"rule": "lord", "budget": 0.05}),
        night(5, "reject", alpha=0.02),
    ]
    found = budget.looks(nights, 5, 0.05)
    assert found == (
        Look(1, False, 0.03, "spending", 0.05),
        Look(3, True, 0.01, "lord", 0.05),
        Look(4, False, 0.001, "lord", 0.05),
    )
    share = budget.tonight(found, "lord", 0.05)
    assert (share.look, share.promotions, share.spent, share.changed) == (4, 1, pytest.approx(0.041), "")
    assert share.alpha == budget.lord(4, [2], 0.05)
    assert budget.tonight(found, "spending", 0.05).alpha == budget.spend(4, 0.05)


@pytest.mark.parametrize(
    ("rule", "alpha", "words"),
    [("spending", 0.05, "from lord 0.05 to spending 0.05"), ("lord", 0.1, "from lord 0.05 to lord 0.1")],
)
def test_another_rule_is_never_silent(rule: Rule, alpha: float, words: str) -> None:
    """A rule or an alpha other than the last verdict's keeps its history and is named in the share."""
    share = budget.tonight(past(False, True), rule, alpha)
    assert (share.look, share.promotions) == (3, 1)
    assert "since night 2" in share.changed
    assert words in share.changed


def test_a_challengers_level() -> None:
    """e-LOND: alpha gamma_t, times one more than the promotions so far."""
    assert budget.elond(1, 0, 0.05) == pytest.approx(0.05 * budget.gamma(1))
    assert budget.elond(7, 3, 0.05) == pytest.approx(0.2 * budget.gamma(7))


@pytest.mark.parametrize(
    ("looks", "chance"),
    [(5, 0.226), (7, 0.302), (10, 0.401), (14, 0.512), (20, 0.642), (30, 0.785), (90, 0.990)],
)
def test_without_a_budget_nights_add_up(looks: int, chance: float) -> None:
    """So many useless candidates, each judged at 5 %, promote one with this chance."""
    assert budget.uncorrected(looks, 0.05) == pytest.approx(chance, abs=5e-4)


def test_holm_adjusts_by_rank() -> None:
    """The smallest of three counts threefold, the next twofold but never less, none above 1; names keep their order."""
    assert budget.holm({"a": 0.03, "b": 0.01, "c": 0.02}) == {"a": 0.04, "b": 0.03, "c": 0.04}
    assert budget.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert budget.holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_helps(p_values: dict[str, float]) -> None:
    """Law: an adjusted p-value is never below the raw one, and keeps the order."""
    adjusted = budget.holm(p_values)
    assert all(p_values[name] <= value <= 1.0 for name, value in adjusted.items())
    by_raw = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in by_raw] == sorted(adjusted.values())
