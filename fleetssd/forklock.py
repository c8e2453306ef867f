"""The fork-and-lock simulation of arXiv 2604.01193, C.4: what self-distillation can do that no temperature can.

A path is a root (two of its tokens lead on, each as good as the other), one *fork* (several good continuations) and
three *locks* (one right token over a distracting tail). One temperature serves both kinds badly: locks want it low,
forks want it high. The student is the exact fit to samples that were tempered and then truncated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

VOCABULARY = 16
LOCKS = 3
T_TRAIN, TRAIN_TOP_P = 0.9, 0.85
EVAL_TOP_PS = (0.65, 0.70, 0.75, 0.80, 0.85, 0.90)
SCAN = np.arange(0.05, 5.0, 0.001)
"""Temperatures that `best` looks through; what survives the truncation changes in jumps, so a coarse scan misleads."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Next-token distributions over `VOCABULARY` tokens at the root, the fork and each lock.

    Token 0 is right at fork and lock; at the root tokens 0 and 1 are.
    """

    root: Array
    fork: Array
    lock: Array


@dataclass(frozen=True, slots=True)
class Best:
    """The highest share of passing paths over `SCAN`, and the temperature where it is."""

    passed: float
    temperature: float


@dataclass(frozen=True, slots=True)
class Row:
    """Teacher and student at one evaluation top-p, each at its own best temperature."""

    top_p: float
    teacher: Best
    student: Best

    @property
    def gap(self) -> float:
        """What the student passes more often than the teacher; a share."""
        return self.student.passed - self.teacher.passed


def teacher() -> Policy:
    """Return the paper's base policy: the printed heads, and tails that have the printed entropies."""
    return Policy(
        # The paper prints nothing of the root's tail: its ratio is fitted to the teacher's optimum at top-p 0.70
        # (0.1154 at T = 1.065). The optimum at 0.80, which the paper prints, hardly depends on it.
        root=_with_tail((0.200, 0.190, 0.329, 0.126), 0.59),
        fork=_with_tail((0.148, 0.280, 0.140, 0.144), 0.5),
        lock=_with_tail((0.750, 0.055, 0.050, 0.037), 0.754),
    )


def student(policy: Policy, t_train: float = T_TRAIN, top_p: float = TRAIN_TOP_P) -> Policy:
    """Return the policy that fits the samples of `policy` exactly: tempered first, then truncated, renormalised."""
    fitted = {name: decoded(getattr(policy, name), t_train, top_p) for name in ("root", "fork", "lock")}
    return replace(policy, **fitted)


def decoded(probabilities: Array, temperature: float | Array, top_p: float) -> Array:
    """Return what is sampled from: temper, keep the fewest tokens that hold `top_p`, renormalise.

    One distribution (V,) and temperatures of any shape S give S + (V,). Temperatures must be above 0.
    """
    power = 1.0 / np.asarray(temperature, dtype=np.float64)[..., None]
    tempered = _normalised(probabilities**power)
    order = np.argsort(-tempered, axis=-1, kind="stable")
    ranked = np.take_along_axis(tempered, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked  # a token is kept while those above it do not hold top_p yet
    kept = np.zeros_like(tempered)
    np.put_along_axis(kept, order, np.where(before < top_p, ranked, 0.0), axis=-1)
    return _normalised(kept)


def pass_rate(policy: Policy, temperature: float | Array, top_p: float) -> Array:
    """Return the share of paths without a wrong token, one for every temperature."""
    root, fork, lock = (decoded(each, temperature, top_p) for each in (policy.root, policy.fork, policy.lock))
    passed: Array = (root[..., 0] + root[..., 1]) * fork[..., 0] * lock[..., 0] ** LOCKS
    return passed


def best(policy: Policy, top_p: float) -> Best:
    """Return the best of all temperatures in `SCAN`, the lowest where several are."""
    passed = pass_rate(policy, SCAN, top_p)
    at = int(passed.argmax())
    return Best(float(passed[at]), float(SCAN[at]))


def table(top_ps: tuple[float, ...] = EVAL_TOP_PS) -> list[Row]:
    """Compare teacher and student, each at its own best temperature, for every evaluation top-p."""
    base = teacher()
    fitted = student(base)
    return [Row(top_p, best(base, top_p), best(fitted, top_p)) for top_p in top_ps]


def entropy(probabilities: Array) -> float:
    """Return the entropy in bits."""
    held = probabilities[probabilities > 0.0]
    return float(-(held * np.log2(held)).sum())


def _with_tail(head: tuple[float, ...], ratio: float) -> Array:
    """Spread what the head leaves over the other tokens, each `ratio` times the one before."""
    tail = ratio ** np.arange(VOCABULARY - len(head))
    return np.concatenate([head, (1.0 - sum(head)) * tail / tail.sum()])


def _normalised(weights: Array) -> Array:
    shares: Array = weights / weights.sum(axis=-1, keepdims=True)
    return shares
