"""Evidence that may be looked at any time: published values, its promise by simulation, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd import sequential
from fleetssd.sequential import Design

PLAN = sequential.design(0.05, 0.05, between=0.10, within=0.10, samples=4)
eighths = st.lists(st.integers(-8, 8), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (0, 0, 1),
        (6, 0, 9.1429),
        (8, 0, 28.4444),
        (10, 2, 4.7739),
        (15, 5, 3.2206),
        (20, 2, 789.4417),
        (30, 10, 31.6369),
    ],
)
def test_stakes_spread_over_both_sides_have_the_known_e_value(wins: int, losses: int, expected: float) -> None:
    """With one sample an issue they are a uniform prior on the win rate: 2^(b+c) B(b+1, c+1)."""
    assert spread(wins, losses, -1.0) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [(5, 5, 0.3694), (6, 0, 18.1429), (10, 2, 9.4406), (15, 5, 6.3555), (30, 10, 63.2279)],
)
def test_stakes_spread_over_gains_have_the_known_e_value(wins: int, losses: int, expected: float) -> None:
    """With one sample an issue they are a uniform prior on win rates above one half."""
    assert spread(wins, losses, 0.0) == pytest.approx(expected, abs=5e-5)


def spread(wins: int, losses: int, least: float) -> float:
    """Return the mean capital of bets on so many discordant issues whose stakes fill [least, 1] evenly.

    The capital is a polynomial of the stake, which Gauss and Legendre's rule integrates exactly.
    """
    nodes, weights = np.polynomial.legendre.leggauss(wins + losses + 1)
    stakes = least + (1.0 - least) * (nodes + 1.0) / 2.0
    deltas = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 7)
    capital = np.exp([float(sequential.log_capital(deltas, stake)) for stake in stakes])
    return float((weights * capital).sum() / 2.0)


def test_the_stake_grows_capital_fastest_at_the_planned_effect() -> None:
    """Neither a larger nor a smaller single stake grows faster in expectation, to second order."""
    variance = 0.10**2 + 2 * 0.10 / 4
    growth = [stake * 0.05 - stake**2 * (variance + 0.05**2) / 2 for stake in (PLAN.stake - 0.1, PLAN.stake, 0.9)]
    assert growth[1] == max(growth)
    assert PLAN.stake == pytest.approx(0.05 / (variance + 0.05**2))


def test_a_stake_never_risks_everything() -> None:
    """However quiet the issues are planned to be, a total loss leaves capital."""
    bold = sequential.design(0.13, 0.05, between=0.0, within=0.01, samples=8)
    assert bold.stake == 0.95
    assert math.isfinite(float(sequential.log_e(np.full(50, -1.0), bold.stake)))


def test_no_answers_no_capital() -> None:
    """The bet begins with a capital of 1 and says to go on."""
    assert float(sequential.log_e(np.array([]), 0.5)) == pytest.approx(0.0)
    assert sequential.look(np.array([]), PLAN) == "continue"


def test_promise_whenever_one_looks() -> None:
    """Simulated: of 4,000 candidates that gain nothing, looked at after every issue, at most alpha is promoted."""
    rng = np.random.default_rng(11)
    p = rng.beta(0.45, 0.6, (4000, 400))
    deltas = (rng.binomial(4, p) - rng.binomial(4, p)) / 4
    ever = (sequential.log_paths(deltas, PLAN.stake) >= PLAN.enough).any(axis=1).mean()
    assert 0.005 < ever <= 0.05


def test_promise_to_the_planned_effect() -> None:
    """Simulated: of 4,000 candidates that gain the planned effect, at most `miss` are ever given up."""
    rng = np.random.default_rng(12)
    p = rng.beta(0.45, 0.6, (4000, 400))
    better = p + 0.05 / (1 - 0.45 / 1.05) * (1 - p)
    deltas = (rng.binomial(4, better) - rng.binomial(4, p)) / 4
    ever = (sequential.log_paths(PLAN.effect - deltas, PLAN.stake) >= PLAN.hopeless).any(axis=1).mean()
    assert 0.01 < ever <= sequential.MISS


def test_a_path_ends_at_the_e_value() -> None:
    """The path after the last issue is the e-value of all."""
    deltas = np.random.default_rng(3).integers(-4, 5, (5, 30)) / 4
    assert sequential.log_paths(deltas, 0.4)[:, -1] == pytest.approx(sequential.log_e(deltas, 0.4))


def test_three_ends_of_a_look() -> None:
    """A clear gain stops and promotes, a clear loss stops and does not, little evidence goes on."""
    assert sequential.look(np.full(40, 0.5), PLAN) == "promote"
    assert sequential.look(np.full(40, -0.5), PLAN) == "futile"
    assert sequential.look(np.array([0.25, 0.0, -0.25]), PLAN) == "continue"


def test_a_smaller_share_of_the_budget_needs_more_capital() -> None:
    """The threshold is the inverse of tonight's share."""
    assert Design(0.05, 0.5, 0.01).enough == pytest.approx(math.log(100))


def test_an_e_value_is_a_finite_number() -> None:
    """The e-value is the capital; the largest is written as 1e300, which JSON can hold."""
    deltas = np.array([0.5, -0.25, 0.0])
    assert sequential.e_value(deltas, PLAN) == pytest.approx(math.exp(float(sequential.log_e(deltas, PLAN.stake))))
    assert sequential.e_value(np.ones(5000), PLAN) == pytest.approx(1e300)


@given(eighths, st.data())
def test_a_better_answer_never_lowers_the_capital(raw: list[int], data: st.DataObject) -> None:
    """Law: raise any delta, and the e-value does not fall; what was promoted still is."""
    deltas = np.array(raw) / 8
    better = deltas.copy()
    at = data.draw(st.integers(0, len(raw) - 1))
    better[at] = data.draw(st.floats(float(better[at]), 1.0))
    assert sequential.log_e(better, PLAN.stake) >= sequential.log_e(deltas, PLAN.stake) - 1e-12
    order = ("futile", "continue", "promote")
    assert order.index(sequential.look(better, PLAN)) >= order.index(sequential.look(deltas, PLAN))


@given(eighths, st.randoms(use_true_random=False))
def test_the_order_of_the_issues_does_not_matter(raw: list[int], chance: object) -> None:
    """Law: shuffled issues have the same e-value."""
    mixed = list(raw)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = (float(sequential.log_e(np.array(each) / 8, 0.6)) for each in (raw, mixed))
    assert first == pytest.approx(second, abs=1e-9)


@given(eighths)
def test_more_of_a_shown_gain_stays_shown(raw: list[int]) -> None:
    """Law: where a gain is shown, the same issues seen twice show it too."""
    deltas = np.array(raw) / 8
    if sequential.shown(deltas, PLAN):
        assert sequential.shown(np.tile(deltas, 2), PLAN)
