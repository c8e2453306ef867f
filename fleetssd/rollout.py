"""A swap as an ordered list of steps, what a restart makes of a half-done one, and when the watch goes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from fleetssd.checkpoints import Checkpoint, Swap

FALSE_ALARM = 0.01
"""Chance, at most, that one look at a checkpoint as good as the limit allows goes back by bad luck."""


@dataclass(frozen=True, slots=True)
class Preload:
    """Load a model and keep it."""

    model: str


@dataclass(frozen=True, slots=True)
class Quiet:
    """Wait a little for a moment in which nobody asks a model, for what comes next makes its callers wait."""

    model: str


@dataclass(frozen=True, slots=True)
class Point:
    """Copy the alias onto a model's name."""

    model: str


@dataclass(frozen=True, slots=True)
class Prove:
    """The alias must now have the checkpoint's served digest and its adapter (None: no adapter at all)."""

    served_digest: str
    adapter: str | None


Step: TypeAlias = Preload | Quiet | Point | Prove


def plan_flip(candidate: Checkpoint, incumbent: Checkpoint, *, beside: bool) -> tuple[Step, ...]:
    """Return the steps that put a candidate before the fleet.

    `beside` the incumbent it is loaded first, and nobody notices the flip. Where it would evict the incumbent (it
    shares its GGUF, and an engine has one runner a file, or there is no room for two) a quiet moment is waited for,
    the alias moves first and the load follows at once: the other order would load the incumbent once more.
    """
    first: Step = Preload(candidate.model) if beside else Quiet(incumbent.model)
    return (first, *plan_return(candidate))


def crowded(swaps: Sequence[Swap]) -> bool:
    """Say whether two models of this fleet do not fit beside each other, as the newest flip that could tell found."""
    told = [swap.evidence for swap in swaps if swap.kind == "flip" and swap.done and not swap.evidence.get("one_file")]
    seen = [evidence["previous_stays_loaded"] for evidence in told if evidence.get("previous_stays_loaded") is not None]
    return bool(seen) and not seen[-1]


def plan_return(checkpoint: Checkpoint) -> tuple[Step, ...]:
    """Return the steps that put a checkpoint back: the alias first, for the fleet is waiting."""
    adapter = checkpoint.digest if checkpoint.kind == "adapter" else None
    return (Point(checkpoint.model), Prove(checkpoint.served_digest, adapter), Preload(checkpoint.model))


Resume: TypeAlias = Literal["finish", "redo", "undo"]


def resume(target_digest: str | None, wanted: str, observed: str | None) -> Resume:
    """Say what to do with a swap that was begun and not proven.

    `wanted` is the served digest it aims at, `target_digest` what the engine has under the target's name now, and
    `observed` what the alias serves (None where it is missing or broken). Redoing is safe at any point: every step
    may run twice. It is undone only where its target is gone or has become something else.
    """
    if target_digest != wanted:
        return "undo"
    return "finish" if observed == wanted else "redo"


def rolled_back(swaps: Sequence[Swap], digest: str) -> bool:
    """Say whether an artefact was rolled back before: only an operator may bring it back."""
    return any(swap.kind == "rollback" and swap.done and swap.from_digest == digest for swap in swaps)


def cooling(swaps: Sequence[Swap], now: datetime, cool_down: timedelta) -> bool:
    """Say whether the watch went back less than `cool_down` ago: no automatic actor moves until it is over.

    Without it one regression could make the fleet flap.
    """
    back = [swap for swap in swaps if swap.kind == "rollback" and swap.actor == "watch" and swap.done]
    return any(swap.at is not None and now - swap.at < cool_down for swap in back)


def watched(swaps: Sequence[Swap]) -> Swap | None:
    """Return the flip that is under watch: the newest proven line of the log, refusals aside, if it is a flip."""
    done = [swap for swap in swaps if swap.done and swap.kind != "refused"]
    return done[-1] if done and done[-1].kind == "flip" else None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the served checkpoint: calls made, calls that failed, answers graded, answers right.

    `expected` is the mean pass rate of the same problems when the checkpoint was evaluated, None where not on file.
    """

    calls: int
    errors: int
    graded: int
    passed: int
    expected: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """When the watch goes back. `max_drop` is the share of the expected pass rate that may be lost."""

    min_calls: int
    max_drop: float
    max_error_rate: float


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing speaks against the checkpoint, or too little was seen."""

    reason: str


@dataclass(frozen=True, slots=True)
class GoBack:
    """The checkpoint does worse than it may."""

    reason: str


def watch_verdict(readings: Sequence[Reading], limits: Limits) -> Stay | GoBack:
    """Judge the newest readings that make up `min_calls` calls; missing data never fires.

    The pass rate fires where an exact binomial test finds it below (1 - max_drop) x expected at level FALSE_ALARM.
    """
    recent = _newest(readings, limits.min_calls)
    calls = sum(reading.calls for reading in recent)
    if calls < limits.min_calls:
        return Stay(f"{calls} calls so far, {limits.min_calls} needed")
    errors = sum(reading.errors for reading in recent)
    if errors / calls > limits.max_error_rate:
        return GoBack(f"{errors} of {calls} calls failed, more than {limits.max_error_rate:.0%}")
    known = [(r.graded, r.passed, r.expected) for r in recent if r.expected is not None and r.graded]
    graded = sum(n for n, _, _ in known)
    if graded < limits.min_calls:
        return Stay(f"{errors} of {calls} calls failed; only {graded} answers can be compared")
    passed = sum(k for _, k, _ in known)
    expected = sum(n * e for n, _, e in known) / graded
    floor = max(0.0, expected * (1 - limits.max_drop))
    seen = f"{passed} of {graded} probes pass, {expected:.0%} did in the evaluation"
    return GoBack(seen) if at_most(passed, graded, floor) < FALSE_ALARM else Stay(seen)


def at_most(successes: int, trials: int, rate: float) -> float:
    """Return the binomial P(X <= successes); the sum of its terms, each from the one before."""
    if rate <= 0.0 or rate >= 1.0:
        return 1.0 if rate <= 0.0 or successes >= trials else 0.0
    term = total = (1 - rate) ** trials
    for k in range(1, successes + 1):
        term *= (trials - k + 1) / k * rate / (1 - rate)
        total += term
    return min(1.0, total)


def _newest(readings: Sequence[Reading], calls: int) -> list[Reading]:
    kept: list[Reading] = []
    for reading in reversed(readings):
        if sum(one.calls for one in kept) >= calls:
            break
        kept.append(reading)
    return kept
