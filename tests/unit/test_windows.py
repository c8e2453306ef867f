"""Comparing two checkpoints' calls: intervals against scipy, and the laws of a verdict that may only go back."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fleetssd.rollout import GoBack, Stay
from fleetssd.windows import Margins, Tally, compare, critical, newcombe, quantile, verdict

MARGINS = Margins(20, 20, 0.05, 0.05, 0.1, 0.5, 0.2, 0.01)
GOOD = Tally(200, 0, 0, 0, tuple(i / 100 for i in range(1, 201)), 50, 40)


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    """Draw what one checkpoint answered."""
    calls = draw(st.integers(0, 120))
    errors = draw(st.integers(0, calls))
    answers = calls - errors
    empty = draw(st.integers(0, answers))
    capped = draw(st.integers(0, answers))
    times = st.lists(st.sampled_from([0.1, 0.5, 1.0, 4.0]), min_size=answers, max_size=answers)
    tasks = draw(st.integers(0, 60))
    return Tally(calls, errors, empty, capped, tuple(draw(times)), tasks, draw(st.integers(0, tasks)))


def again(tally: Tally, times: int) -> Tally:
    """Return the same evidence several times over."""
    counts = {name: getattr(tally, name) * times for name in ("calls", "errors", "empty", "capped", "tasks", "merged")}
    return replace(tally, **counts, seconds=tally.seconds * times)


def test_newcombe_is_the_papers() -> None:
    """Newcombe's own example (1998, table II, 56/70 against 48/80): 0.2 with 0.0524 to 0.3339."""
    found = newcombe((56, 70), (48, 80), float(stats.norm.isf(0.025)))
    assert (found.point, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_quantile_covers_as_scipys_exact_one() -> None:
    """On a few hundred times the interval of a quantile is within two places of scipy's exact one."""
    values = [float(i) for i in range(1, 301)]
    for share in (0.5, 0.95):
        exact = stats.quantile_test(values, q=0, p=share).confidence_interval(0.99)
        mine = quantile(values, share, float(stats.norm.isf(0.005)))
        assert abs(mine.low - exact.low) <= 2
        assert abs(min(mine.high, 300) - exact.high) <= 2


@given(tallies())
def test_missing_data_never_fires(some: Tally) -> None:
    """Too few calls and tasks on either side stay, whatever they look like on the other."""
    few = replace(some, calls=19, errors=19, empty=0, capped=0, seconds=(), tasks=19, merged=0)
    for nothing in (Tally(), few):
        assert isinstance(verdict(some, nothing, MARGINS), Stay)
        assert isinstance(verdict(nothing, some, MARGINS), Stay)


@given(tallies(), tallies(), st.integers(2, 6))
def test_more_of_the_same_evidence_confirms(candidate: Tally, incumbent: Tally, times: int) -> None:
    """What goes back on some evidence goes back on the same evidence several times over."""
    if isinstance(verdict(candidate, incumbent, MARGINS), GoBack):
        assert isinstance(verdict(again(candidate, times), again(incumbent, times), MARGINS), GoBack)


@given(tallies())
def test_an_equal_candidate_stays(some: Tally) -> None:
    """A candidate that does exactly as the incumbent does is left alone."""
    assert isinstance(verdict(some, some, MARGINS), Stay)


@given(tallies(), tallies())
def test_one_more_failure_never_saves_a_candidate(candidate: Tally, incumbent: Tally) -> None:
    """Where failures already went back, an answer that fails instead does so too."""
    errors = next(each for each in compare(candidate, incumbent, MARGINS) if each.metric == "errors")
    if errors.fires and candidate.answers:
        worse = replace(candidate, errors=candidate.errors + 1, empty=0, capped=0)
        assert isinstance(verdict(worse, incumbent, MARGINS), GoBack)


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (replace(GOOD, calls=30, errors=12), "failed calls 40.0 % against 0.0 %"),
        (replace(GOOD, calls=40, empty=16), "empty answers 40.0 % against 0.0 %"),
        (replace(GOOD, calls=40, capped=20), "answers cut at their length 50.0 % against 0.0 %"),
        (replace(GOOD, seconds=tuple(3 * each for each in GOOD.seconds)), "median time 3.00 s against 1.00 s"),
        (replace(GOOD, merged=8), "merged tasks 16.0 % against 80.0 %"),
    ],
)
def test_each_metric_fires_in_words(candidate: Tally, said: str) -> None:
    """A candidate that is much worse by one metric goes back, and the reason names it with both numbers."""
    found = verdict(candidate, GOOD, MARGINS)
    assert isinstance(found, GoBack)
    assert said in found.reason


def test_a_slow_tail_fires_alone() -> None:
    """A median that stays does not hide a tail ten times as long."""
    usual = again(GOOD, 5)
    tail = (*usual.seconds[:800], *(20.0,) * 200)
    found = verdict(replace(usual, seconds=tail), usual, MARGINS)
    assert found == GoBack("95th percentile of time 20.00 s against 1.90 s")


def test_a_tail_of_few_calls_is_open() -> None:
    """Twenty calls fix no upper end of the 95th percentile, so nothing of it fires."""
    few = Tally(20, 0, 0, 0, (1.0,) * 20)
    ratio = next(each for each in compare(replace(few, seconds=(9.0,) * 20), few, MARGINS) if each.metric == "p95")
    assert ratio.worse is not None
    assert ratio.worse.low == 0.0
    assert not ratio.fires


def test_what_is_open_says_why() -> None:
    """A metric of which too little is known says how much there is and how much it takes."""
    merged = compare(replace(GOOD, tasks=3, merged=1), GOOD, MARGINS)[-1]
    assert merged.sentence.endswith("(3 on one side, 20 needed)")
    assert (merged.incumbent, merged.candidate) == pytest.approx((0.8, 1 / 3))
    none = compare(replace(GOOD, tasks=0, merged=0), GOOD, MARGINS)[-1]
    assert none.sentence == f"merged tasks: {none.open}"


@given(st.integers(20, 10**6))
def test_looks_cost_more_slowly_than_evidence_comes(n: int) -> None:
    """The quantile grows with the evidence, but every interval still shrinks."""
    assert critical(n + 1, MARGINS) >= critical(n, MARGINS)
    assert critical(n + 1, MARGINS) / math.sqrt(n + 1) < critical(n, MARGINS) / math.sqrt(n)


def looks(rate: float, runs: int, *, margins: Margins) -> int:
    """Return how many of so many candidates that fail at this rate go back, looked at every ten calls up to 300."""
    draw, fired = random.Random(7), 0
    for _ in range(runs):
        mine, theirs = [0, 0], [0, 0]
        for calls in range(1, 301):
            mine = [calls, mine[1] + (draw.random() < rate)]
            theirs = [calls, theirs[1] + (draw.random() < 0.05)]
            if calls % 10 == 0 and isinstance(verdict(Tally(*mine), Tally(*theirs), margins), GoBack):
                fired += 1
                break
    return fired


def test_looking_again_and_again_stays_within_the_promise() -> None:
    """Of 300 equal candidates with no margin at all, looked at 30 times each, no more go back than was promised."""
    assert looks(0.05, 300, margins=replace(MARGINS, error_rise=0.0)) <= 3


def test_a_broken_candidate_is_found() -> None:
    """Every one of 50 candidates that fail at every third call goes back within 300 calls."""
    assert looks(1 / 3, 50, margins=MARGINS) == 50
