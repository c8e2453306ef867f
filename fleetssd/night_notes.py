"""What a report's intervals alone do not say: what was foreseen, spent, stopped early, baked in and asked beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetssd.budget import uncorrected
from fleetssd.surroundings import UNWALLED

_EARLY = (
    "The evaluation could stop early: the e-value decides, intervals and p-value only describe. The chance and the "
    "smallest gain that are told are those of one that asks every issue; one that may stop shows less."
)


def notes(
    evidence: Mapping[str, Any], plan: Mapping[str, Any], challenger: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the sentences of a night from its verdict's evidence, its plan and the challenger's ruling, if any."""
    return (*_of_evidence(evidence, plan), *_of_challenger(challenger))


def _of_evidence(evidence: Mapping[str, Any], plan: Mapping[str, Any]) -> Sequence[str]:
    ahead, stopped = evidence.get("precondition"), evidence.get("stopped")
    said = [UNWALLED] if plan.get("sandbox") == "none" else []
    if ahead:
        said += [f"Before the night: {ahead['advice']}; {ahead['reason']}.", f"{ahead['power']['sentence']}."]
    said += _of_budget(evidence.get("budget"))
    if stopped and stopped["decision"] != "continue":
        said.append(f"The evaluation stopped to {stopped['decision']} after {stopped['problems']} of {stopped['of']}.")
    if evidence.get("e_value") is not None:
        said.append(_EARLY)
    if evidence.get("tau", 1.0) != 1.0:
        said.append(f"A temperature of {evidence['tau']:g} is baked into the candidate's weights.")
    if beside := evidence.get("reference"):
        shares = " and ".join(f"the {name} in {100 * beside[name]['point']:.1f} %" for name in ("base", "candidate"))
        said.append(
            f"Weaker evidence, which decides nothing: on {beside['problems']} issues without tests {shares} of its "
            "answers writes the merged change itself."
        )
    if evidence.get("over_teacher"):
        decode = ", ".join(f"{name} {plan['sampling'][name]:g}" for name in ("temperature", "top_k", "top_p"))
        said.append(f"Teacher decode: the base at {decode}, in the order in which the engine applies them.")
    return said


def _of_budget(share: Mapping[str, Any] | None) -> Sequence[str]:
    """Say what tonight could spend of the error budget, and never change its rule unsaid."""
    if share is None:
        return []
    spent = f"of an error budget of {100 * share['budget']:g} % tonight could spend {100 * share['alpha']:.3g} points"
    said = f"Look {share['look']}, promotions before: {share['promotions']}; {spent} ({share['rule']})"
    if share["look"] > 1:
        chance = uncorrected(share["look"], share["budget"])
        said += f"; so many looks at {100 * share['budget']:g} % each would promote a useless candidate with a chance "
        said += f"of up to {chance:.0%}"
    return [f"{said}.", *([f"Note: {share['changed']}."] if share["changed"] else [])]


def _of_challenger(told: Mapping[str, Any] | None) -> Sequence[str]:
    """Say how the challenger that was asked beside stands."""
    if told is None:
        return []
    words = {"promote": "is promoted", "carry": "is carried on", "drop": "is dropped"}
    name = f"The challenger of night {told['origin']} ({told['artefact'][:12]})"
    return [f"{name} {words[told['kind']]}: {told['reason']}."]
