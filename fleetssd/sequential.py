"""Evidence that may be looked at any time: a bet against "no gain", whose capital is an e-value.

Of a candidate that gained nothing the capital grows 1/alpha-fold with chance alpha at most, whenever one looks (Ville
1939; bets on bounded means after Waudby-Smith and Ramdas 2024). Stakes are set before the first answer and the order
of the issues does not matter, so a better answer never makes the capital smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from fleetssd.scoring import Array

Decision: TypeAlias = Literal["promote", "futile", "continue"]

MISS = 0.15
"""The chance at most that a candidate which gains the planned effect is given up early."""
_STAKES = ((1.0, 0.65), (0.5, 0.2), (3.0, 0.15))
"""Parts of the planned stake and of the capital: half for gains that spread wide, thrice for gains that are large."""
_MOST = 0.95  # a lost bet must leave something


@dataclass(frozen=True, slots=True)
class Design:
    """What is fixed before the first answer: the gain worth finding, the stake, and the two thresholds.

    `alpha` is tonight's share of the error budget; a promotion of no gain has no greater chance, whenever one looks.
    """

    effect: float
    stake: float
    alpha: float
    miss: float = MISS

    @property
    def enough(self) -> float:
        """Log capital that promotes: 1/alpha."""
        return -math.log(self.alpha)

    @property
    def hopeless(self) -> float:
        """Log capital of the bet against the planned effect that gives up."""
        return -math.log(self.miss)


def design(effect: float, alpha: float, *, between: float, within: float, samples: int, miss: float = MISS) -> Design:
    """Plan the stake that makes the capital grow fastest at the planned effect: delta / (variance + delta^2)."""
    variance = between**2 + 2.0 * within / samples
    return Design(effect, min(_MOST, effect / (variance + effect**2)), alpha, miss)


def log_capital(deltas: Array, stake: float) -> Array:
    """Return the log capital of one bet after the last of each row's deltas in [-1, 1]: prod(1 + stake * delta)."""
    return np.asarray(np.log1p(stake * deltas).sum(axis=-1), dtype=np.float64)


def log_e(deltas: Array, stake: float) -> Array:
    """Return the log e-value against "the mean delta is at most 0" after the last of each row's deltas in [-1, 1].

    Works on the last axis. E = sum over stakes of weight * prod(1 + stake * delta).
    """
    return _mixed(log_capital(deltas, min(_MOST, share * stake)) for share, _ in _STAKES)


def log_paths(deltas: Array, stake: float) -> Array:
    """Return `log_e` after each delta: the whole path along the last axis."""
    return _mixed(np.log1p(min(_MOST, share * stake) * deltas).cumsum(axis=-1) for share, _ in _STAKES)


def look(deltas: Array, plan: Design) -> Decision:
    """Say whether tonight may stop: the gain is shown, or the planned effect is not to be hoped for any more."""
    if shown(deltas, plan):
        return "promote"
    # The same bet on the other side: how far the candidate falls short of the planned effect.
    return "futile" if float(log_e(plan.effect - deltas, plan.stake)) >= plan.hopeless else "continue"


def shown(deltas: Array, plan: Design) -> bool:
    """Say whether the capital is enough to promote."""
    return bool(log_e(deltas, plan.stake) >= plan.enough)


def e_value(deltas: Array, plan: Design) -> float:
    """Return the e-value itself, at most 1e300: a number that a report can show and JSON can hold."""
    return math.exp(min(float(log_e(deltas, plan.stake)), math.log(1e300)))


def _mixed(parts: Iterable[Array]) -> Array:
    weighted = [part + math.log(weight) for part, (_, weight) in zip(parts, _STAKES, strict=True)]
    return np.asarray(np.logaddexp.reduce(weighted, axis=0), dtype=np.float64)
