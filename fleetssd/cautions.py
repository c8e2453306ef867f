"""What makes a night's result worth less than it looks: said, never forbidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROMPTS = 2_000
"""The paper (arXiv 2604.01193) trains on some 10,000 prompts and looks at no small sets; from here on is judgement."""
PRODUCT = (0.8, 1.8)
"""Where T_train times T_eval lies for the paper's gains (table 3, but for one model at 0.56; figures 10 and 11)."""

_OTHER_PROMPT = (
    "the engine puts prompts to the model otherwise than the trainer did (another chat template, or a system prompt "
    "of the base's): part of what was learned waits for a beginning that never comes"
)


def cautions(arm: str, prompts: int, t_train: float, t_eval: Sequence[float]) -> tuple[str, ...]:
    """Return one sentence for each thing that is outside; `t_eval` are all temperatures that may come to be served."""
    if arm != "ssd":
        return ()
    said = []
    if prompts < PROMPTS:
        said.append(
            f"{prompts} prompts are below the evidence: the paper trained on some 10,000, we ask for {PROMPTS:,}"
        )
    products = sorted(t_train * temperature for temperature in t_eval)
    low, high = PRODUCT
    if products and not any(low <= product <= high for product in products):
        span = " to ".join(f"{product:.2g}" for product in dict.fromkeys((products[0], products[-1])))
        worse = "one that large loses the gain" if products[0] > high else "one that small sharpens instead"
        said.append(f"T_train times T_eval is {span}, outside {low:g} to {high:g} where the evidence lies: {worse}")
    return tuple(said)


def of_plan(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cautions of a night's plan on file; none where it says too little."""
    try:
        served = served_at(plan["manage"], plan["decode"]["temperature"], plan["tau_grid"])
        return cautions(plan["arm"], len(plan["train"]), plan["sampling"]["temperature"], served)
    except KeyError:
        return ()


def of_install(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cautions of a night's install on file: a model that is asked otherwise than it was taught."""
    if (result.get("fidelity") or {}).get("prompted") is not False:
        return ()
    return (_OTHER_PROMPT,)


def served_at(manage: str, temperature: float, tau_grid: Sequence[float]) -> tuple[float, ...]:
    """Return the temperatures that calls may come to be answered at: a baked τ multiplies the callers' own."""
    return tuple(temperature * tau for tau in tau_grid) if manage == "bake" else (temperature,)
