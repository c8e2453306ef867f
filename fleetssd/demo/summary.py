"""What the demo proved, as values: nights, swaps and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fleetssd.checkpoints import Night, Swap

ARMS = {"incumbent": "incumbent", "base": "base", "tuned base": "tuned_base", "teacher decode": "teacher_decode",
        "candidate": "candidate"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One claim of the demo and whether it was seen to hold."""

    name: str
    ok: bool
    seen: str = ""


def night_summary(night: Night) -> dict[str, Any]:
    """Return one night's verdict with pass@1 and pass@k of every arm and their 95 % intervals (shares)."""
    verdict = night.verdict
    if verdict is None:
        return {"night": night.number, "arm": night.arm, "verdict": None, "reason": night.failure, "artefact": None}
    numbers = verdict.evidence
    k = numbers["k"]
    arms = {
        ARMS[arm["name"]]: {"pass@1": _interval(arm["pass_1"]), f"pass@{k}": _interval(arm["pass_k"])}
        for arm in numbers["arms"]
    }
    return {
        "night": night.number,
        "arm": night.arm,
        "verdict": verdict.kind,
        "reason": verdict.reason,
        "artefact": verdict.artefact,
        "k": k,
        "tau": numbers["tau"],
        "tuned_temperature": numbers["tuned_temperature"],
        "arms": arms,
        "lift": _interval(numbers["lift"]),
        f"lift_pass@{k}": _interval(numbers["lift_k"]),
        "over_tuned_base": _interval(numbers["over_tuned"]) if numbers["over_tuned"] else None,
        "split": [
            {
                "slice": part["slice"] or "all",
                **{name: _interval(part[name]) for name in ("total", "decoding", "skill")},
            }
            for part in numbers["splits"]
        ],
        "probes": {"base": numbers["base_probes"], "candidate": numbers["candidate_probes"]},
        "alarms": [alarm["probe"] for alarm in numbers["alarms"]],
    }


def swap_summary(swap: Swap) -> dict[str, Any]:
    """Return one line of the swap log."""
    return {
        "kind": swap.kind, "actor": swap.actor, "from": swap.from_digest, "to": swap.to_digest,
        "model": swap.to_model, "night": swap.night, "reason": swap.reason, "evidence": swap.evidence,
        "at": swap.at.isoformat() if swap.at else None, "done": swap.done,
    }  # fmt: skip


def summary(nights: Sequence[Night], swaps: Sequence[Swap], checks: Sequence[Check]) -> dict[str, Any]:
    """Return the whole of `summary.json`."""
    return {
        "nights": [night_summary(night) for night in nights],
        "swaps": [swap_summary(swap) for swap in swaps],
        "checks": [asdict(check) for check in checks],
    }


def percent(interval: dict[str, float], *, signed: bool = False) -> str:
    """Render a share with its interval in percent."""
    sign = "+" if signed else ""
    point, low, high = (100 * interval[name] for name in ("point", "low", "high"))
    return f"{point:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _interval(estimate: dict[str, Any]) -> dict[str, float]:
    return {end: estimate[end] for end in ("point", "low", "high")}
