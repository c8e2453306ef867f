"""pass@k, intervals and tests against published or closed-form values."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fleetssd import scoring
from fleetssd.scoring import Scores


def scores(*pairs: tuple[int, int], slices: tuple[tuple[str, ...], ...] = ()) -> Scores:
    """Return scores from (n, c) pairs."""
    ids = tuple(f"p{index}" for index in range(len(pairs)))
    return Scores(ids, tuple(n for n, _ in pairs), tuple(c for _, c in pairs), slices)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916667),
        (10, 1, 5, 0.5),
        (20, 5, 10, 0.983746),
        (10, 6, 5, 1.0),
        (10, 0, 5, 0.0),
        (200, 1, 100, 0.5),
    ],
)
def test_pass_at_k_is_the_unbiased_estimate(n: int, c: int, k: int, expected: float) -> None:
    """pass@k equals 1 - C(n-c,k)/C(n,k)."""
    assert scoring.pass_at_k(scores((n, c)), k)[0] == pytest.approx(expected, abs=5e-7)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_one_sample_exact_and_rises_with_k(case: tuple[int, int, int]) -> None:
    """pass@1 is c/n, and pass@k never falls with k."""
    n, c, k = case
    one = scores((n, c))
    assert scoring.pass_at_k(one, 1)[0] == pytest.approx(c / n)
    assert scoring.pass_at_k(one, k)[0] >= scoring.pass_at_k(one, 1)[0] - 1e-12


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_samples(k: int) -> None:
    """A k that the samples cannot estimate is refused."""
    with pytest.raises(ValueError, match="needs at least"):
        scoring.pass_at_k(scores((4, 2)), k)


@pytest.mark.parametrize(
    ("ids", "n", "c", "slices"),
    [
        (("a", "a"), (1, 1), (0, 0), ()),
        (("a",), (1, 1), (0,), ()),
        (("a",), (0,), (0,), ()),
        (("a",), (1,), (2,), ()),
        (("a",), (1,), (1,), (("x",), ("y",))),
    ],
)
def test_impossible_scores_are_refused(ids, n, c, slices) -> None:  # type: ignore[no-untyped-def]
    """Counts that cannot be counts never become a score."""
    with pytest.raises(ValueError, match=r"must|needs"):
        Scores(ids, n, c, slices)


def test_tally_counts_voids_against_the_candidate() -> None:
    """A void fails the candidate and passes what it is compared with; problems are sorted."""
    rows = [("b", True, False), ("a", False, True), ("a", True, False), ("b", False, False)]
    mine = scoring.tally(rows, voids_pass=False, slices={"a": ("house",)})
    other = scoring.tally(rows, voids_pass=True)
    assert (mine.ids, mine.n, mine.c, mine.slices) == (("a", "b"), (2, 2), (1, 1), (("house",), ()))
    assert (other.c, other.slices) == ((2, 1), ())


def test_paired_bootstrap_reproduces_the_closed_form() -> None:
    """200 problems, 30 won, 15 lost: delta .075, interval about [.010, .140], both methods."""
    values = np.array([1.0] * 30 + [-1.0] * 15 + [0.0] * 155)
    assert values.std(ddof=1) / np.sqrt(200) == pytest.approx(0.033202, abs=1e-6)
    assert (error := values.std() / np.sqrt(200)) == pytest.approx(0.033119, abs=1e-6)
    assert (0.075 - 1.96 * error, 0.075 + 1.96 * error) == pytest.approx((0.0101, 0.1399), abs=1e-4)
    for method in ("percentile", "bca"):
        found = scoring.interval(values, method=method, seed=3)  # type: ignore[arg-type]
        assert found.point == pytest.approx(0.075)
        assert (found.low, found.high) == (pytest.approx(0.010, abs=0.004), pytest.approx(0.140, abs=0.004))


def test_bca_shifts_the_interval_of_skewed_values() -> None:
    """For right-skewed values both ends of BCa lie above the percentile's."""
    values = np.random.default_rng(4).exponential(size=300)
    plain = scoring.interval(values, seed=1)
    shifted = scoring.interval(values, method="bca", seed=1)
    assert shifted.low > plain.low
    assert shifted.high > plain.high


