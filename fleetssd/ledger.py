"""What a night's training cost and was made of: the ledger that is shown, from the stages' results on file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from fleetssd.checkpoints import Night

_COST = ("seconds", "cpu_seconds", "gpu_seconds", "energy_joules", "peak_rss_mb", "peak_gpu_mb", "tokens", "steps")
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
        "versions": train.get("versions"),
        "digests": {
            "base_weights": train.get("base_digest"),
            "base_gguf": night.plan.get("base"),
            "rows": train.get("rows_digest"),
            "adapter": train.get("adapter_digest"),
            "files": build.get("files"),
        },
        "retyped": build.get("retyped"),
    }


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
