"""Slices: what an issue's label, repository and difficulty make of it."""

from __future__ import annotations

import numpy as np
import pytest

from fleetssd.scoring import Scores, difference
from fleetssd.slices import EASY, HARD, MEDIUM, difficulty, slices


def arm(*counts: int, n: int = 8) -> Scores:
    """Return scores of as many problems as counts."""
    return Scores(tuple(f"p{number:03}" for number in range(len(counts))), (n,) * len(counts), counts)


def test_the_terciles_of_the_pooled_rate_are_the_difficulties() -> None:
    """Nine issues in three groups: what no arm solves is hard, what all solve is easy."""
    found = difficulty([arm(0, 0, 0, 4, 4, 4, 8, 8, 8), arm(0, 0, 1, 4, 4, 5, 8, 8, 8)])
    assert [found[f"p{number:03}"] for number in range(9)] == [HARD] * 3 + [MEDIUM] * 3 + [EASY] * 3


def test_equal_rates_stay_together() -> None:
    """Where most issues are hopeless they are all hard, however many they are."""
    assert set(difficulty([arm(0, 0, 0, 0, 8)]).values()) == {HARD, EASY}


@pytest.mark.parametrize("arms", [[], [arm()], [arm(1, 2), arm(1, 2, 3)]])
def test_without_common_issues_there_is_no_difficulty(arms: list[Scores]) -> None:
    """No arm, no issue, or arms over different issues say nothing of difficulty."""
    assert difficulty(arms) == {}


def test_an_arm_that_is_no_better_gains_in_no_difficulty() -> None:
    """Of two equal arms the hard third seems to gain where the base's luck parts the issues, not where both do."""
    rng = np.random.default_rng(3)
    base, candidate = (arm(*map(int, rng.binomial(8, 0.5, 3000))) for _ in range(2))

    def gain(parted: dict[str, str]) -> float:
        kept = [index for index, name in enumerate(base.ids) if parted[name] == HARD]
        pick = [arm(*(scores.c[index] for index in kept)) for scores in (candidate, base)]
        return difference(*pick).point

    assert gain(difficulty([base])) > 0.1
    assert abs(gain(difficulty([base, candidate]))) < 0.02


def test_a_slice_that_holds_everything_is_none() -> None:
    """One repository and one difficulty part nothing; two repositories do, beside the labels."""
    labels = {"p000": ("house",), "p001": ()}
    same = slices(labels, {"p000": "a/b", "p001": "a/b"}, [arm(4, 4)])
    assert same == labels
    apart = slices(labels, {"p000": "a/b", "p001": "a/c"}, [arm(0, 8)])
    assert apart == {"p000": ("house", "repository: a/b", HARD), "p001": ("repository: a/c", EASY)}
