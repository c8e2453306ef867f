"""Held-out records without tests: asked too, compared with the merged change, and told apart from all evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fleetssd.checkpoints import Checkpoint
from fleetssd.operations.evaluate import Arm, Examiner
from fleetssd.problems import Problem
from fleetssd.recipe import NightPlan
from fleetssd.scoring import difference, estimate, tally

REFERENCE_BASE, REFERENCE_CANDIDATE = "reference base", "reference candidate"
"""Arms of their own: whatever reads the night's arms by name, the gate first of all, never sees these answers."""


def ask_references(
    examiner: Examiner, plan: NightPlan, base_model: str, candidate: Checkpoint, problems: Sequence[Problem]
) -> dict[str, Any] | None:
    """Ask base and candidate; return how often either writes the merged change itself, None where nothing is asked."""
    if not problems:
        return None
    models = {REFERENCE_BASE: base_model, REFERENCE_CANDIDATE: candidate.model}
    examiner.examine([Arm(name, model, plan.decode, plan.samples) for name, model in models.items()], problems)
    rows = {
        name: [(row.problem, row.passed, row.fault) for row in examiner.store.answers(plan.night, name)]
        for name in models
    }
    base, theirs = (tally(rows[name], voids_pass=name == REFERENCE_BASE) for name in models)
    return {
        "problems": len(problems),
        "samples": plan.samples,
        "base": asdict(estimate(base)),
        "candidate": asdict(estimate(theirs)),
        "lift": asdict(difference(theirs, base, seed=plan.seed)),
    }
