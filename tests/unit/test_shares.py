"""The interval of a share, against published values and scipy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fleetssd.shares import fell_beyond, wilson


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [
        (0, 20, 0, 0.1611),
        (1, 20, 0.0089, 0.2361),
        (7, 20, 0.1812, 0.5671),
        (10, 20, 0.2993, 0.7007),
        (20, 20, 0.8389, 1),
        (34, 100, 0.2546, 0.4372),
        (45, 131, 0.2677, 0.4282),
        (191, 300, 0.5808, 0.6890),
        (640, 1000, 0.6098, 0.6692),
    ],
)
def test_wilson_interval(passed: int, total: int, low: float, high: float) -> None:
    """The Wilson score interval of a share."""
    assert wilson(passed, total, 1.959964) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    """The interval of a share is the one that scipy computes."""
    successes = min(successes, trials)
    theirs = stats.binomtest(successes, trials).proportion_ci(0.99, method="wilson")
    mine = wilson(successes, trials, float(stats.norm.isf(0.005)))
    assert mine == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_fall_of_just_the_margin_is_allowed() -> None:
    """A drop that rounding makes a little more than the margin is none beyond it; any other is."""
    assert 0.6 - 0.65 < -0.05
    assert not fell_beyond(0.6 - 0.65, 0.05)
    assert not fell_beyond(0.3, 0.05)
    assert fell_beyond(-0.051, 0.05)
