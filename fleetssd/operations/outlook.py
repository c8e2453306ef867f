"""Before a night spends anything: what the base can do, what that advises, and how the evidence will be gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fleetssd import precondition, sequential
from fleetssd.budget import Share, looks, tonight
from fleetssd.challengers import HALF
from fleetssd.checkpoints import Answer
from fleetssd.config import Gate, Settings
from fleetssd.errors import Rejected
from fleetssd.operations.evaluate import BASE, CANDIDATE, INCUMBENT, TUNED, Arm, Examiner, Stop
from fleetssd.ports import Store
from fleetssd.problems import Problem
from fleetssd.recipe import NightPlan
from fleetssd.scoring import Scores, deltas, tally
from fleetssd.shares import fell_beyond

BEFORE = "base before the night"
"""The arm that the precondition is read from: the base at the production decode, on issues that never judge."""


def share_of(plan: NightPlan, store: Store, policy: Gate) -> Share:
    """Return tonight's share of the error budget: a function of the verdicts on file, so a restart changes nothing.

    The first stage keeps it: what settings say by the time that the night is judged is for tomorrow.
    """
    night = store.night(plan.night)
    for row in night.stages if night else ():
        if "share" in row.result:
            return Share(**row.result["share"])
    alpha = HALF * policy.alpha if policy.challengers else policy.alpha
    return tonight(looks(store.nights(), plan.night, policy.alpha), policy.budget, alpha)


def look_ahead(plan: NightPlan, settings: Settings, examiner: Examiner, issues: Sequence[Problem]) -> dict[str, Any]:
    """Ask the base on issues that never judge; return the precondition and the design of tonight's evaluation.

    Raises Rejected where the settings enforce the precondition and it advises against tonight's arm.
    """
    store, policy = examiner.store, settings.gate
    examiner.examine([Arm(BEFORE, settings.engine.base_model, plan.decode, plan.samples)], issues)
    rows = [(row.problem, row.passed, row.fault) for row in store.answers(plan.night, BEFORE)]
    base = tally(rows, voids_pass=False)
    share = share_of(plan, store, policy)
    power = precondition.power_of(base, len(plan.held_out), plan.samples, policy.effect, share.alpha)
    found = precondition.advise(base, plan.k, policy.headroom, power, level=1.0 - policy.alpha, seed=plan.seed)
    if policy.precondition == "enforce" and not found.allows(plan.arm):
        raise Rejected(
            f"precondition: {found.advice} {found.other}".rstrip() + f", not arm {plan.arm}: {found.reason}",
            hint='Choose the arm that it names, or set [gate] precondition = "advise".',
        )
    bet = sequential.design(
        policy.effect, share.alpha, between=power.between, within=power.within, samples=plan.samples
    )
    return {
        "precondition": asdict(found),
        "stopping": settings.evaluation.stopping,
        "design": asdict(bet),
        "share": asdict(share),
    }


def design_of(outlook: dict[str, Any]) -> sequential.Design | None:
    """Return the bet that tonight's evaluation is stopped by, None where it asks every issue."""
    return sequential.Design(**outlook["design"]) if outlook.get("stopping") == "sequential" else None


def stopper(plan: NightPlan, store: Store, policy: Gate, design: sequential.Design) -> Stop:
    """Return the look that is taken after each block, at what is on file of the problems asked so far.

    It stops to promote only where the gate could: enough issues, pass@k in its margin, the tuned base beaten where
    that is asked for.
    """

    def look(asked: Sequence[Problem]) -> sequential.Decision:
        ids = {problem.id for problem in asked}
        candidate = _scores(store.answers(plan.night, CANDIDATE), ids, candidate=True)
        other = BASE if plan.incumbent == plan.base else INCUMBENT
        incumbent = _scores(store.answers(plan.night, other), ids)
        if len(ids) < policy.min_problems:
            return "continue"
        decision = sequential.look(deltas(candidate, incumbent), design)
        if decision != "promote":
            return decision
        lift_k = float(deltas(candidate, incumbent, plan.k).mean())
        tuned = _scores(store.answers(plan.night, TUNED), ids)
        skilled = plan.manage == "none" or sequential.shown(deltas(candidate, tuned), design)
        return "promote" if skilled and not fell_beyond(lift_k, policy.pass_k_margin) else "continue"

    return look


def _scores(answers: Sequence[Answer], ids: set[str], *, candidate: bool = False) -> Scores:
    rows = [(answer.problem, answer.passed, answer.fault) for answer in answers if answer.problem in ids]
    return tally(rows, voids_pass=not candidate)
