"""pass@k and what a difference is worth: intervals and tests whose unit is the issue, never the sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fleetssd.shares import wilson

Array: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Literal["percentile", "bca"]

_DRAWS_IN_TAIL = 25
_MIN_RESAMPLES, _MAX_RESAMPLES = 10_000, 400_000
NORMAL = NormalDist()
_CHUNK = 4_000_000  # resampled indices held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Scores:
    """What one arm did: for every problem `n` samples, of which `c` passed, and the problem's slice labels."""

    ids: tuple[str, ...]
    n: tuple[int, ...]
    c: tuple[int, ...]
    slices: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len({len(self.ids), len(self.n), len(self.c)}) != 1 or len(set(self.ids)) != len(self.ids):
            raise ValueError("ids, n and c must be equally long and ids unique")
        if any(not 0 <= c <= n or n == 0 for n, c in zip(self.n, self.c, strict=True)):
            raise ValueError("every problem needs at least one sample and 0 <= c <= n")
        if self.slices and len(self.slices) != len(self.ids):
            raise ValueError("slices must be given for every problem or for none")

    def labels(self) -> tuple[str, ...]:
        """Return every slice label that occurs, sorted."""
        return tuple(sorted({label for labels in self.slices for label in labels}))

    def only(self, label: str) -> Scores:
        """Return the problems of one slice."""
        keep = [index for index, labels in enumerate(self.slices) if label in labels]
        return Scores(
            ids=tuple(self.ids[index] for index in keep),
            n=tuple(self.n[index] for index in keep),
            c=tuple(self.c[index] for index in keep),
            slices=tuple(self.slices[index] for index in keep),
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `problems` problems with its interval at confidence `level`; shares, not percent."""

    point: float
    low: float
    high: float
    level: float
    problems: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact p-values of a paired comparison with one sample a problem."""

    two_sided: float
    one_sided: float
    mid_p: float


def tally(
    rows: Iterable[tuple[str, bool, bool]],
    *,
    voids_pass: bool,
    slices: Mapping[str, tuple[str, ...]] | None = None,
) -> Scores:
    """Count (problem, passed, void) rows into scores, problems sorted by id.

    A void sample counts against the candidate: pass `voids_pass=False` for it, True for what it is compared with.
    """
    counts: dict[str, list[int]] = {}
    for problem, passed, void in rows:
        count = counts.setdefault(problem, [0, 0])
        count[0] += 1
        count[1] += voids_pass if void else passed
    ids = tuple(sorted(counts))
    return Scores(
        ids=ids,
        n=tuple(counts[problem][0] for problem in ids),
        c=tuple(counts[problem][1] for problem in ids),
        slices=tuple(slices.get(problem, ()) for problem in ids) if slices is not None else (),
    )


def pass_at_k(scores: Scores, k: int) -> Array:
    """Return the unbiased estimate 1 - C(n-c, k) / C(n, k) for every problem (Chen et al. 2021, equation 1).

    Raises ValueError where a problem has fewer than k samples.
    """
    n, c = np.asarray(scores.n, dtype=np.float64), np.asarray(scores.c, dtype=np.float64)
    if k < 1 or (n < k).any():
        raise ValueError(f"pass@{k} needs at least {k} samples of every problem")
    miss = np.ones_like(n)
    for drawn in range(k):  # the ratio of binomials as a product, exact for k = 1 and free of overflow
        miss *= np.maximum(n - c - drawn, 0.0) / (n - drawn)
    return 1.0 - miss


def estimate(scores: Scores, k: int = 1, *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Return the mean pass@k with its interval: by the bootstrap over problems, or Wilson's.

    Where every problem's pass@k is 0 or 1, as with one sample a problem or k of k, the mean is a share of problems and
    has Wilson's interval: if nothing or everything passes, a bootstrap would be certain.
    """
    values = pass_at_k(scores, k)
    if len(values) == 0 or ((values > 0.0) & (values < 1.0)).any():
        found = interval(values, level=level, seed=seed)
        return replace(found, low=max(0.0, found.low))
    z = NORMAL.inv_cdf((1.0 + level) / 2.0)
    return Estimate(float(values.mean()), *wilson(int(values.sum()), len(values), z), level, len(values))


def deltas(left: Scores, right: Scores, k: int = 1) -> Array:
    """Return pass@k of `left` minus that of `right`, problem by problem; other problems raise ValueError."""
    if left.ids != right.ids:
        raise ValueError("both arms must have answered the same problems in the same order")
    return pass_at_k(left, k) - pass_at_k(right, k)


def difference(
    left: Scores,
    right: Scores,
    k: int = 1,
    *,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Estimate:
    """Return the mean of `deltas` with its paired cluster bootstrap interval (clusters are problems)."""
    return interval(deltas(left, right, k), level=level, method=method, seed=seed)


def interval(values: Array, *, level: float = 0.95, method: Method = "percentile", seed: int = 0) -> Estimate:
    """Return the mean of one value a problem, each in [-1, 1], with its bootstrap interval.

    The percentile interval's ends never fall when a value rises (same seed), which is what the gate's laws rest on;
    BCa (Efron 1987) is closer to nominal coverage for skewed values but not monotone. One value excludes nothing. No
    values raise ValueError.
    """
    if len(values) == 0:
        raise ValueError("no problems, no estimate")
    point, tail = float(values.mean()), (1.0 - level) / 2.0
    if len(values) == 1:
        return Estimate(point, -1.0, 1.0, level, 1)  # every resample would be the value itself
    tail = expanded(tail, len(values)) if method == "percentile" else tail
    means = _resampled_means(values, tail, seed)
    ends = (tail, 1.0 - tail) if method == "percentile" else _bca_ends(values, means, tail)
    low, high = np.quantile(means, ends)
    return Estimate(point=point, low=float(low), high=float(high), level=level, problems=len(values))


def sign_flip(values: Array, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of mean 0 under random sign flips of the per-problem deltas.

    Exact (all 2^m flips of the m deltas that are not 0) up to m = 12, else Monte Carlo with the add-one correction
    of Phipson and Smyth 2010, so never 0.
    """
    moved = values[values != 0.0]
    seen = abs(float(moved.sum())) - 1e-12  # rounding must not make an equal sum look smaller
    if len(moved) <= 12:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= seen).mean())
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, (resamples, len(moved)), dtype=np.int8) * 2.0 - 1.0
    return float((1 + (np.abs(signs @ moved) >= seen).sum()) / (resamples + 1))


