"""The verbs `poll` and `records`: look at the forge once, and say what became of every pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleetssd import wiring
from fleetssd.cli.app import app, err, settings
from fleetssd.cli.reading import moment, print_json, show, table
from fleetssd.errors import Misconfigured
from fleetssd.operations.ingest import PollSummary, poll_once
from fleetssd.origins import Origin
from fleetssd.reasons import explained
from fleetssd.records import Record, State

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
STATES: dict[State, str] = {"train": "green", "held_out": "cyan", "refused": "yellow"}


@app.command()
def poll(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave (the daemon polls by itself).")] = False,
    as_json: Json = False,
) -> None:
    """Read what was merged since the last poll and file it.

    Examples: fleetssd poll --once; fleetssd poll --once --json
    """
    if not once:
        raise Misconfigured("polling again and again is the daemon's work", hint="Use --once, or `fleetssd run`.")
    given = settings(context)
    with ExitStack() as stack:
        store, forge, mirror = wiring.open_store(given), wiring.open_forge(given), wiring.open_mirror(given)
        stack.callback(store.close)
        stack.callback(forge.close)
        secrets, now = wiring.open_secrets(given), wiring.open_clock(given).now()
        with _bar(err) as bar:
            task = bar.add_task("pull requests", total=None)
            summary = poll_once(
                given,
                forge,
                mirror,
                store,
                secrets,
                now,
                lambda done, total, _: bar.update(task, completed=done, total=total),
                wiring.open_sketch(),
            )
    print_json(summary.as_dict()) if as_json else typer.echo(_sentence(summary))


@app.command()
def records(
    context: typer.Context,
    as_json: Json = False,
    refused: Annotated[bool, typer.Option("--refused", help="Only the refused, grouped by reason.")] = False,
) -> None:
    """List what every pull request became: a record to train on, one held out, or a refusal with its reasons.

    Examples: fleetssd records --json | jq '.[].state'; fleetssd records --refused
    """
    given = settings(context)
    store = wiring.open_store(given)
    try:
        found, origins = store.records("refused" if refused else None), store.origins()
        taught = store.used_records()
    finally:
        store.close()
    if as_json:
        print_json([to_json(record, origins.get(record.id), taught.get(record.id)) for record in found])
    elif refused:
        show(_by_reason(found) if found else "Nothing was refused.")
    else:
        show(_listed(found, origins) if found else "No record yet. `fleetssd poll --once` reads what was merged.")


def to_json(record: Record, origin: Origin | None, night: int | None) -> dict[str, Any]:
    """Return a record's provenance and the first night that it taught; its texts stay in the database."""
    return {
        "repository": record.repository,
        "pull": record.pull,
        "state": record.state,
        "reasons": list(record.reasons),
        "author": record.author,
        "merger": record.merger,
        "base_commit": record.base_commit,
        "head_commit": record.head_commit,
        "merge_commit": record.merge_commit,
        "issues": list(record.issues),
        "confidences": list(record.confidences),
        "diff_sha256": record.diff_sha256,
        "changed_paths": list(record.changed_paths),
        "merged_at": record.merged_at.isoformat(),
        "title": record.title,
        "round": origin.round if origin else None,
        "round_by": origin.basis if origin else "",
        "checkpoints": list(origin.checkpoints) if origin else [],
        "first_night": night,
    }


def _bar(console: Console) -> Progress:
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*parts, console=console, transient=True, disable=not console.is_terminal)


def _sentence(summary: PollSummary) -> str:
    text = (
        f"{summary.rows} pull requests in the window, {summary.read} read: "
        f"{summary.train} to train on, {summary.held_out} held out, {summary.refused} refused."
    )
    if summary.failed:
        text += f" {summary.failed} could not be read; the next poll asks again."
    if summary.without_git:
        text += f" {summary.without_git} diffs came from the API: git over HTTP gave none."
    return "\n".join([text, *summary.gaps])


def _listed(found: list[Record], origins: Mapping[str, Origin]) -> Any:
    counts = Counter(record.state for record in found)
    title = "Records: " + ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in STATES)
    made = table(title, "merged", "pull request", "state", "author", "merger", "issues", "round", "reasons")
    for record in found:
        made.add_row(
            moment(record.merged_at.isoformat()),
            escape(f"{record.repository}#{record.pull}"),
            f"[{STATES[record.state]}]{record.state}[/]",
            escape(record.author),
            escape(record.merger or "-"),
            escape(_answered(record) or "-"),
            _round(origins.get(record.id)),
            " ".join(record.reasons),
        )
    return made


def _round(origin: Origin | None) -> str:
    """Return whose work a record holds: 0 is the base's, a question mark nobody knows."""
    if origin is None:
        return "-"
    return "?" if origin.round is None else str(origin.round)


def _answered(record: Record) -> str:
    """Name the issues; one that was only declared to be closed says so."""
    sure = dict(zip(record.issues, record.confidences, strict=False))  # records of older versions have none
    return " ".join(f"{issue} (declared)" if sure.get(issue) == "declared" else issue for issue in record.issues)


def _by_reason(found: list[Record]) -> Any:
    made = table("Refused, by reason", "reason", "count", "what it means", "pull requests", numeric=("count",))
    counts = Counter(reason for record in found for reason in record.reasons)
    for reason, count in counts.most_common():
        which = [f"{record.repository}#{record.pull}" for record in found if reason in record.reasons]
        made.add_row(
            reason, str(count), explained(reason), escape(" ".join(which[:10]) + (" ..." if len(which) > 10 else ""))
        )
    return made
