"""What is said of shares without numpy, which the daemon does without: a closed interval, and a margin."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, z: float) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share, at the standard normal quantile `z`; no trials raise.

    (p + z^2/2n) / (1 + z^2/n), give or take z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n). It is one of every share, also
    of none and of all, where a bootstrap is a point.
    """
    p, zz = successes / trials, z * z / trials
    middle, half = (p + zz / 2) / (1 + zz), z * math.sqrt(p * (1 - p) / trials + zz / trials / 4) / (1 + zz)
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


def fell_beyond(change: float, margin: float) -> bool:
    """Say whether a share fell by more than `margin`; by just the margin is allowed, whatever the rounding."""
    return change < -margin - 1e-9
