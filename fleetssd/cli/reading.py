"""What the reading verbs share: the report, and how a cell, a number and a table look."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table

from fleetssd import wiring
from fleetssd.cli.app import out, settings
from fleetssd.operations.report import read_report
from fleetssd.status import Report

COLOURS = {
    "promote": "green", "flip": "green", "promoted": "green", "settle": "green", "ok": "green", "executed": "green",
    "same": "green",
    "reference": "yellow",
    "keep": "yellow", "running": "yellow", "refused": "yellow",
    "reject": "red", "invalid": "red", "failed": "red", "rollback": "red", "aborted": "red", "differs": "red",
}  # fmt: skip


def report(context: typer.Context) -> Report:
    """Read how things stand now. Raises Misconfigured where the settings or the database do not hold."""
    given = settings(context)
    store = wiring.open_store(given)
    try:
        return read_report(given, store, wiring.open_clock(given).now(), store.canary())
    finally:
        store.close()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def table(title: str, *columns: str, numeric: tuple[str, ...] = ()) -> Table:
    """Return an empty table; numeric columns are flush right, long words fold."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    made.pad_edge, made.collapse_padding = False, True
    for column in columns:
        made.add_column(
            column, justify="right" if column in numeric else "left", no_wrap=column in numeric, overflow="fold"
        )
    return made


def pairs(title: str = "") -> Table:
    """Return an empty grid of names and values; long values fold."""
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_style, grid.title_justify = title or None, "bold", "left"
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def tag(word: str) -> str:
    """Return a word in its colour."""
    colour = COLOURS.get(word, "default")
    return f"[{colour}]{word}[/]"


def short(digest: str | None) -> str:
    """Return the first twelve digits of a digest."""
    return digest[:12] if digest else "-"


def moment(text: str | None) -> str:
    """Return an ISO moment to the minute."""
    return text[:16].replace("T", " ") if text else "-"


def percent(interval: dict[str, float] | None, *, bare: bool = False) -> str:
    """Return a share in percent, with its interval where it is not to be bare."""
    if not interval:
        return "-"
    if bare:
        return f"{100 * interval['point']:.1f}"
    return f"{100 * interval['point']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def points(interval: dict[str, float] | None) -> str:
    """Return a difference with its interval in percentage points."""
    if not interval:
        return "-"
    return f"{100 * interval['point']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}] pp"


def show(*blocks: object) -> None:
    """Print blocks with a blank line between them."""
    for number, block in enumerate(blocks):
        if number:
            out.print()
        out.print(block, highlight=False)
