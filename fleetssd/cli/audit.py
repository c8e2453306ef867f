"""The verb `audit`: where sampling settings live, which take effect, and what would be better."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd import wiring
from fleetssd.adapters.rich_bar import bar
from fleetssd.audit import Audit, Finding, callers
from fleetssd.audit.advice import Advice, Comparison, advise
from fleetssd.audit.filing import body
from fleetssd.audit.findings import ORDER, Effective, headline
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.reading import percent, points, print_json, show, table
from fleetssd.config import Settings
from fleetssd.errors import Misconfigured
from fleetssd.operations.admission import Verifier
from fleetssd.operations.audit import Filing, file_issue, take_stock
from fleetssd.operations.compare import MIN_ISSUES, compare

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
    ab: Annotated[bool, typer.Option("--ab", help="Ask solved issues at several temperatures, and advise.")] = False,
    issues: Annotated[int, typer.Option("--issues", min=MIN_ISSUES, help="With --ab: issues to ask.")] = MIN_ISSUES,
    samples: Annotated[int, typer.Option("--samples", min=1, help="With --ab: answers an issue and T.")] = 4,
    repository: Annotated[
        str | None, typer.Option("--file-issue", metavar="OWNER/REPO", help="File it as an issue, one for ever.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="A label of the issue; repeat it for more.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="A token with write:issue; default: forge.token_file.", dir_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Find every sampling setting and say whether it takes effect, and by whom. No setting is changed.

    Works without a settings file; with one it knows the fleet's ports and who manages its decode. Without folders,
    decode.audit_folders are scanned. Examples: fleetssd audit ~/.hermes; fleetssd audit /srv/fleet --ollama
    http://127.0.0.1:11434; fleetssd audit ~/.hermes --ab --issues 40;
    fleetssd audit ~/.hermes --file-issue fleet/ops --label audit --token-file /root/issue-token
    """
    if repository is None and (label or token_file):
        raise Misconfigured("--label and --token-file are of no use alone", hint="Name --file-issue OWNER/REPO too.")
    if ollama is not None and not ollama.startswith(("http://", "https://")):
        raise Misconfigured(f"{ollama!r} is no server's address", hint="Write it as http://127.0.0.1:11434.")
    given = settings(context) if context.obj is not None or ab or repository else None
    found = _look(folders, ollama, given, needed=not ab)
    compared = _compare(given, issues, samples) if ab and given else None
    looked = bool(folders or (given and given.decode.audit_folders))
    advice = _advise(found, compared, looked=looked) if compared else None
    filed = _file(given, repository, label or [], token_file, body(found, advice)) if repository and given else None
    if as_json:
        extra: dict[str, Any] = {"issue": asdict(filed)} if filed else {}
        if compared and advice:
            extra["ab"] = compared.to_json() | {"advice": asdict(advice)}
        print_json(found.to_json() | extra)
        return
    _show(found)
    if compared and advice:
        show("", _arms(compared), _advised(compared, advice))
    if filed:
        out.print(f"[green]{filed.did}[/] issue {escape(filed.repository)}#{filed.number}", highlight=False)


def _file(given: Settings, repository: str, labels: list[str], token_file: Path | None, text: str) -> Filing:
    with wiring.open_issues(given, token_file) as forge:
        return file_issue(forge, repository, labels, text)


def _compare(given: Settings, issues: int, samples: int) -> Comparison:
    with ExitStack() as stack:
        store, engine = wiring.open_store(given), wiring.open_engine(given)
        stack.callback(store.close)
        stack.callback(engine.close)
        sandbox = wiring.open_sandbox(given)
        stack.callback(sandbox.close)
        shown = stack.enter_context(bar(err))
        task = shown.add_task("", total=None)

        def progress(done: int, total: int, what: str) -> None:
            shown.update(task, completed=done, total=total, description=what)

        grounds, clock = wiring.open_grounds(given), wiring.open_clock(given)
        Verifier(given, store, grounds, lambda: nullcontext(sandbox), clock.now, progress).verify()
        return compare(given, store, engine, sandbox, grounds, progress, issues=issues, samples=samples)


def _advise(found: Audit, compared: Comparison, *, looked: bool) -> Advice:
    known = len(callers(found.findings)) if looked else None
    return advise(compared.lines, callers=known, through_gateway=found.through_gateway)


def _look(folders: list[Path] | None, ollama: str | None, given: Settings | None, *, needed: bool) -> Audit:
    chosen = folders or (list(given.decode.audit_folders) if given else [])
    if not chosen and ollama is None and needed:
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


def _arms(compared: Comparison) -> Table:
    made = table(
        "temperatures, percent of answers that pass", "T", "pass@1", "against the current", "p", numeric=("T",)
    )
    for line in compared.lines:
        delta = points(asdict(line.delta)) if line.delta else "[dim]current[/]"
        p = f"{line.p:.3g}" if line.p is not None else ""
        made.add_row(f"{line.temperature:g}", percent(asdict(line.score)), delta, p)
    return made


def _advised(compared: Comparison, advice: Advice) -> str:
    words = {
        "leave": "Leave it as it is",
        "gateway": f'Let the gateway set T = {advice.temperature:g} (decode.manage = "gateway")',
        "bake": f'Bake T = {advice.temperature:g} (decode.manage = "bake")',
    }
    told = f"{compared.issues} issues, {compared.samples} answers each; intervals hold for all comparisons together."
    if compared.judged:
        told += f" {compared.judged} of the issues also judge nights: asking them often wears them."
    return f"[bold]{escape(words[advice.manage])}:[/] {escape(advice.reason)}.\n[dim]{told}[/]"
