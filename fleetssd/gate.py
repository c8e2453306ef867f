"""Evidence + policy -> promote, keep, reject or invalid, with every number that led there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fleetssd import sequential
from fleetssd.config import Gate as Policy
from fleetssd.guards import Guard
from fleetssd.power import detectable_seen, least_detectable
from fleetssd.probes import Alarm, ProbeReadings, compare
from fleetssd.scoring import Array, Estimate, Scores, deltas, difference, estimate, paired_p
from fleetssd.shares import fell_beyond

Kind: TypeAlias = Literal["promote", "keep", "reject", "invalid"]
Manage: TypeAlias = Literal["none", "gateway", "bake"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that one night measured.

    `incumbent`, `base` and `candidate` answered at the production decode, `tuned_base` at its own best temperature,
    `teacher` is the base at the decode of the training samples, None where it was not asked.
    The probes of base and candidate were read at the same effective temperature. `voids` of `samples` candidate runs
    were sandbox faults (already counted as failed), `other_voids` of as many of the arm that it is compared with which
    has most (counted as passed). `overlap` counts held-out issues that leaked into training.
    `alpha` is tonight's share of the error budget; `consulted` says how often this hold-out has been used.
    `guards` are the guard sets, base and candidate at one effective temperature; `style_may_move` where merged work
    teaches its style. `design` is the bet by which an evaluation was stopped, None where every issue was asked whatever
    came.
    """

    incumbent: Scores
    base: Scores
    candidate: Scores
    tuned_base: Scores | None
    base_probes: ProbeReadings
    candidate_probes: ProbeReadings
    k: int
    samples: int
    voids: int
    overlap: int
    base_digest: str
    built_digest: str
    evaluated_digest: str
    manage: Manage
    alpha: float
    held_out: str
    consulted: int
    seed: int = 0
    design: sequential.Design | None = None
    teacher: Scores | None = None
    guards: tuple[Guard, ...] = ()
    style_may_move: bool = False
    other_voids: int = 0


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the night's table."""

    name: str
    pass_1: Estimate
    pass_k: Estimate


@dataclass(frozen=True, slots=True)
class Split:
    """A gain over the base in two parts: `total` = `decoding` (the tuned base's) + `skill` (what is left over it).

    `teacher` is the gain of the base at the teacher's decode: another thing that is free, beside `decoding`, not in it.
    """

    slice: str
    total: Estimate
    decoding: Estimate
    skill: Estimate
    teacher: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of one artefact, and why.

    `lift` and `lift_k` are the candidate's paired gains over the incumbent in pass@1 and pass@k, `over_tuned` and
    `over_teacher` those in pass@1 over the tuned base and over the base at the teacher's decode, all at the policy's
    confidence; `lift_tonight` is `lift` at tonight's share of the error budget. `lift_bca` is `lift` by BCa, which is
    closer to nominal for skewed gains and not monotone: it is told and decides nothing. `detectable` is the smallest
    gain that tonight would have shown with 80 % power. `e_value` stands in for tonight's interval where the evaluation
    could stop early, which an interval does not allow.
    """

    kind: Kind
    reason: str
    digest: str
    base_digest: str
    held_out: str
    consulted: int
    k: int
    alpha: float
    lift: Estimate
    lift_tonight: Estimate
    lift_bca: Estimate
    lift_k: Estimate
    over_tuned: Estimate | None
    over_teacher: Estimate | None
    p_value: float
    e_value: float | None
    detectable: float
    void_share: float
    overlap: int
    arms: tuple[Arm, ...]
    alarms: tuple[Alarm, ...]
    guards: tuple[Guard, ...]
    splits: tuple[Split, ...]
    base_probes: ProbeReadings
    candidate_probes: ProbeReadings


@dataclass(frozen=True, slots=True)
class _Gains:
    """The candidate's paired gains over the incumbent, and what they can be held against."""

    lift: Estimate
    tonight: Estimate
    lift_k: Estimate
    p_value: float
    detectable: float
    e_value: float | None
    shown: bool


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """Judge tonight's candidate.

    Pure, and monotone: a lower score of the candidate, or a void in its place, never turns another verdict into
    `promote`. Scores over different problems, or fewer than k samples, raise ValueError.
    """
    e, level = evidence, 1.0 - policy.alpha
    gains = _gains(e, level)
    alarms = compare(e.base_probes, e.candidate_probes, policy, style=not e.style_may_move)
    void_share = e.voids / e.samples if e.samples else 1.0
    kind, reason = _verdict(e, policy, gains, alarms, void_share)
    tuned, teacher = e.tuned_base, e.teacher
    return Verdict(
        kind=kind,
        reason=reason,
        digest=e.evaluated_digest,
        base_digest=e.base_digest,
        held_out=e.held_out,
        consulted=e.consulted,
        k=e.k,
        alpha=e.alpha,
        lift=gains.lift,
        lift_tonight=gains.tonight,
        lift_bca=difference(e.candidate, e.incumbent, level=level, method="bca", seed=e.seed),
        lift_k=gains.lift_k,
        over_tuned=None if tuned is None else difference(e.candidate, tuned, level=level, seed=e.seed),
        over_teacher=None if teacher is None else difference(e.candidate, teacher, level=level, seed=e.seed),
        p_value=gains.p_value,
        e_value=gains.e_value,
        detectable=gains.detectable,
        void_share=void_share,
        overlap=e.overlap,
        arms=_arms(e, level),
        alarms=alarms,
        guards=e.guards,
        splits=() if tuned is None else decompose(e.base, tuned, e.candidate, teacher, level=level, seed=e.seed),
        base_probes=e.base_probes,
        candidate_probes=e.candidate_probes,
    )


