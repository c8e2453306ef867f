"""Simulated nights: the simulation is the gate's own arithmetic, and the gate keeps its promises in it."""

from __future__ import annotations

import numpy as np
import pytest

from fleetssd import scoring, simulation

ALPHA = 0.05


def test_planted_gains_are_what_they_say() -> None:
    """The mean difference is the planted one, gain or harm, and without any effect issues still differ in truth."""
    rng = np.random.default_rng(2)
    for effect in (-0.05, 0.0, 0.13):
        drawn = simulation.plant(effect, 500, 4, 400, rng)
        assert drawn.deltas.mean() == pytest.approx(effect, abs=0.003)
        assert drawn.between > 0.04
        variance = drawn.between**2 + 2 * drawn.within / 4
        assert drawn.deltas.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("problems", "samples"), [(20, 1), (60, 8)])
def test_the_lower_ends_are_the_gates(problems: int, samples: int) -> None:
    """Many nights at once give, night by night, the interval that the gate reads."""
    deltas = simulation.plant(0.05, problems, samples, 6, np.random.default_rng(1)).deltas
    single = [scoring.interval(row, level=1 - ALPHA, seed=3).low for row in deltas]
    assert simulation.lower_ends(deltas, ALPHA, 3) == pytest.approx(single, abs=1e-12)


@pytest.mark.parametrize(("problems", "samples"), [(20, 8), (100, 4)])
@pytest.mark.parametrize("effect", [0.0, -0.05])
def test_useless_and_harmful_nights_are_not_promoted(effect: float, problems: int, samples: int) -> None:
    """Of 1,000 nights without a gain at most 5 % are promoted."""
    assert simulation.power_cell(effect, problems, samples, 1_000, ALPHA).promoted <= 0.05


@pytest.mark.parametrize(("effect", "problems", "samples"), [(0.05, 60, 8), (0.13, 40, 4)])
def test_power_is_what_the_formula_says(effect: float, problems: int, samples: int) -> None:
    """Of 2,000 nights with a planted gain so many are promoted as computed, within 3 points."""
    cell = simulation.power_cell(effect, problems, samples, 2_000, ALPHA, seed=5)
    assert cell.gap <= 0.03
    assert 0.3 < cell.formula < 0.95


def test_sequential_evaluation_asks_fewer_issues_at_equal_error_rates() -> None:
    """Over useless, harmful, planned and large gains it asks at most 0.6 of what a fixed one of its power asks."""
    rows = simulation.savings((0.0, -0.05, 0.05, 0.13), 0.05, 8, 1_000, ALPHA, looks=12)
    assert np.mean([row.ratio for row in rows]) <= 0.6
    useless, harmful, planned, large = (row.promoted for row in rows)
    assert useless <= 0.025  # what the fixed one's lower end allows
    assert harmful <= useless
    assert planned >= 0.8
    assert large >= 0.99
    assert useless <= rows[0].fixed_promoted + 0.01
    assert planned == pytest.approx(rows[2].fixed_promoted, abs=0.04)


def test_an_evaluation_that_may_stop_shows_less_on_the_issues_of_a_fixed_one() -> None:
    """Where the hold-out has just the issues for 80 %, one that may stop early finds the planned gain in two thirds."""
    (found,) = simulation.savings((0.05,), 0.05, 8, 1_500, ALPHA, looks=12, room=1.0, seed=2)
    assert found.promoted == pytest.approx(0.66, abs=0.04)


@pytest.mark.parametrize(
    ("looks", "chance"), [(1, 0.05), (2, 0.083), (3, 0.107), (4, 0.126), (5, 0.142), (10, 0.193), (20, 0.248)]
)
def test_an_interval_that_is_read_often_promises_little(looks: int, chance: float) -> None:
    """Simulated: reading one candidate's interval after every block finds a useless one good this often."""
    assert simulation.peeking(looks, ALPHA, runs=100_000) == pytest.approx(chance, abs=0.003)


@pytest.mark.parametrize(
    ("part", "spent"),
    [(0.2, 1.2e-5), (0.25, 8.9e-5), (0.4, 0.001942), (0.5, 0.005575), (0.6, 0.011396), (0.75, 0.023625),
     (0.8, 0.02843), (1.0, 0.05)],
)  # fmt: skip
def test_the_curve_after_obrien_and_fleming(part: float, spent: float) -> None:
    """Almost nothing is spent early, all at the end."""
    assert simulation.spent_by(part, "obrien-fleming", ALPHA) == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize(
    ("part", "spent"), [(0.2, 0.01477), (0.4, 0.026157), (0.5, 0.031006), (0.6, 0.035426), (0.8, 0.043242), (1, 0.05)]
)
def test_the_curve_after_pocock(part: float, spent: float) -> None:
    """The budget is spent nearly evenly."""
    assert simulation.spent_by(part, "pocock", ALPHA) == pytest.approx(spent, abs=1e-6)


def test_lord_finds_more_at_the_same_promise() -> None:
    """Over 200 nights both rules keep the useless share at 5 %; LORD promotes several times more that are useful."""
    common = {"nights": 200, "fleets": 40, "alpha": ALPHA, "better": 0.2, "strength": 3.5, "seed": 3}
    lord, found = simulation.false_share(rule="lord", **common)  # type: ignore[arg-type]
    spending, few = simulation.false_share(rule="spending", **common)  # type: ignore[arg-type]
    assert lord <= 0.06
    assert spending <= 0.06
    assert found > 2 * few
