"""Simulated nights: how often the gate promotes candidates whose true gain is known, many nights at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fleetssd import sequential
from fleetssd.budget import Look, Rule, tonight
from fleetssd.power import power_repeated, sample_size_repeated
from fleetssd.scoring import NORMAL, Array, expanded, resamples_of

Curve: TypeAlias = Literal["pocock", "obrien-fleming"]

MIX = 0.1
"""How much of an issue's difficulty a candidate draws anew: it gains on some issues and loses on others."""
_SHAPE = (0.45, 0.60)  # a beta distribution of difficulty with mean 0.43: most issues are easy or hopeless


@dataclass(frozen=True, slots=True)
class Nights:
    """Per-issue differences in pass@1, shape (nights, issues), and the true spreads between and within issues."""

    deltas: Array
    between: float
    within: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: a planted gain, n issues with k samples, the share promoted and what the formula says."""

    effect: float
    problems: int
    samples: int
    nights: int
    promoted: float
    formula: float

    @property
    def gap(self) -> float:
        """Points between the simulated and the computed power."""
        return abs(self.promoted - self.formula)


@dataclass(frozen=True, slots=True)
class Saving:
    """A sequential evaluation of a planted gain beside a fixed one: the shares promoted, and the issues asked."""

    effect: float
    promoted: float
    asked: float
    fixed: int
    fixed_promoted: float

    @property
    def ratio(self) -> float:
        """Issues asked, of those that the fixed evaluation asks."""
        return self.asked / self.fixed


def plant(effect: float, problems: int, samples: int, nights: int, rng: np.random.Generator) -> Nights:
    """Draw nights of a candidate whose mean true gain is exactly `effect` (a share; negative is harm)."""
    shape = (nights, problems)
    base = rng.beta(*_SHAPE, shape)
    moved = (1.0 - MIX) * base + MIX * rng.beta(*_SHAPE, shape)
    mean = _SHAPE[0] / sum(_SHAPE)
    candidate = moved + effect / (1.0 - mean) * (1.0 - moved) if effect >= 0 else moved * (1.0 + effect / mean)
    within = float((base * (1.0 - base) + candidate * (1.0 - candidate)).mean() / 2.0)
    deltas = (rng.binomial(samples, candidate) - rng.binomial(samples, base)) / samples
    return Nights(deltas, float((candidate - base).std()), within)


def lower_ends(deltas: Array, alpha: float, seed: int = 0) -> Array:
    """Return the lower end of the gate's paired interval for every row of `deltas`, shape (nights,).

    Equal to `scoring.interval` row by row: the same draws, shared by all rows, as one matrix product.
    """
    nights, size = deltas.shape
    tail = expanded(alpha / 2.0, size)
    resamples = resamples_of(tail)
    draws = np.random.default_rng(seed).integers(0, size, (resamples, size))
    offsets = size * np.arange(resamples)[:, None]
    counts = np.bincount((draws + offsets).ravel(), minlength=resamples * size).reshape(resamples, size)
    weights = counts.astype(np.float64).T / size
    step = max(1, 4_000_000 // resamples)
    parts = [np.quantile(deltas[at : at + step] @ weights, tail, axis=1) for at in range(0, nights, step)]
    return np.concatenate(parts)


def power_cell(effect: float, problems: int, samples: int, nights: int, alpha: float, seed: int = 0) -> Cell:
    """Simulate the fixed evaluation and hold the share promoted against the formula."""
    drawn = plant(effect, problems, samples, nights, np.random.default_rng(seed))
    promoted = float((lower_ends(drawn.deltas, alpha, seed) > 0.0).mean())
    formula = power_repeated(effect, problems, between=drawn.between, within=drawn.within, samples=samples, alpha=alpha)
    return Cell(effect, problems, samples, nights, promoted, formula)


def savings(
    effects: Sequence[float], planned: float, samples: int, nights: int, alpha: float, *, looks: int, room: float = 1.5,
    seed: int = 0,
) -> tuple[Saving, ...]:  # fmt: skip
    """Simulate evaluations that look `looks` times, at most at `room` times the issues of the formula for 80 % power.

    The fixed evaluation beside them has the same two-sided alpha, and as many issues as its formula needs for the
    power that the sequential one reached at the planned gain, so that their error rates are equal; it is simulated
    too, to show that they are.
    """
    rng = np.random.default_rng(seed)
    pilot = plant(planned, 1_000, samples, 100, rng)
    spread = {"between": pilot.between, "within": pilot.within}
    cap = math.ceil(room * sample_size_repeated(planned, **spread, samples=samples, alpha=alpha))
    design = sequential.design(planned, alpha, **spread, samples=samples)
    power = float(_run(plant(planned, cap, samples, nights, rng).deltas, design, looks)[0].mean())
    fixed = math.ceil(sample_size_repeated(planned, **spread, samples=samples, alpha=alpha, power=power))
    rows = []
    for effect in effects:
        promoted, asked = _run(plant(effect, cap, samples, nights, rng).deltas, design, looks)
        beside = float((lower_ends(plant(effect, fixed, samples, nights, rng).deltas, alpha, seed) > 0.0).mean())
        rows.append(Saving(effect, float(promoted.mean()), float(asked.mean()), fixed, beside))
    return tuple(rows)


def false_share(
    nights: int, fleets: int, *, rule: Rule, alpha: float, better: float, strength: float, seed: int = 0
) -> tuple[float, float]:
    """Simulate fleets for so many nights, a share `better` of which has a candidate `strength` errors above 0.

    Return the mean share of useless promotions among a fleet's promotions, and the mean number of useful ones.
    """
    rng = np.random.default_rng(seed)
    shares, useful = [], 0
    for _ in range(fleets):
        real = rng.random(nights) < better
        p_values = [1.0 - NORMAL.cdf(float(z)) for z in rng.normal(size=nights) + strength * real]
        past: list[Look] = []
        for number, p_value in enumerate(p_values):
            past.append(Look(number + 1, p_value <= tonight(past, rule, alpha).alpha, 0.0, rule, alpha))
        hits = sum(look.promoted and bool(real[look.night - 1]) for look in past)
        promotions = sum(look.promoted for look in past)
        shares.append((promotions - hits) / max(1, promotions))
        useful += hits
    return float(np.mean(shares)), useful / fleets


def peeking(looks: int, alpha: float, *, runs: int = 200_000, seed: int = 0) -> float:
    """Simulate a useless candidate whose interval is read after each of `looks` equal blocks of issues.

    Return the chance that any of these readings excludes 0: what an interval promises once is not promised often.
    """
    blocks = np.arange(1, looks + 1)
    steps = np.random.default_rng(seed).standard_normal((runs, looks), dtype=np.float32).cumsum(axis=1)
    edge = NORMAL.inv_cdf(1.0 - alpha / 2.0) * np.sqrt(blocks)
    return float((np.abs(steps) > edge).any(axis=1).mean())


def spent_by(part: float, curve: Curve, alpha: float) -> float:
    """Return what of `alpha` may be spent when this part of the planned looks is taken (Lan and DeMets 1983).

    2 (1 - F(z / sqrt(part))) after O'Brien and Fleming, alpha ln(1 + (e - 1) part) after Pocock. Both need an end to
    their looks, which a fleet's nights have not: here to be compared with, not to be chosen.
    """
    if curve == "pocock":
        return alpha * math.log(1.0 + (math.e - 1.0) * part)
    return 2.0 * NORMAL.cdf(-NORMAL.inv_cdf(1.0 - alpha / 2.0) / math.sqrt(part))


def _run(deltas: Array, design: sequential.Design, looks: int) -> tuple[NDArray[np.bool_], Array]:
    """Return for every row whether it is promoted, and how many issues were asked until it was decided."""
    size = deltas.shape[1]
    block = math.ceil(size / looks)
    ends = np.minimum(np.arange(block, size + block, block), size)
    gain = sequential.log_paths(deltas, design.stake)[:, ends - 1] >= design.enough
    loss = sequential.log_paths(design.effect - deltas, design.stake)[:, ends - 1] >= design.hopeless
    first_gain, first_loss = _first(gain), _first(loss)
    last = np.minimum(np.minimum(first_gain, first_loss), len(ends) - 1)
    return (first_gain <= first_loss) & gain.any(axis=1), ends[last].astype(np.float64)


def _first(hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])