def test_bca_is_scipys() -> None:
    """Both ends of skewed gains lie where scipy's BCa has them, to within one resample's step."""
    values = np.array([0.875, 0.75, 0.625, 0.5, 0.375, 0.25, -0.125] + [0.0] * 53)
    ours = scoring.interval(values, method="bca")
    theirs = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, random_state=5).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_bca_of_equal_values_is_a_point() -> None:
    """Without spread the interval is the mean."""
    found = scoring.interval(np.full(5, 0.5), method="bca")
    assert (found.low, found.point, found.high) == (0.5, 0.5, 0.5)


def test_the_same_seed_gives_the_same_interval() -> None:
    """Intervals are reproducible, and a narrower error share gives a wider one."""
    values = np.random.default_rng(0).normal(size=60)
    assert scoring.interval(values, seed=5) == scoring.interval(values, seed=5)
    wide = scoring.interval(values, level=0.999, seed=5)
    assert wide.low < scoring.interval(values, seed=5).low


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=2, max_size=30), st.data())
def test_the_percentile_interval_never_falls_when_a_value_rises(raw: list[int], data: st.DataObject) -> None:
    """The law that the gate stands on: better on one problem is never worse at either end."""
    values = np.array(raw) / 8.0
    better = values.copy()
    better[data.draw(st.integers(0, len(raw) - 1))] += data.draw(st.floats(0, 1))
    before, after = scoring.interval(values, seed=2), scoring.interval(better, seed=2)
    assert after.low >= before.low - 1e-12
    assert after.high >= before.high - 1e-12


def test_no_values_no_estimate() -> None:
    """An empty hold-out has no interval."""
    with pytest.raises(ValueError, match="no problems"):
        scoring.interval(np.array([]))


def test_one_problem_excludes_nothing() -> None:
    """Resampling one problem gives itself every time: its interval is all there can be, not a point."""
    mine, other = scores((8, 5)), scores((8, 2))
    for method in get_args(scoring.Method):
        gain = scoring.difference(mine, other, method=method)
        assert (gain.point, gain.low, gain.high) == (0.375, -1.0, 1.0)
    alone = scoring.estimate(mine)
    assert (alone.point, alone.low, alone.high) == (0.625, 0.0, 1.0)


def test_arms_are_paired_by_problem() -> None:
    """The difference is taken within problems, and other problems are refused."""
    left, right = scores((4, 3), (4, 1)), scores((4, 1), (4, 1))
    found = scoring.difference(left, right)
    assert (found.point, found.problems) == (0.25, 2)
    with pytest.raises(ValueError, match="same problems"):
        scoring.difference(left, scores((4, 1)))


def test_estimate_is_the_mean_over_problems() -> None:
    """Problems weigh the same whatever their number of samples."""
    found = scoring.estimate(scores((2, 2), (8, 0), (4, 1)))
    assert found.point == pytest.approx(1.25 / 3)
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_share_of_problems_has_wilsons_interval() -> None:
    """One sample a problem, or k of k: 7 of 20 problems; and none of 20 is no proof that none ever passes."""
    for made in ([(1, 1)] * 7 + [(1, 0)] * 13, [(4, 2)] * 7 + [(4, 0)] * 13):
        found = scoring.estimate(scores(*made), made[0][0])
        assert (found.point, found.problems) == (0.35, 20)
        assert (found.low, found.high) == pytest.approx((0.1812, 0.5671), abs=5e-5)
    assert scoring.estimate(scores(*[(8, 0)] * 20)).high == pytest.approx(0.1611, abs=5e-5)
    assert scoring.estimate(scores(*[(8, 8)] * 20), level=0.99).low == pytest.approx(0.7509, abs=5e-5)


