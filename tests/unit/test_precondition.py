"""Before a night costs anything: headroom, advice, and what a hold-out can show, in words."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from fleetssd import precondition
from fleetssd.scoring import Scores

PROBLEMS, K = 40, 8
TIMES = " \N{MULTIPLICATION SIGN} "


def base(*counts: int) -> Scores:
    """Return the base's answers; the counts repeat."""
    ids = tuple(f"p{index:02}" for index in range(PROBLEMS))
    return Scores(ids, (K,) * PROBLEMS, tuple(counts[index % len(counts)] for index in range(PROBLEMS)))


def advise(scores: Scores, headroom: float = 0.05) -> precondition.Precondition:
    """Return the advice on these answers."""
    return precondition.advise(scores, K, headroom, precondition.power_of(scores, 200, K, 0.05, 0.05))


@pytest.mark.parametrize(
    ("counts", "advice", "other", "ssd", "merged"),
    [
        ((4, 5, 6, 0), "GO-SSD", "", True, True),
        ((1, 2, 1, 0), "GO-VERIFIED", "", False, True),
        ((4, 0), "GO-SSD", "", True, True),
        ((3, 0), "GO-VERIFIED", "", False, True),
        ((8, 0), "GO-OTHER", "merged", False, True),
        ((8, 8), "GO-OTHER", "harder issues", False, False),
    ],
)
def test_advice_follows_headroom(counts: tuple[int, ...], advice: str, other: str, ssd: bool, merged: bool) -> None:
    """Headroom and mostly right: learn from itself. Mostly wrong: verify. None: merged work, or harder issues."""
    found = advise(base(*counts))
    assert (found.advice, found.other) == (advice, other)
    assert (found.allows("ssd"), found.allows("merged")) == (ssd, merged)
    assert found.gap == pytest.approx(found.pass_k.point - found.pass_1.point)


def test_the_threshold_is_a_setting() -> None:
    """A gap of exactly the headroom is enough; a higher bar turns the advice."""
    scores = base(*(8,) * 9, 4)
    assert advise(scores).advice == "GO-SSD"
    assert advise(scores).gap == pytest.approx(0.05)
    assert advise(scores, 0.06).advice == "GO-OTHER"


def test_a_small_hold_out_is_told_so_in_plain_words() -> None:
    """20 issues with one sample cannot show 5 points; it says how many can."""
    small = precondition.state_power(20, 1, 0.05, 0.05, 0.10)
    words = "20 issues x 1 sample cannot show +5 pp (chance 7%); 190 issues x 4 samples can"
    assert small.sentence == words.replace(" x ", TIMES)
    assert small.detectable == pytest.approx(0.287, abs=1e-3)


def test_a_large_hold_out_can() -> None:
    """190 issues with 4 samples show 5 points with 80 % chance; a smaller share of the budget shows less."""
    large = precondition.state_power(190, 4, 0.05, 0.05, 0.10)
    assert large.sentence == "190 issues x 4 samples can show +5 pp (chance 80%)".replace(" x ", TIMES)
    assert precondition.state_power(190, 4, 0.05, 0.01, 0.10).detectable > large.detectable


def test_a_base_that_always_fails_promises_nothing() -> None:
    """Failing alike has no spread, but a gain over it would have: 40 issues with one sample cannot show 5 points."""
    power = precondition.power_of(base(0), 40, 1, 0.05, 0.05)
    assert power.sentence.startswith("40 issues x 1 sample cannot show +5 pp".replace(" x ", TIMES))
    assert power.detectable == pytest.approx(7.8489 / (40 + 7.8489), abs=1e-4)


def test_it_can_be_stored() -> None:
    """All of it is JSON."""
    stored = json.loads(json.dumps(asdict(advise(base(4, 5, 6, 0))), allow_nan=False))
    assert stored["advice"] == "GO-SSD"
    assert stored["power"]["problems"] == 200
