"""Whether a candidate forgot: its change on a guard set, held against a margin (non-inferiority)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleetssd.config import Gate as Policy
from fleetssd.power import detectable_seen
from fleetssd.scoring import NORMAL, Estimate, Scores, deltas, difference, estimate
from fleetssd.shares import fell_beyond

State: TypeAlias = Literal["holds", "drop", "open", "blind", "few"]


@dataclass(frozen=True, slots=True)
class Guard:
    """How base and candidate did on one set, at one effective temperature; shares, not percent.

    `change` is candidate minus base with its interval at 1 - 2 alpha, so that each end is a one-sided bound at alpha.
    `sees` is the smallest drop that so many items could have shown with 80 % power. The state is `holds` where the
    lower end stays within the margin, `drop` where a fall is shown whose middle lies beyond it, `open` where neither
    is, `few` where the set is too small to be held to the margin and did not fall beyond it, and `blind` where the base
    itself passes too little to fall by more than the margin. `sentence` says so in words.
    """

    name: str
    state: State
    base: Estimate
    candidate: Estimate
    change: Estimate
    margin: float
    sees: float
    sentence: str


def weigh(name: str, base: Scores, candidate: Scores, policy: Policy, *, seed: int = 0) -> Guard:
    """Hold a candidate's passes against the base's, paired by item.

    Monotone: a lower score of the candidate never leads to `holds` or `few`, and whether a set is `blind` does not
    depend on the candidate. Scores over different items raise ValueError.
    """
    level = 1.0 - 2.0 * policy.alpha
    change = difference(candidate, base, level=level, seed=seed)
    # Items that all moved alike have no spread to learn from; even then a rare drop may hide between them.
    unseen = 1.0 - policy.alpha ** (1.0 / change.problems)
    sees = max(detectable_seen(deltas(candidate, base), alpha=2.0 * policy.alpha), unseen)
    first, second = (estimate(scores, level=level, seed=seed) for scores in (base, candidate))
    return _guard(name, first, second, change, sees, policy)


def weigh_shares(
    name: str, items: int, base: tuple[float, float], candidate: tuple[float, float], policy: Policy
) -> Guard:
    """Hold two shares, each with its standard error, against each other.

    Without the answers they cannot be paired, so the errors are added as if the arms had been asked different items:
    the interval is too wide rather than too narrow.
    """
    level, z = 1.0 - 2.0 * policy.alpha, NORMAL.inv_cdf(1.0 - policy.alpha)
    error = math.hypot(base[1], candidate[1])
    first, second = (_around(share, own, z, level, items) for share, own in (base, candidate))
    change = _around(candidate[0] - base[0], error, z, level, items)
    sees = min(1.0, (z + NORMAL.inv_cdf(0.8)) * error)
    return _guard(name, first, second, change, max(sees, 1.0 - policy.alpha ** (1.0 / items)), policy)


def _guard(name: str, base: Estimate, candidate: Estimate, change: Estimate, sees: float, policy: Policy) -> Guard:
    state = _state(base, change, policy)
    sentence = f"guard {name} {_said(state, base.point, change, policy.guard_margin, sees)}"
    return Guard(name, state, base, candidate, change, policy.guard_margin, sees, sentence)


def _state(base: Estimate, change: Estimate, policy: Policy) -> State:
    margin = policy.guard_margin
    if not fell_beyond(-base.point, margin):
        return "blind"
    if fell_beyond(change.point, margin) and change.high < 0.0:
        return "drop"
    if change.problems < policy.guard_items and not fell_beyond(change.point, margin):
        return "few"  # beyond the margin it is open: more items that fell alike would reject what was promoted here
    return "open" if fell_beyond(change.low, margin) else "holds"


def _around(middle: float, error: float, z: float, level: float, items: int) -> Estimate:
    return Estimate(middle, middle - z * error, middle + z * error, level, items)


def _said(state: State, base: float, change: Estimate, margin: float, sees: float) -> str:
    if state == "blind":
        return f"shows nothing: the base passes {100 * base:.1f} %, which cannot fall by {100 * margin:.1f} pp"
    ends = f"{100 * change.low:+.1f}, {100 * change.high:+.1f}"
    moved = f"moved by {100 * change.point:+.1f} pp ({100 * change.level:.4g} % interval {ends})"
    allowed, seen = f"the margin of {100 * margin:.1f} pp", f"a drop of {100 * sees:.1f} pp"
    words = {
        "holds": f"within {allowed}",
        "drop": f"beyond {allowed}",
        "open": f"not shown to stay within {allowed}; its {change.problems} items could show {seen}",
        "few": f"not held to {allowed}: its {change.problems} items could show {seen}",
    }
    return f"{moved}, {words[state]}"
