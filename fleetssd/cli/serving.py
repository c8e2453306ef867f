"""The verbs around serving: `swaps`, and what an operator does by hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd.cli.app import app
from fleetssd.cli.reading import moment, print_json, report, short, show, table, tag


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


def _log(lines: list[dict[str, Any]]) -> Table:
    made = table("swap log (UTC)", "id", "when", "what", "by", "from", "to", "night", "reason", numeric=("id", "night"))
    for line in lines:
        what = tag(line["kind"]) + ("" if line["done"] else " [red](unproven)[/]")
        night = str(line["night"] or "-")
        places = (short(line["from"]), short(line["to"]))
        made.add_row(str(line["id"]), moment(line["at"]), what, line["actor"], *places, night, escape(line["reason"]))
    return made
