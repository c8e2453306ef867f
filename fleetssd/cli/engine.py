"""The verb `engine`: what the engine was seen to do, and which road a night would take."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.artefact import choose_road
from fleetssd.cli.app import app, settings
from fleetssd.cli.reading import pairs, print_json, show
from fleetssd.operations.capabilities import known

WORDS = {
    "pulls_from_loopback": "takes a manifest from us",
    "creates_adapters": "create takes adapters",
    "loads_adapters": "an adapter answered",
    "creates_files": "create takes GGUF files",
    "quantizes": "quantises at create",
    "logprobs": "gives logprobs",
    "renders": "renders without answering",
}


@app.command()
def engine(
    context: typer.Context,
    fresh: Annotated[bool, typer.Option("--fresh", help="Try again; this can cost the fleet a reload.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what the engine was seen to do, and by which road a checkpoint would get in.

    Examples: fleetssd engine; fleetssd engine --fresh --json
    """
    given = settings(context)
    with closing(wiring.open_store(given)) as store, closing(wiring.open_engine(given)) as served:
        found = known(store, served, given.engine, wiring.open_clock(given).now(), fresh=fresh)
    road = choose_road(given.engine.road, found)
    if as_json:
        print_json({"host": given.engine.url, **asdict(found), "road": road})
        return
    grid = pairs()
    grid.add_row("engine", escape(f"{given.engine.url}, version {found.version}"))
    for name, words in WORDS.items():
        grid.add_row(words, "[green]yes[/]" if getattr(found, name) else "[yellow]no[/]")
    grid.add_row("road", road)
    show(grid)
