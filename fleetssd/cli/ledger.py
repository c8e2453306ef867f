"""How the ledger of a night looks: cost, data, hyperparameters, versions and digests in one grid."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from fleetssd.cli.reading import pairs
from fleetssd.ledger import spark

_DIGESTS = ("base_weights", "base_gguf", "rows", "adapter")


def ledger_table(spent: dict[str, Any]) -> Table:
    """Return the grid that a person reads; what was not measured is a dash."""
    cost, data, digests, plan = spent["cost"], spent["data"], spent["digests"], spent["plan"] or {}
    losses = spent["losses"]
    lora = plan.get("lora", {})
    packages = ", ".join(f"{name} {version}" for name, version in (spent["versions"] or {}).items())
    rows = {
        "trained by": f"{spent['backend'] or '-'}: {packages or '-'}",
        "sampled by": spent["sampler"]["engine"] or "-",
        "seconds": f"{_number(cost['seconds'])} wall, {_number(cost['cpu_seconds'])} processor, "
        f"{_number(cost['gpu_seconds'])} accelerator",
        "energy": f"{_number(cost['energy_joules'])} J of the machine" if cost["energy_joules"] else "not readable",
        "peak memory": f"{_number(cost['peak_rss_mb'])} MiB, accelerator {_number(cost['peak_gpu_mb'])} MiB",
        "tokens": f"{_number(cost['tokens'])} in {_number(cost['steps'])} steps",
        "rows": f"{_number(data['rows_used'])} used, {_number(data['rows_too_long'])} too long, "
        f"dropped {data['dropped'] or 'none'}",
        "loss": f"{losses[0]:.3f} {spark(losses)} {losses[-1]:.3f}" if losses else "-",
        "hyperparameters": ", ".join(f"{name} {_short(value)}" for name, value in lora.items()) or "-",
        "seed, threads": f"{plan.get('seed', '-')}, {plan.get('threads', '-')}",
        **{f"{name.replace('_', ' ')} sha256": digests[name] or "-" for name in _DIGESTS},
    }
    if spent["retyped"]:
        rows["other types"] = ", ".join(f"{change}: {count}" for change, count in spent["retyped"].items())
    grid = pairs()
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", escape(str(value)))
    return grid


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else f"{value:g}"
