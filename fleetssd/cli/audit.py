"""The verb `audit`: where sampling settings live, which take effect, and what would be better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd import wiring
from fleetssd.audit import Audit, Finding
from fleetssd.audit.findings import ORDER, Effective, headline
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.reading import print_json, show, table
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.operations.audit import take_stock

COLOURS: dict[Effective, str] = {"yes": "green", "masked": "yellow", "inert": "red", "unknown": "dim"}
MEANING: dict[Effective, str] = {
    "yes": "takes effect",
    "masked": "would, but is outranked",
    "inert": "nobody obeys it",
    "unknown": "nobody is known to",
}


@app.command()
def audit(
    context: typer.Context,
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER...", help="Folders or files to scan.")] = None,
    ollama: Annotated[str | None, typer.Option("--ollama", metavar="URL", help="Also ask this Ollama server.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Find every sampling setting and say whether it takes effect, and by whom. Nothing is changed.

    Works without a settings file; with one it knows the fleet's ports and who manages its decode. Without folders,
    decode.audit_folders are scanned. Examples: fleetssd audit ~/.hermes; fleetssd audit /srv/fleet --ollama
    http://127.0.0.1:11434
    """
    given = settings(context) if context.obj is not None else None
    found = _look(folders, ollama, given)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _look(folders: list[Path] | None, ollama: str | None, given: Settings | None) -> Audit:
    chosen = folders or (list(given.decode.audit_folders) if given else [])
    if not chosen and ollama is None:
        raise Misconfigured("there is nothing to audit", hint="Name a folder, --ollama URL, or decode.audit_folders.")
    readings = [wiring.read_folders(chosen)] if chosen else []
    if ollama is not None:
        readings.append(wiring.read_parameters(ollama))
    return take_stock(readings, given)


def _show(found: Audit) -> None:
    counts = {word: sum(f.effective == word for f in found.findings) for word in ORDER}
    legend = ", ".join(f"[{COLOURS[word]}]{counts[word]} {word}[/] ({MEANING[word]})" for word in ORDER if counts[word])
    lines = [f"[bold]{escape(headline(found.findings))}[/]", *([legend] if legend else [])]
    out.print("\n".join(lines), highlight=False)
    if found.findings:
        show(_listed(found.findings))
    for each in found.skipped:
        err.print(f"[yellow]not read:[/] {escape(each.file)}: {escape(each.reason)}", highlight=False, soft_wrap=True)


def _listed(findings: Sequence[Finding]) -> Table:
    made = table("sampling settings", "effective", "key", "value", "where", "layer", "by whom", numeric=("value",))
    for f in findings:
        colour = COLOURS[f.effective]
        where = f"{escape(f.file)}:{f.line}" + (f"\n[dim]{escape(f.setting)}[/]" if f.setting != f.key else "")
        made.add_row(f"[{colour}]{f.effective}[/]", f.key, escape(f.value), where, f.layer, escape(f.by))
    return made
