"""The verb `publish`: read a night from the store and leave its report as JSON, Markdown and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

from fleetssd import files
from fleetssd.checkpoints import Night
from fleetssd.config import Prices
from fleetssd.errors import Rejected
from fleetssd.night_markdown import markdown
from fleetssd.night_report import Answered, NightReport, compose
from fleetssd.operations.evaluate import BASE, CANDIDATE, INCUMBENT, PROBED, tuning
from fleetssd.operations.outlook import BEFORE
from fleetssd.ports import Store
from fleetssd.recipe import NightPlan

Page: TypeAlias = Callable[[NightReport], str]
"""Renders a report as a page of its own."""


def read_night(store: Store, number: int, prices: Prices = Prices()) -> NightReport:  # noqa: B008  frozen
    """Return the report of a night at these prices. Raises Rejected where there is none of that number."""
    night = store.night(number)
    if night is None:
        raise Rejected(f"there is no night {number}", hint="`fleetssd nights` lists them.")
    return compose(night, store.nights(), _answered(store, night), prices)


def publish(report: NightReport, folder: Path, page: Page | None) -> tuple[Path, ...]:
    """Write a report's files into a folder and return them, the page last; without `page` there is none.

    Each file is whole or absent. The numbers are written before anything is drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        files.write(folder / "report.json", json.dumps(asdict(report), ensure_ascii=False, indent=2) + "\n"),
        files.write(folder / "report.md", markdown(report)),
    ]
    if page is not None:
        written.append(files.write(folder / "report.html", page(report)))
    return tuple(written)


def _answered(store: Store, night: Night) -> Answered:
    """Read the answers by the part that they played; a night that was never judged has none."""
    if night.verdict is None:
        return Answered()
    plan, number = NightPlan.from_json(night.plan), night.number
    base, candidate = store.answers(number, BASE), store.answers(number, CANDIDATE)
    tuned = {plan.decode.temperature: BEFORE} | {temperature: tuning(temperature) for temperature in plan.tau_grid}
    return Answered(
        base=base,
        incumbent=base if plan.incumbent == plan.base else store.answers(number, INCUMBENT),
        candidate=candidate,
        probed=candidate if night.verdict.evidence.get("tau", 1.0) == 1.0 else store.answers(number, PROBED),
        tune={t: [row for row in store.answers(number, arm) if not row.fault] for t, arm in tuned.items()},
        names={record.id: f"{record.repository} {record.pull}" for record in store.records_by_id(plan.held_out)},
    )
