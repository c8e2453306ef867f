"""What a coder must not forget: guard sets asked of base and candidate, and what the harness says of either."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fleetssd.checkpoints import Answer, Checkpoint
from fleetssd.config import Gate, Settings
from fleetssd.guards import Guard, Item, weigh
from fleetssd.guards.harness import TaskScore, weigh_tasks
from fleetssd.operations.evaluate import Arm, Examiner
from fleetssd.ports import Completion, Engine, Harness, Prompt, Sandbox, Store
from fleetssd.probes import entropy
from fleetssd.problems import Outcome, Problem
from fleetssd.recipe import NightPlan
from fleetssd.scoring import Scores, tally

GUARD_BASE, GUARD_CANDIDATE = "guards: base", "guards: candidate"
ENTROPY_PROMPTS, ENTROPY_TOKENS = 32, 128
"""Answers that a token's entropy is read from, and their length: some thousand tokens in all."""


@dataclass(frozen=True, slots=True)
class Posed:
    """A guard item as it is asked: its set is part of its id."""

    id: str
    prompt: str
    item: Item


def ask_guards(
    examiner: Examiner,
    plan: NightPlan,
    settings: Settings,
    candidate: Checkpoint,
    sets: Mapping[str, Sequence[Item]],
) -> dict[str, Any]:
    """Ask base and candidate every item at one effective temperature; return what was asked.

    A temperature that is baked into the candidate is taken out of its decode again.
    """
    posed = [Posed(f"{name}/{item.id}", item.prompt, item) for name, items in sets.items() for item in items]
    decode = replace(plan.decode, max_tokens=settings.guards.max_tokens)
    same = decode.at(decode.temperature / candidate.tau)
    arms = [
        Arm(GUARD_BASE, settings.engine.base_model, decode, settings.guards.samples),
        Arm(GUARD_CANDIDATE, candidate.model, same, settings.guards.samples),
    ]
    if posed:
        replace(examiner, mark=_mark).examine(arms, posed)
    written = "\n".join(each.item.model_dump_json() for each in posed)
    return {
        "sets": {name: len(items) for name, items in sets.items()},
        "samples": settings.guards.samples,
        "digest": hashlib.sha256(written.encode()).hexdigest(),
    }


def ask_harness(harness: Harness | None, base_model: str, candidate: Checkpoint, folder: Path) -> dict[str, Any]:
    """Ask the harness of base and candidate; without one there is nothing to tell."""
    if harness is None:
        return {}
    models = {"base": base_model, "candidate": candidate.model}
    return {arm: [asdict(score) for score in harness.score(model, folder / arm)] for arm, model in models.items()}


def weigh_guards(store: Store, night: int, evaluated: Mapping[str, Any], policy: Gate, seed: int) -> tuple[Guard, ...]:
    """Hold the candidate against the base, set by set and task by task, from what is on file."""
    asked = evaluated.get("guards") or {"sets": {}}
    base, candidate = (store.answers(night, arm) for arm in (GUARD_BASE, GUARD_CANDIDATE))
    own = [
        weigh(name, _of(name, base, voids_pass=True), _of(name, candidate, voids_pass=False), policy, seed=seed)
        for name in asked["sets"]
    ]
    told = evaluated.get("lm_eval") or {"base": (), "candidate": ()}
    first, second = ([TaskScore(**score) for score in told[arm]] for arm in ("base", "candidate"))
    return (*own, *weigh_tasks(first, second, policy))


def read_entropy(
    engine: Engine, plan: NightPlan, base_model: str, candidate: Checkpoint, problems: Sequence[Problem]
) -> dict[str, float | None]:
    """Return the entropy of a token in answers of base and candidate, both at the base's effective temperature."""
    prompts = [Prompt(problem.prompt, plan.seed + index) for index, problem in enumerate(problems[:ENTROPY_PROMPTS])]
    decode = replace(plan.decode, max_tokens=min(plan.decode.max_tokens, ENTROPY_TOKENS))
    same = decode.at(decode.temperature / candidate.tau)
    return {
        "base": entropy(engine.likelihoods(base_model, prompts, decode)),
        "candidate": entropy(engine.likelihoods(candidate.model, prompts, same), power=candidate.tau),
    }


def _mark(posed: Sequence[Posed], completions: Sequence[Completion], _sandbox: Sandbox) -> list[Outcome]:
    return [
        Outcome(passed=False, fault=True, detail="the engine gave no answer")
        if completion.finish == "error"
        else Outcome(each.item.check.passes(completion.text))
        for each, completion in zip(posed, completions, strict=True)
    ]


def _of(name: str, answers: Sequence[Answer], *, voids_pass: bool) -> Scores:
    rows = [(row.problem, row.passed, row.fault) for row in answers if row.problem.startswith(f"{name}/")]
    return tally(rows, voids_pass=voids_pass)