def decompose(
    base: Scores,
    tuned_base: Scores,
    candidate: Scores,
    teacher: Scores | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Split, ...]:
    """Split the candidate's gain in pass@1 into decoding and skill: overall (slice ""), then slice by slice."""

    def split(label: str) -> Split:
        b, t, c, other = (_within(scores, label) for scores in (base, tuned_base, candidate, teacher or base))
        return Split(
            slice=label,
            total=difference(c, b, level=level, seed=seed),
            decoding=difference(t, b, level=level, seed=seed),
            skill=difference(c, t, level=level, seed=seed),
            teacher=None if teacher is None else difference(other, b, level=level, seed=seed),
        )

    return tuple(split(label) for label in ("", *candidate.labels()))


def _within(scores: Scores, label: str) -> Scores:
    return scores.only(label) if label else scores


def _arms(e: Evidence, level: float) -> tuple[Arm, ...]:
    named = (
        ("incumbent", e.incumbent),
        ("base", e.base),
        ("tuned base", e.tuned_base),
        ("teacher decode", e.teacher),
        ("candidate", e.candidate),
    )
    return tuple(
        Arm(name, estimate(scores, level=level, seed=e.seed), estimate(scores, e.k, level=level, seed=e.seed))
        for name, scores in named
        if scores is not None
    )


def _gains(e: Evidence, level: float) -> _Gains:
    per_problem = deltas(e.candidate, e.incumbent)
    tonight = difference(e.candidate, e.incumbent, level=1.0 - e.alpha, seed=e.seed)
    least = least_detectable(len(per_problem), min(e.candidate.n), alpha=e.alpha)
    return _Gains(
        lift=difference(e.candidate, e.incumbent, level=level, seed=e.seed),
        tonight=tonight,
        lift_k=difference(e.candidate, e.incumbent, e.k, level=level, seed=e.seed),
        p_value=paired_p(e.candidate, e.incumbent, seed=e.seed),
        detectable=max(least, detectable_seen(per_problem, alpha=e.alpha)),
        e_value=None if e.design is None else sequential.e_value(per_problem, e.design),
        shown=_shown(per_problem, tonight, e.design),
    )


def _shown(per_problem: Array, tonight: Estimate, design: sequential.Design | None) -> bool:
    return tonight.low > 0.0 if design is None else sequential.shown(per_problem, design)


def _verdict(
    e: Evidence, policy: Policy, gains: _Gains, alarms: tuple[Alarm, ...], void_share: float
) -> tuple[Kind, str]:
    """Apply the rules in order: what voids the night, what shows harm, what is missing for a promotion."""
    if flaw := _flaw(e, policy, void_share):
        return "invalid", flaw
    if harm := _harm(e, policy, gains, alarms):
        return "reject", harm
    if missing := _missing(e, policy, gains):
        return "keep", missing
    grown = f", {_e(e, gains)}" if e.design else ""
    moved = f"pass@1 moved by {_pp(gains.tonight)}{grown}; pass@{e.k} by {_pp(gains.lift_k)}"
    return "promote", f"{moved}; no probe alarm{_guarded(e)}"


