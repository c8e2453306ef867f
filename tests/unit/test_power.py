"""What a night can show, against tabulated values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fleetssd import power
from fleetssd.scoring import Scores


@pytest.mark.parametrize(
    ("delta", "discordant", "at_80", "at_90"),
    [
        (0.05, 0.10, 312, 417),
        (0.05, 0.15, 469, 627),
        (0.05, 0.20, 626, 837),
        (0.05, 0.25, 783, 1047),
        (0.05, 0.30, 940, 1257),
        (0.05, 0.40, 1254, 1678),
        (0.10, 0.10, 77, 101),
        (0.10, 0.20, 155, 206),
        (0.10, 0.30, 234, 312),
        (0.13, 0.15, 68, 90),
        (0.13, 0.25, 114, 152),
        (0.13, 0.30, 137, 183),
        (0.03, 0.20, 1742, 2331),
        (0.075, 0.20, 277, 370),
    ],
)
def test_sample_size_of_paired_shares(delta: float, discordant: float, at_80: int, at_90: int) -> None:
    """Problems needed to show a difference with one sample each, rounded up."""
    assert math.ceil(power.sample_size(delta, discordant)) == pytest.approx(at_80, abs=1)
    assert math.ceil(power.sample_size(delta, discordant, power=0.9)) == pytest.approx(at_90, abs=1)


@pytest.mark.parametrize(
    ("between", "expected"),
    [(0.10, (660, 346, 189, 110, 95)), (0.15, (699, 385, 228, 150, 134)), (0.20, (754, 440, 283, 205, 189))],
)
def test_more_samples_a_problem_need_fewer_problems(between: float, expected: tuple[int, ...]) -> None:
    """Problems needed for +5 pp with 1, 2, 4, 8 and 10 samples each."""
    found = [
        math.ceil(power.sample_size_repeated(0.05, between=between, within=0.10, samples=samples))
        for samples in (1, 2, 4, 8, 10)
    ]
    assert found == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("problems", "discordant", "points"),
    [
        (50, 0.2, 17.3),
        (50, 0.3, 21.2),
        (100, 0.1, 8.8),
        (100, 0.2, 12.4),
        (100, 0.3, 15.2),
        (131, 0.1, 7.7),
        (131, 0.2, 10.8),
        (131, 0.3, 13.3),
        (200, 0.1, 6.2),
        (200, 0.2, 8.8),
        (200, 0.3, 10.8),
        (300, 0.1, 5.1),
        (300, 0.2, 7.2),
        (300, 0.3, 8.8),
        (374, 0.1, 4.6),
        (374, 0.2, 6.5),
        (374, 0.3, 7.9),
        (500, 0.1, 4.0),
        (500, 0.2, 5.6),
        (500, 0.3, 6.8),
        (1000, 0.1, 2.8),
        (1000, 0.2, 4.0),
        (1000, 0.3, 4.8),
        (20, 0.4, 37),
    ],
)
def test_smallest_detectable_difference(problems: int, discordant: float, points: float) -> None:
    """The difference that so many problems show with 80 % power, in points."""
    assert 100 * power.detectable(problems, discordant) == pytest.approx(points, abs=0.5 if points == 37 else 0.06)


def test_too_few_problems_detect_nothing() -> None:
    """Where even the largest possible difference stays hidden there is no smallest one."""
    assert math.isnan(power.detectable(50, 0.1))


@pytest.mark.parametrize(
    ("alpha", "chance", "least"),
    [(0.05, 0.8, (0.3715, 0.6258)), (0.10, 0.8, (0.4340, 0.6167)), (0.10, 0.9, (0.4657, 0.5549)),
     (0.10, 0.95, (0.4897, 0.4897))],
)  # fmt: skip
def test_least_that_early_stops_ask(alpha: float, chance: float, least: tuple[float, float]) -> None:
    """Wald's expected sizes over the fixed one, worked by hand; equal errors make both equal."""
    assert power.wald(alpha=alpha, power=chance) == pytest.approx(least, abs=1e-4)


@pytest.mark.parametrize(("gain", "at"), [(0.0, 0), (0.1, 1)])
def test_a_simulated_test_of_walds_asks_hardly_more(gain: float, at: int) -> None:
    """1,000 runs end after the computed part of the fixed problems, but for what the last one oversteps by."""
    drawn = np.random.default_rng(5).normal(gain, 1.0, (1_000, 6_000))
    ratio = (0.1 * (drawn - 0.05)).cumsum(axis=1)  # log likelihood of a gain of 0.1 over that of none
    over = (ratio >= math.log(0.8 / 0.025)) | (ratio <= math.log(0.2 / 0.975))
    assert over.any(axis=1).all()
    asked = (over.argmax(axis=1) + 1).mean() / (2.8016 / 0.1) ** 2
    assert asked == pytest.approx(1.05 * power.wald()[at], rel=0.07)


