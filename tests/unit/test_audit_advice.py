"""What a comparison of temperatures advises: a change only where it is shown, by whoever can make it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.audit.advice import Comparison, advise, weigh
from fleetssd.scoring import Scores

N = 30
IDS = tuple(f"p{number:02d}" for number in range(N))


def scores(right: int, samples: int = 4) -> Scores:
    """Return an arm that passes `right` answers of every problem."""
    return Scores(IDS, (samples,) * N, (right,) * N)


def test_a_better_temperature_is_baked_where_no_caller_has_one() -> None:
    """The winner is the best of those that are shown better, and the reason has its paired interval."""
    advice = advise(weigh({1.0: scores(1), 0.7: scores(2), 0.3: scores(4)}, 1.0), callers=0, through_gateway=False)
    assert (advice.manage, advice.temperature) == ("bake", 0.3)
    assert "+75.0 pp [+75.0, +75.0] over T = 1" in advice.reason


@pytest.mark.parametrize(
    ("callers", "through", "says"),
    [
        (1, False, "1 caller sets"),
        (2, True, "2 callers set"),
        (0, True, "the agents talk to the gateway"),
        (None, False, "would need an audit"),
    ],
)
def test_the_gateway_sets_it_where_a_bake_would_reach_too_few_or_is_not_needed(
    callers: int | None, through: bool, says: str
) -> None:
    """Callers with a temperature of their own would get T·τ; a gateway that is there is cheaper than new weights."""
    lines = weigh({1.0: scores(1), 0.3: scores(4)}, 1.0)
    advice = advise(lines, callers=callers, through_gateway=through)
    assert advice.manage == "gateway"
    assert says in advice.reason


def test_what_is_not_shown_changes_nothing() -> None:
    """Equal and worse temperatures leave the current one, and the sentence tells how far the best of them was."""
    advice = advise(weigh({0.5: scores(2), 0.7: scores(2), 0.3: scores(1)}, 0.5), callers=0, through_gateway=False)
    assert (advice.manage, advice.temperature) == ("leave", 0.5)
    assert "T = 0.7, differs by +0.0 pp [+0.0, +0.0] over 30 issues" in advice.reason


def test_a_comparison_of_one_advises_nothing() -> None:
    """Without others there is no advice to change."""
    lines = weigh({0.5: scores(2)}, 0.5)
    assert advise(lines, callers=0, through_gateway=False).reason.startswith("nothing was compared")
    assert Comparison(lines, N, 0, 4).to_json()["lines"][0]["delta"] is None


def test_more_comparisons_need_more_evidence() -> None:
    """The same gain has a wider interval and a larger p among many temperatures than alone."""
    mixed = Scores(IDS, (4,) * N, tuple(2 + (number % 5 == 0) for number in range(N)))
    alone = weigh({1.0: scores(2), 0.3: mixed}, 1.0)[1]
    among = weigh({1.0: scores(2), 0.3: mixed, **{t / 10: scores(2) for t in range(4, 9)}}, 1.0)[1]
    assert alone.delta is not None
    assert among.delta is not None
    assert alone.p is not None
    assert among.p is not None
    assert among.delta.low < alone.delta.low
    assert among.p > alone.p


@given(st.lists(st.integers(0, 4), min_size=N, max_size=N), st.lists(st.integers(0, 4), min_size=N, max_size=N))
def test_no_advice_to_change_without_a_gain(before: list[int], after: list[int]) -> None:
    """Whatever was measured, a temperature that passed no more answers is never advised."""
    arms = {1.0: Scores(IDS, (4,) * N, tuple(before)), 0.3: Scores(IDS, (4,) * N, tuple(after))}
    advice = advise(weigh(arms, 1.0), callers=0, through_gateway=False)
    assert advice.manage == "leave" or sum(after) > sum(before)
