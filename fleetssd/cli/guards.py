"""The verb `guards`: what base and candidate are asked beside the fleet's own work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.cli.app import app, settings
from fleetssd.cli.reading import print_json, show, table
from fleetssd.config import Settings

if TYPE_CHECKING:
    from fleetssd.guards import Item  # numpy, which most verbs need none of

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def guards(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[SET]", help="List the items of this set.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Read this file of items; needs no settings.", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the guard tasks: a candidate that forgets them is not promoted, however many issues it solves.

    A set of your own is a file of JSON Lines, named in guards.files; each item proves its own check.
    Examples: fleetssd guards; fleetssd guards shell; fleetssd guards --check house.jsonl
    """
    if check is not None:
        found: Mapping[str, Sequence[Item]] = {check.stem: wiring.read_guard_file(check)}
        given = None
    else:
        given = settings(context)
        found = wiring.open_guards(given)
    if name is not None and name not in found:
        raise typer.BadParameter(f"no set {name}; there are {', '.join(found) or 'none'}", param_hint="SET")
    shown = found if name is None else {name: found[name]}
    if as_json:
        print_json({key: [item.model_dump(mode="json") for item in items] for key, items in shown.items()})
    elif name is None:
        _list(shown, given)
    else:
        _items(name, shown[name])


def _list(sets: Mapping[str, Sequence[Item]], given: Settings | None) -> None:
    made = table("guard tasks", "set", "items", "kinds of checks", numeric=("items",))
    for name, items in sets.items():
        kinds = Counter(item.check.kind for item in items).most_common()
        made.add_row(escape(name), str(len(items)), ", ".join(f"{kind} {count}" for kind, count in kinds))
    blocks: list[object] = [made]
    if given is not None:
        asked = 2 * given.guards.samples * sum(map(len, sets.values()))
        tasks = ", ".join(given.guards.lm_eval_tasks) or "none"
        margin = f"margin {100 * given.gate.guard_margin:g} pp a set"
        blocks.append(f"a night asks {asked} answers of base and candidate; {margin}; lm_eval tasks: {escape(tasks)}")
    show(*blocks)


def _items(name: str, items: Sequence[Item]) -> None:
    made = table(f"guard set {name}", "id", "prompt", "check", "a good answer")
    for item in items:
        made.add_row(escape(item.id), escape(item.prompt), item.check.kind, escape(item.good))
    show(made)