def test_detectable_effect_from_tonights_spread() -> None:
    """(1.96 + .8416) standard errors; never more than 1."""
    deltas = np.array([1.0, -1.0] * 50)
    assert power.detectable_seen(deltas) == pytest.approx(2.8016 * deltas.std(ddof=1) / 10, abs=1e-4)
    assert power.detectable_seen(np.array([1.0])) == 1.0


@pytest.mark.parametrize(("problems", "samples"), [(20, 1), (20, 8), (200, 4)])
def test_a_gain_over_a_base_that_always_fails_is_shown_as_said(problems: int, samples: int) -> None:
    """The gain that is just detectable lies 2.8016 of its own binomial standard errors above 0."""
    least = power.least_detectable(problems, samples)
    error = math.sqrt(least * (1.0 - least) / (problems * samples))
    assert least / error == pytest.approx(2.8016, abs=1e-4)


@pytest.mark.parametrize(
    ("problems", "discordant", "delta", "expected"),
    [
        (20, 0.2, 0.05, 0.010),
        (50, 0.2, 0.05, 0.065),
        (100, 0.2, 0.05, 0.142),
        (200, 0.2, 0.05, 0.298),
        (300, 0.2, 0.05, 0.446),
        (500, 0.2, 0.05, 0.676),
        (800, 0.2, 0.05, 0.875),
        (20, 0.1, 0.05, 0.002),
        (50, 0.1, 0.05, 0.064),
        (100, 0.1, 0.05, 0.241),
        (200, 0.1, 0.05, 0.543),
        (300, 0.1, 0.05, 0.744),
        (500, 0.1, 0.05, 0.941),
        (800, 0.1, 0.05, 0.995),
        (20, 0.25, 0.13, 0.068),
        (50, 0.25, 0.13, 0.353),
        (100, 0.25, 0.13, 0.695),
        (200, 0.25, 0.13, 0.959),
    ],
)
def test_power_of_the_exact_test(problems: int, discordant: float, delta: float, expected: float) -> None:
    """20 problems with one sample each cannot show +5 points; the chance is 1 in 100."""
    assert power.mcnemar_power(problems, discordant, delta) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("choices", "errors"), [(1, 0.0), (5, 1.16), (10, 1.54), (50, 2.25), (100, 2.51)])
def test_the_best_of_many_flatters_itself(choices: int, errors: float) -> None:
    """The winner's curse: the expected maximum of so many standard normals."""
    assert power.flattery(choices) == pytest.approx(errors, abs=0.005)


@pytest.mark.parametrize(("problems", "samples"), [(189, 4), (110, 8), (500, 2)])
def test_chance_size_and_effect_of_repeated_samples_agree(problems: int, samples: int) -> None:
    """What is just detectable is shown with 80 % chance, and needs just so many problems."""
    plan = {"between": 0.10, "within": 0.10}
    effect = power.detectable_repeated(problems, samples=samples, **plan)  # type: ignore[arg-type]
    assert power.power_repeated(effect, problems, samples=samples, **plan) == pytest.approx(0.8, abs=0.01)  # type: ignore[arg-type]
    assert power.sample_size_repeated(effect, samples=samples, **plan) == pytest.approx(problems)  # type: ignore[arg-type]


def test_few_problems_show_less_than_the_normal_formula_says() -> None:
    """With 20 issues the spread is guessed too: what is detectable has 76 %, and one issue shows none."""
    plan = {"between": 0.10, "within": 0.10, "samples": 8}
    effect = power.detectable_repeated(20, **plan)  # type: ignore[arg-type]
    assert power.power_repeated(effect, 20, **plan) == pytest.approx(0.760, abs=0.005)  # type: ignore[arg-type]
    assert power.power_repeated(effect, 1, **plan) == 0.0  # type: ignore[arg-type]


def test_no_effect_is_larger_than_one() -> None:
    """A single problem with wild samples detects nothing, which is written as 1."""
    assert power.detectable_repeated(1, between=0.5, within=0.25, samples=1) == 1.0


def test_spread_within_problems_is_unbiased() -> None:
    """The mean over all outcomes of three samples is p(1-p); problems with one sample are left out, or pooled."""
    p = 0.3
    chances = [math.comb(3, c) * p**c * (1 - p) ** (3 - c) for c in range(4)]
    found = [power.within(Scores(("a", "b"), (3, 1), (c, 1))) for c in range(4)]
    assert sum(chance * each for chance, each in zip(chances, found, strict=True)) == pytest.approx(p * (1 - p))
    assert power.within(Scores(("a", "b"), (1, 1), (1, 0))) == 0.25
