"""The demo's tables: one a night, then the swap log and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fleetssd.checkpoints import Night, Swap
from fleetssd.demo.summary import Check, night_summary, percent

COLOURS = {"promote": "green", "keep": "yellow", "reject": "red", "invalid": "magenta"}


def show_night(console: Console, night: Night) -> None:
    """Print one night: what it learned from, what every arm scored, the split of its gain, probes and verdict."""
    told = night_summary(night)
    if told["verdict"] is None:
        console.print(f"[red]night {night.number} failed:[/] {told['reason']}")
        return
    results: dict[str, dict[str, Any]] = {row.stage: row.result for row in night.stages}
    console.print(_learning(night, results))
    console.print(_arms(told))
    console.print(_split(told))
    console.print(_probes(told))
    colour = COLOURS[told["verdict"]]
    console.print(f"[bold {colour}]night {night.number}: {told['verdict'].upper()}[/] {told['reason']}\n")


def show_swaps(console: Console, swaps: Sequence[Swap]) -> None:
    """Print the swap log."""
    table = Table(title="swap log", title_justify="left")
    for column in ("#", "what", "by", "from", "to", "night", "reason"):
        table.add_column(column, overflow="fold")
    for swap in swaps:
        state = swap.kind if swap.done else f"{swap.kind} (open)"
        night = "" if swap.night is None else str(swap.night)
        table.add_row(str(swap.id), state, swap.actor, swap.from_digest[:12], swap.to_digest[:12], night, swap.reason)
    console.print(table)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Print what the demo claims and whether it is so."""
    table = Table(title="what this demo checked of itself", title_justify="left")
    table.add_column("")
    table.add_column("claim", overflow="fold")
    table.add_column("seen", overflow="fold")
    for check in checks:
        table.add_row("[green]yes[/]" if check.ok else "[bold red]NO[/]", check.name, check.seen)
    console.print(table)


def _learning(night: Night, results: dict[str, dict[str, Any]]) -> Table:
    train, sample, build = results["train"], results["sample"], results["build"]
    losses = train["losses"]
    table = Table(title=f"night {night.number}: arm {night.arm}", title_justify="left")
    for column in ("records", "samples", "trained on", "steps", "loss first -> last", "artefact", "τ baked"):
        table.add_column(column)
    table.add_row(
        str(len(night.plan["train"])),
        str(sample["samples"]),
        f"{train['rows']} rows (dropped {sum(train['dropped'].values())})",
        str(train["steps"]),
        f"{losses[0]:.3f} -> {losses[-1]:.3f}",
        f"{build['road']} {results['install']['digest'][:12]}",
        "none" if build["tau"] == 1.0 else f"{build['tau']:g}",
    )
    return table


def _arms(told: dict[str, Any]) -> Table:
    k = told["k"]
    table = Table(title="held-out issues, percent solved with 95 % intervals", title_justify="left")
    for column in ("arm", "decode", "pass@1", f"pass@{k}"):
        table.add_column(column)
    for name, scores in told["arms"].items():
        decode = f"T = {told['tuned_temperature']:g}" if name == "tuned_base" else "production"
        table.add_row(name.replace("_", " "), decode, percent(scores["pass@1"]), percent(scores[f"pass@{k}"]))
    table.add_section()
    lifts = (percent(told[name], signed=True) for name in ("lift", f"lift_pass@{k}"))
    table.add_row("lift", "candidate - incumbent", *lifts)
    return table


def _split(told: dict[str, Any]) -> Table:
    tuned = told["arms"]["tuned_base"]["pass@1"]["point"]
    title = f"where the gain over the base comes from (decoding alone would give {100 * tuned:.1f})"
    table = Table(title=title, title_justify="left")
    for column in ("slice", "gain in pass@1", "decoding (free by retuning)", "skill (beyond the tuned base)"):
        table.add_column(column)
    for part in told["split"]:
        table.add_row(part["slice"], *(percent(part[name], signed=True) for name in ("total", "decoding", "skill")))
    return table


def _probes(told: dict[str, Any]) -> Table:
    table = Table(title="probes, base and candidate at the same effective temperature", title_justify="left")
    for column in ("", "unique of k", "distinct-4", "parse rate", "median length", "repetition"):
        table.add_column(column)
    for name, probe in told["probes"].items():
        table.add_row(
            name, f"{probe['unique_of_k']:.2f}", f"{probe['distinct4']:.3f}", f"{probe['parse_rate']:.2f}",
            f"{probe['length_median']:.0f}", f"{probe['repetition']:.3f}",
        )  # fmt: skip
    if told["alarms"]:
        table.caption = "alarms: " + ", ".join(told["alarms"])
    return table
