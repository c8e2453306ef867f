"""Guard tasks in a night: what is asked, of whom, at which temperature, and what the gate makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fleetssd.checkpoints import Night
from fleetssd.guards import Item, parse_items
from fleetssd.guards.harness import TaskScore
from fleetssd.operations.guarding import GUARD_BASE, GUARD_CANDIDATE
from fleetssd.operations.night import run_night, tonight
from fleetssd.ports import Completion, Prompt
from tests.fakes import Killed
from tests.services.test_night import BASE_NAME, Scene, answer, scene

__all__ = ["scene"]


def items(name: str, count: int = 40) -> tuple[Item, ...]:
    """Return a set of items whose right answer is the set's name."""
    check = {"kind": "exact", "answers": [name]}
    rows = [
        {"id": f"i{n:02}", "prompt": f"{name} {n}?", "check": check, "good": name, "bad": "no"} for n in range(count)
    ]
    return parse_items("\n".join(map(json.dumps, rows)), name)


@dataclass
class Told:
    """A harness that says what it is told, and remembers whom it was asked about."""

    shares: dict[str, float]
    asked: list[str] = field(default_factory=list)

    def score(self, model: str, folder: Path) -> tuple[TaskScore, ...]:
        """Return the share of the base, or that of any other."""
        self.asked.append(model)
        share = self.shares["base" if model == BASE_NAME else "candidate"]
        return (TaskScore("gsm8k", "exact_match", 200, share, 0.02),)


@dataclass
class Guarded:
    """A night with guard sets; `knows` says what base and candidate answer to a set's items."""

    scene: Scene
    knows: dict[str, str]
    guards: dict[str, tuple[Item, ...]]
    harness: Told | None = None
    temperatures: dict[str, set[float]] = field(default_factory=dict)

    def answer(self, model: str, prompt: Prompt) -> Completion:
        """Answer guard items from memory, anything else as the scene does."""
        if not prompt.text.endswith("?"):
            return answer(model, prompt)
        name = "base" if model == BASE_NAME else "candidate"
        return Completion(self.knows[name] if prompt.text.startswith("shell") else "house", "stop", 1)

    def run(self, **tables: Any) -> Night:
        """Run tonight with the guards."""
        self.scene.engine.answer = self.answer
        complete = self.scene.engine.complete

        def spied(model: str, prompts: Sequence[Prompt], sampling: Any, progress: Any) -> list[Completion]:
            if any(prompt.text.endswith("?") for prompt in prompts):
                name = "base" if model == BASE_NAME else "candidate"
                self.temperatures.setdefault(name, set()).add(sampling.temperature)
            return complete(model, prompts, sampling, progress)

        self.scene.engine.complete = spied  # type: ignore[method-assign]
        shop = replace(self.scene.shop(**tables), guards=self.guards, harness=self.harness)
        return run_night(shop, tonight(shop))


def guarded(scene: Scene, base: str, candidate: str, **more: Any) -> Guarded:
    """Return a night in which base and candidate answer this to the shell's items, and both know the house."""
    return Guarded(
        scene, {"base": base, "candidate": candidate}, {"shell": items("shell"), "house": items("house")}, **more
    )


def states(night: Night) -> dict[str, str]:
    """Return the state of every guard in the verdict."""
    assert night.verdict is not None
    return {guard["name"]: guard["state"] for guard in night.verdict.evidence["guards"]}


def test_a_candidate_that_forgot_nothing_is_promoted(scene: Scene) -> None:
    """Both sets hold; every item was asked of either arm as often as the settings say, and it is on file."""
    night = guarded(scene, "shell", "shell").run(guards={"samples": 3})
    assert states(night) == {"shell": "holds", "house": "holds"}
    assert night.verdict is not None
    assert night.verdict.kind == "promote"
    assert night.verdict.reason.endswith("guards hold: shell, house")
    for arm in (GUARD_BASE, GUARD_CANDIDATE):
        assert len(scene.store.answers(1, arm)) == 80 * 3
    asked = night.verdict.evidence["guards_asked"]
    assert (asked["sets"], asked["samples"], len(asked["digest"])) == ({"shell": 40, "house": 40}, 3, 64)


