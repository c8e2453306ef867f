"""What a night's training cost and was made of: the ledger that is shown, from the stages' results on file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fleetssd.checkpoints import Night

_COST = ("seconds", "cpu_seconds", "gpu_seconds", "energy_joules", "peak_rss_mb", "peak_gpu_mb", "tokens", "steps")
_DIGESTS = ("base_weights", "base_gguf", "rows", "adapter")
_BARS = "▁▂▃▄▅▆▇█"


def ledger(night: Night) -> dict[str, Any] | None:
    """Return the ledger of a night as JSON knows it; None before it has trained. What was not measured is null.

    Seconds are wall clock of the last start, processor seconds and joules (the machine's, while it trained) of all
    starts, memory is in MiB.
    """
    results: dict[str, Mapping[str, Any]] = {row.stage: row.result for row in night.stages}
    if "train" not in results:
        return None
    train, sample, build = results["train"], results.get("sample", {}), results.get("build", {})
    return {
        "cost": {name: train.get(name) for name in _COST},
        "backend": train.get("backend"),
        "because": train.get("because"),
        "losses": list(train.get("losses", ())),
        "data": {name: train.get(name) for name in ("rows", "rows_used", "rows_too_long", "dropped", "mix")},
        "sampler": {name: sample.get(name) for name in ("engine", "sampling", "samples", "finish")},
        "plan": train.get("job"),
        "settings": train.get("settings"),
        "versions": train.get("versions"),
        "digests": {
            "base_weights": train.get("base_digest"),
            "base_gguf": night.plan.get("base"),
            "rows": train.get("rows_digest"),
            "adapter": train.get("adapter_digest"),
            "files": build.get("files"),
        },
        "adapter_type": build.get("adapter_type"),
        "retyped": build.get("retyped"),
    }


def ledger_lines(spent: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a ledger as names and rendered values, for a person; what was not measured is a dash."""
    cost, data, losses = spent["cost"], spent["data"], spent["losses"]
    plan, digests = spent["plan"] or {}, spent["digests"]
    packages = ", ".join(f"{name} {version}" for name, version in (spent["versions"] or {}).items())
    settings = {**plan.get("lora", {}), **(spent["settings"] or {})}
    lines = {
        "trained by": f"{spent['backend'] or '-'}: {packages or '-'}",
        "because": spent["because"],
        "sampled by": spent["sampler"]["engine"],
        "seconds": f"{_number(cost['seconds'])} wall, {_number(cost['cpu_seconds'])} processor, "
        f"{_number(cost['gpu_seconds'])} accelerator",
        "energy": f"{_number(cost['energy_joules'])} J of the machine" if cost["energy_joules"] else "not readable",
        "peak memory": ", accelerator ".join(
            f"{_number(value)} MiB" for value in (cost["peak_rss_mb"], cost["peak_gpu_mb"]) if value is not None
        ),
        "tokens": f"{_number(cost['tokens'])} in {_number(cost['steps'])} steps",
        "rows": f"{_number(data['rows_used'])} used, {_number(data['rows_too_long'])} too long, "
        f"dropped {_short(data['dropped'] or 'none')}",
        "mixed in": _mix(data["mix"]),
        "loss": f"{losses[0]:.3f} {spark(losses)} {losses[-1]:.3f}" if losses else "",
        "hyperparameters": ", ".join(f"{name} {_short(value)}" for name, value in settings.items()),
        "placement": ", ".join(f"{name} {_short(value)}" for name, value in plan.get("placement", {}).items()),
        "seed, threads": f"{plan.get('seed', '-')}, {plan.get('threads', '-')}",
        **{f"{name.replace('_', ' ')} sha256": digests[name] for name in _DIGESTS},
        **{f"{name}.gguf sha256": digest for name, digest in (digests["files"] or {}).items()},
        "adapter.gguf type": spent["adapter_type"],
        "other types": ", ".join(f"{change}: {count}" for change, count in (spent["retyped"] or {}).items()),
    }
    return [(name, str(value or "-")) for name, value in lines.items()]


def _mix(mix: Mapping[str, Any] | None) -> str:
    return f"{mix['rows']} rows, {mix['ratio']:g} for each of ours, sha256 {mix['digest']}" if mix else "nothing"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def spark(values: Sequence[float], width: int = 48) -> str:
    """Return a curve as one line of bars: means of equal parts, the lowest as the shortest bar."""
    if not values:
        return ""
    count = min(width, len(values))
    cuts = [len(values) * part // count for part in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((mean - low) / step)] for mean in means)
