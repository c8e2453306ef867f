"""The verbs around serving: `swaps`, and what an operator does by hand."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd import wiring
from fleetssd.cli.app import app, settings
from fleetssd.cli.reading import moment, print_json, report, short, show, table, tag
from fleetssd.operations import swap
from fleetssd.status import swap_table


@app.command()
def swaps(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List every flip, settlement, rollback and refusal: when, from what, to what, by whom, why.

    Examples: fleetssd swaps; fleetssd swaps --json | jq '.[-1]'
    """
    lines = report(context).swaps
    if as_json:
        print_json(lines)
    else:
        show(_log(lines) if lines else "No swap yet: the base serves.")


@app.command()
def rollback(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the swap log.")] = "by hand",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Put the checkpoint that served before in front of the fleet again.

    Examples: fleetssd rollback --reason "slower than yesterday"; fleetssd rollback --json
    """
    told = settings(context)
    with closing(wiring.open_store(told)) as store, closing(wiring.open_engine(told)) as engine:
        now = wiring.open_clock(told).now()
        line = swap.rollback(store, engine, told, actor="operator", reason=reason, now=now)
    if as_json:
        print_json(swap_table([line])[0])
    else:
        show(f"{told.engine.alias} serves {escape(line.to_model)} again ({line.to_digest[:12]}).")


def _log(lines: list[dict[str, Any]]) -> Table:
    made = table("swap log (UTC)", "id", "when", "what", "by", "from", "to", "night", "reason", numeric=("id", "night"))
    for line in lines:
        what = tag(line["kind"]) + ("" if line["done"] else " [red](unproven)[/]")
        night = str(line["night"] or "-")
        places = (short(line["from"]), short(line["to"]))
        made.add_row(str(line["id"]), moment(line["at"]), what, line["actor"], *places, night, escape(line["reason"]))
    return made