def _guarded(e: Evidence) -> str:
    held = [guard.name for guard in e.guards if guard.state == "holds"]
    return f"; guards hold: {', '.join(held)}" if held else ""


def _flaw(e: Evidence, policy: Policy, void_share: float) -> str:
    if e.built_digest != e.evaluated_digest:
        built, evaluated = e.built_digest[:12], e.evaluated_digest[:12]
        return f"the artefact that was evaluated ({evaluated}) is not the one that was built ({built})"
    if e.overlap:
        return f"{e.overlap} held-out issues overlap with what was trained on"
    if void_share > policy.max_void_share:
        return f"{void_share:.1%} of the runs were sandbox faults, more than {policy.max_void_share:.1%}"
    if e.other_voids > policy.max_void_share * e.samples:  # they would show harm that there was none of
        share, most = f"{e.other_voids / e.samples:.1%}", f"{policy.max_void_share:.1%}"
        return f"{share} of the runs that it is compared with were sandbox faults, more than {most}"
    return ""


def _harm(e: Evidence, policy: Policy, gains: _Gains, alarms: tuple[Alarm, ...]) -> str:
    found = [] if gains.lift.high >= 0.0 else [f"pass@1 moved by {_pp(gains.lift)}"]
    if fell_beyond(gains.lift_k.point, policy.pass_k_margin) and gains.lift_k.high < 0.0:
        found.append(f"pass@{e.k} moved by {_pp(gains.lift_k)}, beyond {_margin(policy)}")
    found += [f"probe alarm: {alarm}" for alarm in alarms]
    found += [guard.sentence for guard in e.guards if guard.state == "drop"]
    return "; ".join(found)


def _missing(e: Evidence, policy: Policy, gains: _Gains) -> str:
    problems, seen = gains.tonight.problems, f"{100 * gains.detectable:.1f} pp"
    if problems < policy.min_problems:
        return f"{problems} held-out problems are too few to show anything; {policy.min_problems} are needed"
    if not gains.shown and e.design is None:
        return f"no gain shown: {_pp(gains.tonight)}; the smallest detectable effect was {seen}"
    if not gains.shown:
        decides = "which decides where the evaluation may stop early"
        return f"no gain shown: {_e(e, gains)}, {decides}; pass@1 moved by {_pp(gains.tonight)}"
    if fell_beyond(gains.lift_k.point, policy.pass_k_margin):
        return f"pass@{e.k} moved by {_pp(gains.lift_k)}, beyond {_margin(policy)}"
    if unproven := [guard.sentence for guard in e.guards if guard.state == "open"]:
        return "; ".join(unproven)
    return "" if e.manage == "none" else _missing_over_tuned(e)


def _missing_over_tuned(e: Evidence) -> str:
    """Where fleetssd manages the decode, retuning the base would be free: the candidate must beat that too."""
    if e.tuned_base is None:
        return f"the decode is managed ({e.manage}), but the base at its best temperature was not measured"
    skill = difference(e.candidate, e.tuned_base, level=1.0 - e.alpha, seed=e.seed)
    if _shown(deltas(e.candidate, e.tuned_base), skill, e.design):
        return ""
    return f"no gain over the base at its best temperature shown: {_pp(skill)}; retuning the base would be free"


def _margin(policy: Policy) -> str:
    return f"the margin of {100 * policy.pass_k_margin:.1f} pp"


def _e(e: Evidence, gains: _Gains) -> str:
    """Render the e-value with what it needs: beside it an interval may lie above 0 and show nothing."""
    assert e.design is not None  # noqa: S101  the callers looked
    return f"e-value {gains.e_value:.3g} of {math.exp(e.design.enough):.3g} needed"


def _pp(gain: Estimate) -> str:
    """Render a difference in percentage points with its interval."""
    ends = f"{100 * gain.low:+.1f}, {100 * gain.high:+.1f}"
    return f"{100 * gain.point:+.1f} pp ({100 * gain.level:.4g} % interval {ends})"
