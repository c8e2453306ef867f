"""The table of the reproduction says what the counts say, arm by arm, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from fleetssd.demo.reproduction import lines, reading


def measured(seed: int, **tuned: list[int]) -> dict[str, Any]:
    """Make a seed's measurements: passes of 4 samples an issue at the tuned T, half of them at T = 1."""
    arms = {arm: {"rows": 4, "plain": [n // 2 for n in counts], "tuned": counts} for arm, counts in tuned.items()}
    return {"seed": seed, "tuned": {"temperature": 0.2}, "arms": arms}


BASE = [2, 4, 0, 2, 2, 4, 0, 2]


def test_issues_of_all_seeds_are_pooled() -> None:
    """A line's estimate is over the issues of both seeds, and its seeds' own means stand beside it."""
    table = lines([measured(1, base=[4, 4]), measured(2, base=[0, 4])], samples=4)
    tuned = next(line for line in table if not line.temperature)
    assert tuned.pass_1 is not None
    assert (tuned.pass_1.point, tuned.pass_1.problems) == (0.75, 4)
    assert tuned.by_seed == (1.0, 0.5)
    assert tuned.over_tuned is None


def test_the_base_at_t_1_is_held_against_the_tuned_base() -> None:
    """What decoding alone is worth shows in the base's own line."""
    plain = lines([measured(1, base=[2, 4, 2, 4])], samples=4)[0]
    assert (plain.arm, plain.temperature, plain.over_base) == ("base", 1.0, None)
    assert plain.over_tuned is not None
    assert plain.over_tuned.point == pytest.approx(-0.375)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([4, 4, 2, 4, 4, 4, 2, 4], "ssd beats the tuned base: +37.5"),
        ([0, 1, 0, 0, 0, 1, 0, 0], "ssd is worse than the tuned base: -43.8"),
        ([2, 3, 1, 2, 2, 4, 0, 2], "ssd does not beat the tuned base: +0.0"),
    ],
)
def test_the_words_follow_the_interval(counts: list[int], words: str) -> None:
    """An arm beats the tuned base only where the whole interval is above 0, and is worse only where it is below."""
    seeds = [measured(seed, base=BASE, ssd=counts) for seed in (1, 2)]
    assert reading(lines(seeds, samples=4))[0].startswith(words)


def test_many_arms_are_corrected() -> None:
    """A gain whose own interval excludes 0 is no win where as many arms and decodes were looked at."""
    slight = [3, 4, 1, 3, 3, 4, 1, 3]
    arms = dict.fromkeys(("verified", "merged", "control"), BASE)
    seeds = [{"ssd": slight}, {"ssd": BASE}]
    alone = lines([measured(at, base=BASE, **arm) for at, arm in enumerate(seeds)], samples=4)
    many = lines([measured(at, base=BASE, **arm, **arms) for at, arm in enumerate(seeds)], samples=4)
    first, second = (next(x for x in table if x.arm == "ssd" and not x.temperature) for table in (alone, many))
    assert first.over_tuned == second.over_tuned
    assert second.over_tuned is not None
    assert second.over_tuned.low > 0
    assert first.p is not None
    assert second.p is not None
    assert first.p < second.p
    assert second.p > 0.05
    assert reading(many)[0].startswith("ssd does not beat the tuned base: +9.4")
    assert next(line.p for line in many if line.arm == "base") is None


def test_an_arm_that_failed_in_one_seed_has_no_numbers() -> None:
    """An arm that could not be trained everywhere is named with the reason instead of an average of the others."""
    broken = measured(2, base=BASE, ssd=BASE)
    broken["arms"]["ssd"] = {"rows": 0, "failed": "no sample passed: nothing to train on"}
    table = lines([measured(1, base=BASE, ssd=BASE), broken], samples=4)
    assert [(line.pass_1, line.note) for line in table if line.arm == "ssd"] == [
        (None, "no sample passed: nothing to train on")
    ] * 2
    assert reading(table) == ["ssd: not trained in every seed."]
