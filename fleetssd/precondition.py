"""Is tonight worth its cost: the base's headroom, the arm that it suits, and what tonight's hold-out could show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleetssd.power import (
    BETWEEN,
    detectable_repeated,
    least_detectable,
    power_repeated,
    sample_size_repeated,
    within,
)
from fleetssd.scoring import Estimate, Scores, estimate

Advice: TypeAlias = Literal["GO-SSD", "GO-VERIFIED", "GO-OTHER"]

_WANTED = 0.795  # the chance from which on we say that a hold-out can show an effect: 80 % as it is shown
_SAMPLES = 4  # the cheapest lever: what we advise where fewer samples are drawn


@dataclass(frozen=True, slots=True)
class Power:
    """What `problems` issues with `samples` each can show at tonight's `alpha`, and the same in words.

    `chance` is that of showing `effect`; `detectable` is the gain shown with 80 % power; `within` and `between` are
    the spreads that both rest on: the measured mean of p(1-p), and the planned deviation of the true gain.
    """

    problems: int
    samples: int
    effect: float
    alpha: float
    within: float
    between: float
    chance: float
    detectable: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """What the base can do before tonight, on issues that will not judge, and what that advises.

    `other` names what GO-OTHER means: "merged" or "harder issues". `gap` is pass@k - pass@1, held against `headroom`.
    """

    advice: Advice
    other: str
    reason: str
    k: int
    pass_1: Estimate
    pass_k: Estimate
    gap: float
    headroom: float
    power: Power

    def allows(self, arm: str) -> bool:
        """Say whether tonight's arm is what the base's answers advise; people's merged work suits all but one case."""
        return self.advice == "GO-SSD" or (arm == "merged" and self.other != "harder issues")


def advise(base: Scores, k: int, headroom: float, power: Power, *, level: float = 0.95, seed: int = 0) -> Precondition:
    """Read the base's answers at the production decode.

    The gap advises and no more: the paper's own table does not let it predict the gain.
    """
    first, best = estimate(base, level=level, seed=seed), estimate(base, k, level=level, seed=seed)
    advice, other, reason = _advice(first.point, best.point, k, headroom)
    gap = best.point - first.point
    return Precondition(advice, other, reason, k, first, best, gap, headroom, power)


def state_power(problems: int, samples: int, effect: float, alpha: float, spread: float) -> Power:
    """Say what so many issues and samples can show, where the base's mean p(1-p) is `spread`."""
    plan = {"between": BETWEEN, "within": spread}
    chance = power_repeated(effect, problems, samples=samples, alpha=alpha, **plan)
    smallest = detectable_repeated(problems, samples=samples, alpha=alpha, **plan)
    smallest = max(smallest, least_detectable(problems, samples, alpha=alpha))
    more = max(samples, _SAMPLES)
    enough = sample_size_repeated(effect, samples=more, alpha=alpha, **plan)
    return Power(
        problems=problems,
        samples=samples,
        effect=effect,
        alpha=alpha,
        within=spread,
        between=BETWEEN,
        chance=chance,
        detectable=smallest,
        sentence=_sentence(problems, samples, effect, chance, math.ceil(enough / 10) * 10, more),
    )


def power_of(base: Scores, problems: int, samples: int, effect: float, alpha: float) -> Power:
    """Say what tonight can show, with the spread of the base's own answers, or of the gain alone where that is more.

    A base that always fails has no spread, but a candidate that then gains `effect` has.
    """
    alone = (effect * (1.0 - effect) - BETWEEN**2) / 2.0
    return state_power(problems, samples, effect, alpha, max(within(base), alone))


def _advice(first: float, best: float, k: int, headroom: float) -> tuple[Advice, str, str]:
    gap, seen = best - first, f"the base's pass@{k} is {100 * best:.1f} %, its pass@1 {100 * first:.1f} %"
    need = f"{100 * headroom:.1f} pp"
    if gap >= headroom - 1e-9 and first >= best / 2.0:
        return "GO-SSD", "", f"{seen}: {100 * gap:.1f} pp of headroom, at least {need}"
    if gap >= headroom - 1e-9:
        return "GO-VERIFIED", "", f"{seen}: it can, but is mostly wrong; only tests tell which samples to learn from"
    if 1.0 - best < headroom:
        return "GO-OTHER", "harder issues", f"{seen}: it solves what it is held against; there is nothing to learn here"
    return "GO-OTHER", "merged", f"{seen}: less than {need} of headroom; people's merged work holds what it lacks"


def _sentence(problems: int, samples: int, effect: float, chance: float, enough: int, more: int) -> str:
    gain, ours = f"{100 * effect:+.3g} pp", _counts(problems, samples)
    if chance >= _WANTED:
        return f"{ours} can show {gain} (chance {chance:.0%})"
    return f"{ours} cannot show {gain} (chance {chance:.0%}); {_counts(enough, more)} can"


def _counts(problems: int, samples: int) -> str:
    return f"{problems} issues \N{MULTIPLICATION SIGN} {samples} sample{'' if samples == 1 else 's'}"
