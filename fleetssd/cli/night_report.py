"""The verb `nights report`: one night as a page, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fleetssd import wiring
from fleetssd.cli.app import out, settings
from fleetssd.cli.nights import Json, nights_app
from fleetssd.cli.reading import print_json
from fleetssd.operations.publish import publish, read_night


@nights_app.command("report")
def report_night(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The night's number.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; else the night's own folder.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one night's report: report.html, report.md and report.json; with --json only print the numbers.

    A night writes its own when it is decided. Written again it has the prices that the settings name now.

    Examples: fleetssd nights report 2; fleetssd nights report 2 --out /tmp/n2; fleetssd nights report 2 --json
    """
    given = settings(context)
    store = wiring.open_store(given)
    try:
        told = read_night(store, number, given.prices)
    finally:
        store.close()
    if as_json:
        print_json(asdict(told))
        return
    for path in publish(told, folder or given.data_dir / "nights" / f"{number:04d}", wiring.night_page):
        out.print(str(path), highlight=False, markup=False, soft_wrap=True)