def test_a_candidate_that_forgot_the_shell_is_rejected(scene: Scene) -> None:
    """However many issues it solves: the reason names the set and the fall."""
    night = guarded(scene, "shell", "python").run()
    assert states(night) == {"shell": "drop", "house": "holds"}
    assert night.verdict is not None
    assert night.verdict.kind == "reject"
    assert "guard shell moved by -100.0 pp" in night.verdict.reason


def test_nothing_against_nothing_does_not_block(scene: Scene) -> None:
    """A base that never knew the shell cannot show that it was forgotten."""
    night = guarded(scene, "python", "python").run()
    assert states(night)["shell"] == "blind"
    assert night.verdict is not None
    assert night.verdict.kind == "promote"


def test_guards_are_asked_at_one_effective_temperature(scene: Scene) -> None:
    """A candidate with τ baked in is asked at T/τ."""
    found = guarded(scene, "shell", "shell")
    found.run(decode={"manage": "bake", "tau_grid": [0.5]})
    assert found.temperatures == {"base": {1.0}, "candidate": {2.0}}


def test_what_the_engine_does_not_answer_counts_against_the_candidate(scene: Scene) -> None:
    """A void of the base passes, one of the candidate fails."""
    found = guarded(scene, "shell", "shell")
    found.answer = lambda model, prompt: (  # type: ignore[method-assign]
        Completion("", "error", 0) if prompt.text.endswith("?") else answer(model, prompt)
    )
    night = found.run()
    assert states(night) == {"shell": "drop", "house": "drop"}


def test_guards_that_are_on_file_are_not_asked_again(scene: Scene) -> None:
    """Killed when the evaluation's row is about to be written, the next try asks no item twice."""
    found, asked = guarded(scene, "shell", "shell"), []
    finish = scene.store.finish_stage

    def die(row: Any) -> None:
        if row.stage == "evaluate" and not asked:
            raise Killed
        finish(row)

    scene.store.finish_stage = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        found.run()
    asked.append(len(scene.store.answers(1, GUARD_CANDIDATE)))
    found.temperatures.clear()
    assert found.run().verdict is not None
    assert found.temperatures == {}


def test_the_harness_is_asked_about_both(scene: Scene) -> None:
    """Its tasks are guards as well, over the served names of base and candidate."""
    told = Told({"base": 0.6, "candidate": 0.3})
    night = guarded(scene, "shell", "shell", harness=told).run()
    assert states(night)["gsm8k (exact_match)"] == "drop"
    assert told.asked[0] == BASE_NAME
    assert told.asked[1].startswith("fleet-coder:v")


def test_entropy_is_read_where_the_engine_tells_likelihoods(scene: Scene) -> None:
    """Base and candidate have a reading each, the candidate's with its baked temperature undone; else there is none."""
    scene.engine.places = [[math.log(0.5), math.log(0.5)], [math.log(0.9), math.log(0.1)]]
    night = scene.run(decode={"manage": "bake", "tau_grid": [0.5]})
    assert night.verdict is not None
    base, candidate = (night.verdict.evidence[f"{arm}_probes"]["entropy"] for arm in ("base", "candidate"))
    assert base == pytest.approx((math.log(2) + 0.3251) / 2, abs=1e-3)
    assert candidate > base
    scene.engine.places = []
    later = scene.run(decode={"manage": "bake", "tau_grid": [0.5]}).verdict
    assert later is not None
    assert later.evidence["base_probes"]["entropy"] is None


def test_the_tolerances_are_stored_with_the_verdict(scene: Scene) -> None:
    """What a night was held to can be read years later, whatever the settings say then."""
    verdict = scene.run(gate={"guard_margin": 0.07, "self_bleu_rise": 0.3}).verdict
    assert verdict is not None
    assert verdict.evidence["policy"]["guard_margin"] == 0.07
    assert verdict.evidence["policy"]["self_bleu_rise"] == 0.3
    assert verdict.evidence["guards"] == []
