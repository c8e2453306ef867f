"""Pages that open from a file: one HTML document with style and drawings inside, and nothing that is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from fleetssd.adapters.pages import drawings
from fleetssd.night_markdown import (
    amount,
    between,
    cost_lines,
    flattered_line,
    guard_word,
    level,
    moment,
    test_lines,
    tonight,
)
from fleetssd.night_report import NightReport


def night_page(report: NightReport) -> str:
    """Return a night's page."""
    told = asdict(report)
    plots = {
        "by_temperature": drawings.by_temperature(report.by_temperature),
        "by_night": drawings.by_night(report.by_night),
        "issues": drawings.issue_gains(report.issues),
        "lengths": drawings.spread(report.lengths, "characters in an answer"),
        "repetition": drawings.spread(report.repetition, "share of 4-grams that repeat in an answer"),
        "losses": drawings.losses(report.losses),
        "pareto": drawings.pareto(report.pareto),
    }
    told["flattered"] = flattered_line(report.flattered, len(report.by_temperature))
    lines = {"cost": cost_lines(report.cost), "tests": test_lines(report.tests) if report.verdict else []}
    return render("night.html", Path(__file__).parent, night=told, plots=plots, lines=lines)


def render(template: str, folder: Path, **values: Any) -> str:
    """Return a template of that folder, which extends `page.html`, filled in; whatever it shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["between"] = _between
    for shown in (amount, guard_word, level, moment, tonight):
        environment.filters[shown.__name__] = shown
    return environment.get_template(template).render(**values)


def _between(interval: Mapping[str, float] | None, signed: bool = False) -> str:
    ends, bracket, middle = between(interval, signed=signed).partition(" (")
    # A cell may break before the middle, and nowhere else.
    return ends.replace(" ", "\N{NO-BREAK SPACE}") + bracket + middle.replace(" ", "\N{NO-BREAK SPACE}")
