"""Stage `decide`: from graded answers to a verdict bound to the artefact's digest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fleetssd import budget, gate
from fleetssd.admission import format_of
from fleetssd.checkpoints import Answer, VerdictRow
from fleetssd.config import Gate, Settings
from fleetssd.operations.evaluate import BASE, CANDIDATE, INCUMBENT, PROBED, TEACHER, TUNED
from fleetssd.operations.guarding import weigh_guards
from fleetssd.operations.outlook import design_of, share_of
from fleetssd.ports import Store
from fleetssd.probes import ProbeReadings, measure
from fleetssd.recipe import NightPlan
from fleetssd.records import Record
from fleetssd.scoring import Scores, difference, estimate, paired_p, tally
from fleetssd.slices import slices as slices_of
from fleetssd.twins import related


def judge(plan: NightPlan, store: Store, settings: Settings, built: str, tau: float, now: datetime) -> VerdictRow:
    """Fold tonight's answers into evidence and let the gate decide; nothing is written here."""
    share = share_of(plan, store, settings.gate)
    evidence = _evidence(plan, store, settings, built, tau, share.alpha)
    verdict = gate.decide(evidence, settings.gate)
    numbers = asdict(verdict) | _beside(plan, store, settings.gate, evidence) | {"budget": asdict(share), "tau": tau}
    return VerdictRow(plan.night, verdict.kind, verdict.reason, verdict.digest, numbers, now)


def _evidence(plan: NightPlan, store: Store, settings: Settings, built: str, tau: float, alpha: float) -> gate.Evidence:
    """Return everything that the gate reads of a night whose artefact (`built`, a digest) has τ baked in."""
    held_out = store.records_by_id(plan.held_out)
    base, tuned, candidate = (store.answers(plan.night, arm) for arm in (BASE, TUNED, CANDIDATE))
    incumbent = base if plan.incumbent == plan.base else store.answers(plan.night, INCUMBENT)
    others = [] if incumbent is base else [incumbent]  # each arm once: a base counted twice would not be its equal
    slices = _slices(held_out, base, candidate, tuned, *others)
    ahead, evaluated = _stage(store, plan.night, "sample"), _stage(store, plan.night, "evaluate")
    base_probes, candidate_probes = _probes(plan, store, base, candidate, tau, evaluated.get("entropy") or {})
    return gate.Evidence(
        incumbent=_scores(incumbent, slices, candidate=False),
        base=_scores(base, slices, candidate=False),
        candidate=_scores(candidate, slices, candidate=True),
        tuned_base=_scores(tuned, slices, candidate=False),
        teacher=_scores(store.answers(plan.night, TEACHER), slices, candidate=False) if plan.teacher else None,
        base_probes=base_probes,
        candidate_probes=candidate_probes,
        k=plan.k,
        samples=len(candidate),
        voids=sum(answer.fault for answer in candidate),
        overlap=len(overlap(store.records_by_id(plan.train), held_out, settings.records.near_duplicate)),
        base_digest=plan.base,
        built_digest=built,
        evaluated_digest=str(evaluated["artefact"]),
        manage=plan.manage,
        alpha=alpha,
        held_out=plan.digest[:16],
        consulted=sum(1 for night in store.nights() if night.verdict is not None),
        seed=plan.seed,
        design=design_of(ahead),
        guards=weigh_guards(store, plan.night, evaluated, settings.gate, plan.seed),
        style_may_move=plan.arm == "merged",
        other_voids=max(sum(answer.fault for answer in arm) for arm in (incumbent, base, tuned)),
    )


