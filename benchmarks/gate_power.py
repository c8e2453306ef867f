"""The gate on simulated nights: false promotions, power against the formula, what early stopping and LORD save.

A few minutes on one core. The tables are those of docs/science.md.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from statistics import fmean

from fleetssd.budget import lord, spend, uncorrected
from fleetssd.operations.evaluate import LOOKS
from fleetssd.power import detectable, mcnemar_power, wald
from fleetssd.simulation import Cell, Curve, Saving, false_share, peeking, power_cell, savings, spent_by

NIGHTS = 4_000
EFFECTS = (0.0, -0.05, 0.05, 0.13)
ISSUES, SAMPLES = (20, 50, 100, 200), (1, 4, 8)
ONCE, DISCORDANT = (50, 100, 200, 500, 1_000), (0.1, 0.2, 0.3)
ALPHA, PLANNED = 0.05, 0.05
FALSE_GOAL, GAP_GOAL, SAVING_GOAL = 0.05, 0.03, 0.6
FLEETS, YEAR = 200, 365
EACH = 10_000  # looks: more than there are issues
LOOKED_AT, PLANNED_LOOKS = (1, 2, 3, 7, 14, 30), 30


def main() -> None:
    """Print the tables and, last, the claim as one JSON object."""
    began = time.perf_counter()
    cells = list(power_table())
    once_table()
    saved = list(saving_table())
    budget_table()
    look_table()
    false = max(cell.promoted for cell in cells if cell.effect <= 0)
    gap = max(cell.gap for cell in cells if cell.effect > 0)
    ratio = max(fmean(row.ratio for row in rows) for rows in saved)
    excess = max(row.promoted for rows in saved for row in rows if row.effect <= 0)
    print(f"{len(cells) * NIGHTS} nights in {time.perf_counter() - began:.0f} s")
    value = {"false promotions": round(false, 4), "gap to the formula": round(gap, 4), "sequential": round(ratio, 3)}
    goal = {"false promotions": FALSE_GOAL, "gap to the formula": GAP_GOAL, "sequential": SAVING_GOAL}
    result = {
        "claim": "simulated nights: worst false promotions, worst gap of power to the formula, and the issues asked "
        "by a sequential evaluation, of those of a fixed one with equal error rates",
        "value": value,
        "goal": goal,
        "holds": false <= FALSE_GOAL and gap <= GAP_GOAL and ratio <= SAVING_GOAL and excess <= ALPHA / 2,
        "peer": {"name": "fixed evaluation of equal power", "value": 1.0},
    }
    print(json.dumps(result))


def power_table() -> Iterator[Cell]:
    """Print and yield one line for each n and k: promoted / computed in percent."""
    print(f"promoted of {NIGHTS} nights, % (formula), alpha {ALPHA:g} two-sided")
    print("| issues x samples | A/A | -5 pp | +5 pp | +13 pp |\n|---|---|---|---|---|")
    for problems in ISSUES:
        for samples in SAMPLES:
            row = [power_cell(effect, problems, samples, NIGHTS, ALPHA, seed=problems + samples) for effect in EFFECTS]
            texts = [f"{100 * cell.promoted:.1f} ({100 * cell.formula:.1f})" for cell in row]
            print(f"| {problems} x {samples} | {' | '.join(texts)} |", flush=True)
            yield from row


def once_table() -> None:
    """Print what issues with one sample each can show, where so many of them are answered differently."""
    print(
        "\none sample an issue: smallest gain shown with 80 % power, pp; in brackets the chance that the exact McNemar"
    )
    print(f"test shows +{100 * PLANNED:g} pp, %; by the share of issues on which two arms differ")
    print("| issues | 10 % | 20 % | 30 % |\n|---|---|---|---|")
    for problems in ONCE:
        texts = []
        for share in DISCORDANT:
            least, chance = detectable(problems, share), mcnemar_power(problems, share, PLANNED)
            texts.append(f"{'none' if math.isnan(least) else f'{100 * least:.1f}'} ({100 * chance:.0f})")
        print(f"| {problems} | {' | '.join(texts)} |", flush=True)


def saving_table() -> Iterator[tuple[Saving, ...]]:
    """Print and yield one line for each k: the share promoted, and issues asked of a fixed evaluation's."""
    print(f"\nsequential, {LOOKS} looks, planned gain +{100 * PLANNED:g} pp, beside a fixed evaluation of equal errors")
    print("promoted % (the fixed one's), issues asked of the fixed one's; the mean is over the four columns; the least")
    print("that any test with the fixed one's errors asks on average, A/A and +5 pp; last, a look after every issue")
    print("| samples | fixed asks | A/A | -5 pp | +5 pp | +13 pp | mean | least |\n|---|---|---|---|---|---|---|---|")
    for samples in SAMPLES:
        rows = savings(EFFECTS, PLANNED, samples, NIGHTS // 2, ALPHA, looks=LOOKS, seed=samples)
        _saving_row(str(samples), rows)
        yield rows
    _saving_row("4, each", savings(EFFECTS, PLANNED, 4, NIGHTS // 2, ALPHA, looks=EACH, seed=4))


def _saving_row(name: str, rows: Sequence[Saving]) -> None:
    texts = [f"{100 * row.promoted:.1f} ({100 * row.fixed_promoted:.1f}), {row.ratio:.2f}" for row in rows]
    power = next(row.promoted for row in rows if row.effect == PLANNED)
    nothing, planned = wald(alpha=ALPHA, power=power)
    texts += [f"{fmean(row.ratio for row in rows):.2f}", f"{nothing:.2f}, {planned:.2f}"]
    print(f"| {name} | {rows[0].fixed} | {' | '.join(texts)} |", flush=True)


def budget_table() -> None:
    """Print what a year of nights promotes under either rule."""
    print(f"\n{FLEETS} fleets, {YEAR} nights, one candidate in five better by 3.5 standard errors")
    print("| budget | useless among promoted | useful promotions a year |\n|---|---|---|")
    for rule in ("lord", "spending"):
        share, useful = false_share(YEAR, FLEETS, rule=rule, alpha=ALPHA, better=0.2, strength=3.5)
        print(f"| {rule} | {100 * share:.1f} % | {useful:.1f} of {0.2 * YEAR:.0f} |", flush=True)


def look_table() -> None:
    """Print what looks do without a budget, and what each may spend with one, in percent."""
    print(f"\na useless candidate is found good, % (alpha {ALPHA:g}), and what the look may spend, %")
    print(
        "| look | new candidates | one candidate again | lord, nothing promoted | spending | Pocock | O'Brien-Fleming |"
    )
    print("|---|---|---|---|---|---|---|")
    for look in LOOKED_AT:
        loose = [uncorrected(look, ALPHA), peeking(look, ALPHA)]
        spent = [
            lord(look, [], ALPHA),
            spend(look, ALPHA),
            _increment(look, "pocock"),
            _increment(look, "obrien-fleming"),
        ]
        texts = [f"{100 * chance:.1f}" for chance in loose] + [f"{100 * share:.2g}" for share in spent]
        print(f"| {look} | {' | '.join(texts)} |", flush=True)
    print(f"(Pocock's and O'Brien-Fleming's curves for {PLANNED_LOOKS} planned looks)")


def _increment(look: int, curve: Curve) -> float:
    before = spent_by((look - 1) / PLANNED_LOOKS, curve, ALPHA) if look > 1 else 0.0
    return spent_by(look / PLANNED_LOOKS, curve, ALPHA) - before


if __name__ == "__main__":
    main()
