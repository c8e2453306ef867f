"""The error budget: what tonight may spend of alpha, derived from the verdicts on file and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleetssd.checkpoints import Night

Rule: TypeAlias = Literal["lord", "spending"]

_POWER = 1.6
_ZETA = 2.2857656656801293  # of 1.6: the shares of all nights sum to 1
_START = 0.5  # of alpha: the wealth before the first promotion


@dataclass(frozen=True, slots=True)
class Look:
    """A verdict on file: whether it promoted, what it spent, and the rule and the alpha that it was decided under."""

    night: int
    promoted: bool
    spent: float
    rule: Rule
    alpha: float


@dataclass(frozen=True, slots=True)
class Share:
    """Tonight's share of the error budget, and where it comes from.

    `alpha` is what tonight may spend, `budget` the whole promise. `look` counts verdicts from 1, tonight's included;
    `promotions` and `spent` are those of the looks before. `changed` names a rule or an alpha that differs from the
    last verdict's, so that a budget is never begun anew unseen; it is empty on a normal night.
    """

    alpha: float
    rule: Rule
    budget: float
    look: int
    promotions: int
    spent: float
    changed: str


def looks(nights: Iterable[Night], before: int, alpha: float) -> tuple[Look, ...]:
    """Return the looks of all nights numbered below `before`, oldest first.

    Every verdict is a look, an invalid one too: it can only make later shares smaller. A night that failed before its
    verdict could promote nothing and is none. Verdicts from before rules were named spent by `spending`, at `alpha`.
    """
    found = []
    for night in nights:
        if night.verdict is None or night.number >= before:
            continue
        numbers = night.verdict.evidence
        named = numbers.get("budget") or {"rule": "spending", "budget": alpha}
        promoted = night.verdict.kind == "promote"
        found.append(Look(night.number, promoted, float(numbers.get("alpha", 0.0)), named["rule"], named["budget"]))
    return tuple(sorted(found, key=lambda look: look.night))


def tonight(past: Sequence[Look], rule: Rule, alpha: float) -> Share:
    """Return what the next look may spend under `rule`.

    `spending` keeps the chance of ever promoting a useless candidate below `alpha`; `lord` keeps the expected share
    of useless ones among all promoted below it, for as many nights as there are.
    """
    look = len(past) + 1
    promoted = [index for index, each in enumerate(past, start=1) if each.promoted]
    share = spend(look, alpha) if rule == "spending" else lord(look, promoted, alpha)
    return Share(
        alpha=share,
        rule=rule,
        budget=alpha,
        look=look,
        promotions=len(promoted),
        spent=sum(each.spent for each in past),
        changed=_change(past[-1], rule, alpha) if past else "",
    )


def spend(look: int, alpha: float) -> float:
    """Return the share of `alpha` that the m-th look at new candidates may spend: 6 alpha / (pi^2 m^2).

    The shares of all looks for ever sum to `alpha`. `look` counts from 1; less raises ValueError.
    """
    if look < 1:
        raise ValueError("looks are counted from 1")
    return 6.0 * alpha / (math.pi**2 * look**2)


def lord(look: int, promoted: Sequence[int], alpha: float) -> float:
    """Return what the `look`-th look may spend where the looks `promoted` (from 1, ascending) promoted.

    LORD++ (Ramdas, Yang, Wainwright, Jordan 2017): gamma_t W0 + (alpha - W0) gamma_{t - first} + alpha * the sum of
    gamma_{t - later}, with W0 = alpha / 2 and gamma_j proportional to j^-1.6. Each promotion gives wealth back.
    """
    start = _START * alpha
    earned = [alpha - start] + [alpha] * max(0, len(promoted) - 1)
    regained = sum(wealth * gamma(look - at) for wealth, at in zip(earned, promoted, strict=False))
    return start * gamma(look) + regained


def elond(look: int, promotions: int, alpha: float) -> float:
    """Return the level at which the e-value of the `look`-th challenger is read: alpha gamma_t (promotions + 1).

    e-LOND (Xu and Ramdas 2023): promote where e >= 1 / level. The share of useless promotions stays below `alpha`
    whatever ties the e-values together, so for a challenger that is asked the same issues again on later nights.
    """
    return alpha * gamma(look) * (promotions + 1)


def gamma(lag: int) -> float:
    """Return the share of wealth that is spent `lag` looks after it was gained: lag^-1.6 / zeta(1.6)."""
    if lag < 1:
        raise ValueError("looks are counted from 1")
    return float(lag**-_POWER) / _ZETA


def uncorrected(looks: int, alpha: float) -> float:
    """Return the chance that one of so many useless candidates is promoted where each is judged at `alpha`."""
    return float(1.0 - (1.0 - alpha) ** looks)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for how many there are (Holm 1979), under the same names.

    Whatever is named at an adjusted p <= alpha, the chance of any false name is at most alpha.
    """
    adjusted: dict[str, float] = {}
    floor = 0.0
    for rank, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * value))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p_values}


def _change(last: Look, rule: Rule, alpha: float) -> str:
    if (last.rule, last.alpha) == (rule, alpha):
        return ""
    return f"since night {last.night} the error budget changed from {last.rule} {last.alpha:g} to {rule} {alpha:g}"
