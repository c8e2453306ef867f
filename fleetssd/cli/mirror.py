"""The verb `mirror`: how far the memory server was told of what was merged."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.reading import print_json, show, table
from fleetssd.facts import leaves_machine, warning


@app.command()
def mirror(
    context: typer.Context,
    retry: Annotated[
        bool, typer.Option("--retry", help="Tell the refused ones again, for example after a fix.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show how far the memory server of mirror.url was told of the merged records, and what it refused.

    Examples: fleetssd mirror; fleetssd mirror --retry
    """
    given = settings(context)
    store = wiring.open_store(given)
    try:
        again = store.retry_facts(wiring.open_clock(given).now()) if retry else 0
        counts, refused = store.fact_counts(), store.facts("refused")
    finally:
        store.close()
    if as_json:
        errors = {entry.record: entry.error for entry in refused}
        print_json({"enabled": given.mirror.enabled, "states": counts, "again": again, "refused": errors})
        return
    if given.mirror.enabled and leaves_machine(given.mirror.url):
        err.print(f"[yellow]warning:[/] {escape(warning(given.mirror.url))}", highlight=False, soft_wrap=True)
    told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "nothing noted yet"
    out.print(f"mirror {'on' if given.mirror.enabled else 'off'}: {told}", highlight=False)
    if refused:
        made = table("Refused by the server", "record", "error")
        for entry in refused:
            made.add_row(entry.record[:12], escape(entry.error))
        show(made)