def _beside(plan: NightPlan, store: Store, policy: Gate, evidence: gate.Evidence) -> dict[str, Any]:
    """Return what a report tells beside the verdict: where the gain comes from, and how it was measured."""
    evaluated = _stage(store, plan.night, "evaluate")
    return {
        "tuned_temperature": _stage(store, plan.night, "build")["tuned_temperature"],
        "slices": _by_slice(evidence),
        "slice_tests": _slice_tests(evidence, 1.0 - policy.alpha),
        "precondition": _stage(store, plan.night, "sample").get("precondition"),
        "stopped": evaluated.get("stopped"),
        "guards_asked": evaluated.get("guards"),
        "reference": evaluated.get("reference"),
        "engine": evaluated.get("engine"),
        "policy": policy.model_dump(mode="json"),
        "seed": plan.seed,
    }


def overlap(train: Sequence[Record], held_out: Sequence[Record], near_duplicate: float) -> dict[str, str]:
    """Return for each held-out record whose issue, prompt or near-duplicate was trained on, that record (by ids)."""
    issues = {issue: record.id for record in train for issue in record.issues}
    named = {record.id: issues[issue] for record in held_out for issue in record.issues if issue in issues}
    return named | related(held_out, train, near_duplicate, {})


def _slices(held_out: Sequence[Record], *arms: Sequence[Answer]) -> dict[str, tuple[str, ...]]:
    labels = {record.id: record.labels for record in held_out}
    places = {record.id: record.repository for record in held_out}
    return slices_of(labels, places, [_scores(answers, labels, candidate=False) for answers in arms])


def _probes(
    plan: NightPlan,
    store: Store,
    base: Sequence[Answer],
    candidate: Sequence[Answer],
    tau: float,
    entropy: Mapping[str, float | None],
) -> tuple[ProbeReadings, ProbeReadings]:
    """Read base and candidate at one effective temperature: a baked candidate was asked again at T/τ on a subset."""
    probed = candidate if tau == 1.0 else store.answers(plan.night, PROBED)
    # unique-of-k and distinct-4 depend on how many answers there are: compare like with like.
    same = {(answer.problem, answer.index) for answer in probed}
    formats = {record.id: format_of(record) for record in store.records_by_id(plan.held_out)}
    other = [answer for answer in base if (answer.problem, answer.index) in same]
    return (
        measure(_texts(other), entropy.get("base"), formats),
        measure(_texts(probed), entropy.get("candidate"), formats),
    )


def _texts(answers: Sequence[Answer]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for answer in answers:
        grouped[answer.problem].append(answer.completion)
    return grouped


def _scores(answers: Sequence[Answer], slices: dict[str, tuple[str, ...]], *, candidate: bool) -> Scores:
    rows = [(answer.problem, answer.passed, answer.fault) for answer in answers]
    return tally(rows, voids_pass=not candidate, slices=slices)


def _by_slice(evidence: gate.Evidence) -> dict[str, dict[str, Any]]:
    """Return pass@1 of every arm in every slice."""
    arms = {
        BASE: evidence.base,
        TUNED: evidence.tuned_base,
        INCUMBENT: evidence.incumbent,
        TEACHER: evidence.teacher,
        CANDIDATE: evidence.candidate,
    }
    return {
        label: {name: asdict(estimate(scores.only(label))) for name, scores in arms.items() if scores is not None}
        for label in evidence.candidate.labels()
    }


def _slice_tests(evidence: gate.Evidence, level: float) -> dict[str, dict[str, Any]]:
    """Return the lift in every slice and its p-value, raw and adjusted for the number of slices."""
    pairs = {
        label: (evidence.candidate.only(label), evidence.incumbent.only(label)) for label in evidence.candidate.labels()
    }
    raw = {label: paired_p(*pair, seed=evidence.seed) for label, pair in pairs.items()}
    return {
        label: {
            "lift": asdict(difference(*pairs[label], level=level, seed=evidence.seed)),
            "p": raw[label],
            "holm": adjusted,
        }
        for label, adjusted in budget.holm(raw).items()
    }


def _stage(store: Store, number: int, stage: str) -> dict[str, Any]:
    night = store.night(number)
    assert night is not None  # noqa: S101  the caller holds its plan
    return next(row.result for row in night.stages if row.stage == stage)
