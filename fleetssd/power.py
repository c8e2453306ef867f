"""What a night can show at all: sample sizes, chances, the smallest detectable effect of n issues with k samples."""

from __future__ import annotations

import math

import numpy as np

from fleetssd.scoring import NORMAL, Array, Scores, t_quantile

BETWEEN = 0.10
"""Planned standard deviation of a true gain over problems, where none has been measured yet."""


def sample_size(delta: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the problems needed to show `delta` with one sample each, where a share `discordant` flips.

    n = (z_{alpha/2} sqrt(psi) + z_beta sqrt(psi - delta^2))^2 / delta^2 (Miettinen 1968), not rounded.
    """
    z_alpha, z_beta = _z(alpha), NORMAL.inv_cdf(power)
    return (z_alpha * math.sqrt(discordant) + z_beta * math.sqrt(discordant - delta**2)) ** 2 / delta**2


def sample_size_repeated(
    delta: float, *, between: float, within: float, samples: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return the problems needed with `samples` a problem and arm, not rounded.

    The mean delta has variance (between^2 + 2 within / samples) / n; `between` is the standard deviation of the true
    delta over problems, `within` the mean of p(1-p).
    """
    needed = _z(alpha) + NORMAL.inv_cdf(power)
    return needed**2 * (between**2 + 2.0 * within / samples) / delta**2


def power_repeated(
    delta: float, problems: int, *, between: float, within: float, samples: int, alpha: float = 0.05
) -> float:
    """Return the chance that `problems` problems with `samples` each show a gain of `delta` (variance as above).

    The spread is estimated from the same problems, so the critical value is a t quantile and the test a noncentral t
    (Abramowitz and Stegun 26.7.5 and 26.7.10); for many problems that is the normal formula of the sizes.
    """
    error = math.sqrt((between**2 + 2.0 * within / samples) / problems)
    if problems < 2:
        return 0.0  # one problem has no spread and shows nothing
    freedom = problems - 1
    critical = t_quantile(alpha / 2.0, freedom)
    shift = delta / error - critical * (1.0 - 1.0 / (4.0 * freedom))
    return NORMAL.cdf(shift / math.sqrt(1.0 + critical**2 / (2.0 * freedom)))


def detectable_repeated(
    problems: int, *, between: float, within: float, samples: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return the smallest delta that `problems` problems with `samples` each can show; at most 1."""
    needed = _z(alpha) + NORMAL.inv_cdf(power)
    return min(1.0, needed * math.sqrt((between**2 + 2.0 * within / samples) / problems))


def within(scores: Scores) -> float:
    """Return the mean of p(1-p) over problems, unbiased: c(n-c) / (n(n-1)).

    Where every problem has one sample, that of the pooled share, which is its upper bound.
    """
    n, c = np.asarray(scores.n, dtype=np.float64), np.asarray(scores.c, dtype=np.float64)
    more = n > 1
    if not more.any():
        share = float((c / n).mean())
        return share * (1.0 - share)
    n, c = n[more], c[more]
    return float((c * (n - c) / (n * (n - 1.0))).mean())


def detectable(problems: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest delta that `problems` problems with one sample each can show (inverse of `sample_size`).

    No delta above `discordant` exists; where even that one is too small to be seen, NaN.
    """
    low, high = 0.0, discordant
    if sample_size(high, discordant, alpha=alpha, power=power) > problems:
        return math.nan
    for _ in range(60):
        middle = (low + high) / 2.0
        enough = sample_size(middle, discordant, alpha=alpha, power=power) <= problems
        low, high = (low, middle) if enough else (middle, high)
    return high


def detectable_seen(deltas: Array, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest mean delta that tonight could detect, from the spread of tonight's per-problem deltas.

    At most 1, for no share can differ by more; one problem has no spread and detects nothing smaller.
    """
    if len(deltas) < 2:
        return 1.0
    needed = _z(alpha) + NORMAL.inv_cdf(power)
    return min(1.0, float(needed * deltas.std(ddof=1) / math.sqrt(len(deltas))))


def least_detectable(problems: int, samples: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the gain that has to be exceeded however alike the answers were: z^2 / (n k + z^2).

    A mean gain of d over independent samples brings a spread of its own, at least d (1 - d) / samples a problem, so
    answers that did not differ at all say little of a gain that they did not have.
    """
    squared = (_z(alpha) + NORMAL.inv_cdf(power)) ** 2
    return squared / (problems * samples + squared)


def mcnemar_power(problems: int, discordant: float, delta: float, *, alpha: float = 0.05) -> float:
    """Return the chance that the exact two-sided McNemar test shows a gain of `delta`, over all discordant counts.

    A loss that is shown by chance is no gain: only results on the right side count.
    """
    from scipy import stats  # noqa: PLC0415  heavy, and only this function needs it

    win = 0.5 + delta / (2.0 * discordant)
    total = 0.0
    for count in range(1, problems + 1):
        wins = np.arange(count + 1)
        p_values = np.minimum(1.0, 2.0 * stats.binom.cdf(np.minimum(wins, count - wins), count, 0.5))
        shown = stats.binom.pmf(wins[(p_values <= alpha) & (wins > count - wins)], count, win).sum()
        total += float(stats.binom.pmf(count, problems, discordant)) * float(shown)
    return total


def wald(*, alpha: float = 0.05, power: float = 0.8) -> tuple[float, float]:
    """Return the least part of a fixed evaluation's problems that one with early stops asks on average.

    First where nothing is gained, then where the planned gain is; both have its one-sided alpha / 2 and its power. It
    is Wald's sequential test of the one mean against the other, looked at after each problem, without what it oversteps
    by; no test with these errors asks fewer at either point (Wald and Wolfowitz 1948).
    """
    false, missed = alpha / 2.0, 1.0 - power
    up, down = math.log(power / false), math.log((1.0 - false) / missed)
    fixed = (_z(alpha) + NORMAL.inv_cdf(power)) ** 2 / 2.0
    return ((1.0 - false) * down - false * up) / fixed, (power * up - missed * down) / fixed


def flattery(choices: int) -> float:
    """Return by how many standard errors the best of `choices` equals is expected to seem better than it is.

    The expected maximum of so many standard normals, by the midpoint rule: the integral of 1 - F^k - (1 - F)^k over
    x > 0, by symmetry.
    """
    steps = np.arange(0.005, 8.0, 0.01)
    below = np.asarray([NORMAL.cdf(float(x)) for x in steps])
    return float((1.0 - below**choices - (1.0 - below) ** choices).sum() * 0.01)


def _z(alpha: float) -> float:
    return NORMAL.inv_cdf(1.0 - alpha / 2.0)
