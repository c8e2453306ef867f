"""What the base was trained on, and what the fleet works on: two streams that can never share a problem."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from fleetssd.toy.problems import TIERS, Problem, draw, unnoticed
from fleetssd.toy.solutions import flawed, solution

PAIRS = 12_800
NOISE = 0.3
"""Share of pretraining solutions with a slip; about three in four of the corpus pass their cases."""

_FLEET_SHARE = 8
"""One key in this many is kept out of pretraining, for the fleet."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One pretraining example: an issue's sentence and a function that answers it, not always rightly."""

    prompt: str
    completion: str


def belongs_to_fleet(problem: Problem) -> bool:
    """Tell on which side a problem lies: its key decides, so no list of seen problems has to be kept."""
    return hashlib.sha256(problem.key.encode()).digest()[0] % _FLEET_SHARE == 0


def pretraining(seed: int, count: int = PAIRS, *, noise: float = NOISE) -> list[Pair]:
    """Draw the pretraining corpus: plain words only, none of the fleet's problems."""
    rng = Random(f"pretraining {seed}")
    pairs: list[Pair] = []
    while len(pairs) < count:
        problem = draw(rng)
        if not belongs_to_fleet(problem):
            write = flawed if rng.random() < noise else solution
            pairs.append(Pair(problem.prompt, write(problem, rng)))
    return pairs


def fleet(seed: int, *, house_share: float = 0.5) -> Iterator[Problem]:
    """Yield the fleet's problems without end and without repeats.

    Tiers come in turn, and within each tier the dialect comes in turn too, so that any long stretch holds its share.
    """
    rng = Random(f"fleet {seed}")
    seen: set[str] = set()
    while True:
        turn, place = divmod(len(seen), len(TIERS))
        tier = TIERS[place]
        house = int((turn + 1) * house_share) > int(turn * house_share)
        problem = draw(rng, tier, house=house)
        while problem.house != house or problem.key in seen or not _usable(problem):
            problem = draw(rng, tier, house=house)
        seen.add(problem.key)
        yield problem


def _usable(problem: Problem) -> bool:
    """Tell whether the fleet may work on it: unknown to the base and, if it is a fault, one that a case shows."""
    return (problem.house or belongs_to_fleet(problem)) and not unnoticed(problem)


def digest(pairs: list[Pair]) -> str:
    """Return the sha256 of a corpus, so that a cached model can tell that its corpus has changed."""
    body = "\0".join(f"{pair.prompt}\0{pair.completion}" for pair in pairs)
    return hashlib.sha256(body.encode()).hexdigest()