@pytest.mark.parametrize(
    ("wins", "losses", "two_sided", "one_sided", "mid_p"),
    [
        (0, 0, 1, 1, 1),
        (5, 0, 0.0625, 0.03125, 0.03125),
        (6, 0, 0.03125, 0.015625, 0.015625),
        (7, 1, 0.070312, 0.035156, 0.039063),
        (9, 2, 0.065430, 0.032715, 0.038574),
        (10, 2, 0.038574, 0.019287, 0.022461),
        (15, 5, 0.041389, 0.020695, 0.026604),
        (20, 10, 0.098737, 0.049369, 0.070756),
        (30, 15, 0.035698, 0.017849, 0.025896),
    ],
)
def test_mcnemar_is_exact(wins: int, losses: int, two_sided: float, one_sided: float, mid_p: float) -> None:
    """The three p-values of a Binomial(b+c, 1/2)."""
    found = scoring.mcnemar(wins, losses)
    assert (found.two_sided, found.one_sided, found.mid_p) == pytest.approx((two_sided, one_sided, mid_p), abs=1e-6)


def test_sign_flip_of_equal_wins_is_mcnemar() -> None:
    """With deltas of one size the exact sign-flip test is the two-sided McNemar test."""
    values = np.array([1.0] * 10 + [-1.0] * 2 + [0.0] * 40)
    assert scoring.sign_flip(values) == pytest.approx(0.038574, abs=1e-6)
    many = np.array([1.0] * 20 + [-1.0] * 10)
    assert scoring.sign_flip(many, resamples=40_000) == pytest.approx(0.098737, abs=0.006)


def test_one_sample_an_issue_is_tested_exactly() -> None:
    """With one sample an issue the p-value is McNemar's; with more it is that of sign flips."""
    left, right = scores(*[(1, 1)] * 10, *[(1, 0)] * 2), scores(*[(1, 0)] * 10, *[(1, 1)] * 2)
    assert scoring.paired_p(left, right) == pytest.approx(0.038574, abs=1e-6)
    many = scores(*[(1, 1)] * 20, *[(1, 0)] * 10), scores(*[(1, 0)] * 20, *[(1, 1)] * 10)
    assert scoring.paired_p(*many) == scoring.mcnemar(20, 10).two_sided
    twice = scores((2, 2), (2, 1), (2, 0)), scores((2, 0), (2, 1), (2, 0))
    assert scoring.paired_p(*twice) == scoring.sign_flip(np.array([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("moved", [5, 12])
def test_exact_sign_flips_are_scipys(moved: int) -> None:
    """All flips of up to 12 gains of any size are counted as scipy counts them; issues that are alike add nothing."""
    values = np.array([0.5, -0.25, 0.125, 0.75, -0.125, 0.25, 0.5, 0.875, -0.5, 0.125, 0.25, -0.25][:moved])
    pairs = (values, np.zeros(moved))
    theirs = stats.permutation_test(
        pairs, lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert scoring.sign_flip(np.append(values, [0.0] * 9)) == pytest.approx(theirs.pvalue)


def test_sign_flip_without_any_difference_shows_nothing() -> None:
    """Equal arms have p = 1, and a Monte Carlo p-value is never 0."""
    assert scoring.sign_flip(np.zeros(9)) == 1.0
    assert scoring.sign_flip(np.ones(40), resamples=999) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("tail", "freedom", "expected"),
    [(0.025, 19, 2.0930), (0.025, 8, 2.3060), (0.005, 19, 2.8609), (0.0005, 40, 3.5510)],
)
def test_t_quantile(tail: float, freedom: int, expected: float) -> None:
    """The expansion gives the tabulated quantiles."""
    assert scoring.t_quantile(tail, freedom) == pytest.approx(expected, abs=0.004)


def test_few_values_have_a_wider_interval_than_the_plain_percentile() -> None:
    """Less is cut off for few values, as the t quantile asks; for many nothing changes; one value has no spread."""
    assert scoring.expanded(0.025, 20) == pytest.approx(0.0159, abs=2e-4)
    assert scoring.expanded(0.025, 100_000) == pytest.approx(0.025, abs=1e-5)
    assert scoring.expanded(0.025, 1) == 0.025
    assert scoring.expanded(1e-9, 3) == 1e-12


def test_the_interval_of_twenty_values_covers() -> None:
    """Simulated: of 400 intervals over 20 values each, some 5 % miss the mean."""
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(400):
        found = scoring.interval(rng.normal(size=20), seed=1)
        missed += not found.low <= 0.0 <= found.high
    assert missed / 400 == pytest.approx(0.05, abs=0.025)