def paired_p(left: Scores, right: Scores, *, seed: int = 0) -> float:
    """Return the two-sided p-value of equal pass@1: exact McNemar with one sample an issue, else sign flips."""
    found = deltas(left, right)
    if {*left.n, *right.n} == {1}:
        return mcnemar(int((found > 0).sum()), int((found < 0).sum())).two_sided
    return sign_flip(found, seed=seed)


def mcnemar(wins: int, losses: int) -> McNemar:
    """Return the exact McNemar p-values of `wins` against `losses` discordant problems (one sample a problem)."""
    from scipy import stats  # noqa: PLC0415  60 MB that only this needs

    total = wins + losses
    if total == 0:
        return McNemar(1.0, 1.0, 1.0)
    coin = stats.binom(total, 0.5)
    two_sided = min(1.0, 2.0 * float(coin.cdf(min(wins, losses))))
    mid_p = min(1.0, 2.0 * float(coin.cdf(min(wins, losses)) - 0.5 * coin.pmf(wins)))
    return McNemar(two_sided, float(coin.sf(wins - 1)), mid_p)


def expanded(tail: float, size: int) -> float:
    """Return the tail to cut off the resampled means of `size` values, so that few values promise no more than many.

    A percentile interval is too narrow by sqrt((n-1)/n) and knows no t quantile; the tail of Hesterberg 2015 mends
    both.
    """
    if size < 2:
        return tail
    return max(NORMAL.cdf(-math.sqrt(size / (size - 1)) * t_quantile(tail, size - 1)), 1e-12)


def t_quantile(tail: float, freedom: int) -> float:
    """Return the value that Student's t exceeds with chance `tail`: expansion in 1/freedom (A&S 26.7.5)."""
    z, v = -NORMAL.inv_cdf(tail), freedom
    first = (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return z + first + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)


def resamples_of(tail: float) -> int:
    """Return how often problems are resampled so that some draws fall into the tail that is asked for."""
    return min(max(math.ceil(_DRAWS_IN_TAIL / tail), _MIN_RESAMPLES), _MAX_RESAMPLES)


def _resampled_means(values: Array, tail: float, seed: int) -> Array:
    resamples = resamples_of(tail)
    rng, size = np.random.default_rng(seed), len(values)
    step = max(1, _CHUNK // size)
    parts = [
        values[rng.integers(0, size, (min(step, resamples - start), size))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def _bca_ends(values: Array, means: Array, tail: float) -> tuple[float, float]:
    """Return the quantiles that BCa takes instead of (tail, 1 - tail): bias z0 and acceleration a."""
    spread = values - values.mean()
    cubes, squares = float((spread**3).sum()), float((spread**2).sum())
    if squares == 0.0:
        return tail, 1.0 - tail  # equal values: every resample is the mean
    below = ((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2.0
    z0 = NORMAL.inv_cdf(min(max(float(below), 1e-6), 1.0 - 1e-6))
    a = cubes / (6.0 * squares**1.5)  # the jackknife's acceleration; for a mean it has this closed form
    low, high = (z0 + NORMAL.inv_cdf(end) for end in (tail, 1.0 - tail))
    return tuple(NORMAL.cdf(z0 + z / (1.0 - a * z)) for z in (low, high))  # type: ignore[return-value]
