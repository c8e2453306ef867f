"""The verbs `buffer` and `heldout`: what teaches tonight, and what examines and never teaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.adapters.rich_bar import bar
from fleetssd.admission import REASONS, Admission
from fleetssd.buffer import leaving, window
from fleetssd.cli.app import app, err, settings
from fleetssd.cli.reading import moment, pairs, print_json, show, table, tag
from fleetssd.config import Settings
from fleetssd.operations.admission import Verifier
from fleetssd.operations.heldout import HeldOut, held_out, hold_out
from fleetssd.ports import Store
from fleetssd.records import Record
from fleetssd.status import to_json

heldout_app = typer.Typer(
    help="The held-out issues: they examine candidates and never teach.", no_args_is_help=True, rich_markup_mode="rich"
)
app.add_typer(heldout_app, name="heldout")

SHOWN = 20
WAITS = "the next poll has to compare it with the held-out issues first"
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def buffer(context: typer.Context, as_json: Json = False) -> None:
    """Say which records teach tonight, which are left out, and why; what is left out stays on file.

    Examples: fleetssd buffer; fleetssd buffer --json | jq '.out[] | .why'
    """
    with _open(context) as (given, store):
        records = store.records("train")
        waiting = {record.id for record in store.unsettled(len(records))} if records else set()
    size, share = given.buffer.size, given.buffer.per_repository
    settled = [record for record in records if record.id not in waiting]
    inside, outside = window(settled, size, share), leaving(settled, size, share) | dict.fromkeys(waiting, WAITS)
    out = [record for record in records if record.id in outside]
    if as_json:
        told = {"in": [_line(record) for record in inside], "size": size, "per_repository": share}
        print_json(told | {"out": [{**_line(record), "why": outside[record.id]} for record in out]})
        return
    blocks = [_inside(inside, size)]
    if out:
        blocks.append(_outside(out, outside))
    show(*blocks)


@heldout_app.command("show")
def show_held_out(context: typer.Context, as_json: Json = False) -> None:
    """Say how many issues examine, from where, how often they were consulted, and whether tonight's window leaks.

    Examples: fleetssd heldout show; fleetssd heldout show --json | jq .overlap
    """
    with _open(context) as (given, store):
        found = held_out(store, given)
    if as_json:
        print_json(to_json(found))
    else:
        show(_held_out(found), *([_refused(found)] if found.refused else []))


@heldout_app.command()
def verify(
    context: typer.Context,
    again: Annotated[bool, typer.Option("--again", help="Verify what is settled already, too.")] = False,
    as_json: Json = False,
) -> None:
    """Prove of each held-out issue that its tests fail before the merged change and pass after it, every time.

    A night does so by itself before it is planned; what was proven stands until its checks change. Interrupt it at any
    time: it goes on where it stood.
    Examples: fleetssd heldout verify; fleetssd heldout verify --again --json | jq '.[] | select(.kind == "refused")'
    """
    with _open(context) as (given, store), bar(err) as shown:
        task = shown.add_task("held-out problems verified", total=None)

        def progress(done: int, total: int, what: str) -> None:
            shown.update(task, completed=done, total=total, description=what)

        clock = wiring.open_clock(given)
        verifier = Verifier(
            given, store, wiring.open_grounds(given), lambda: wiring.lent_sandbox(given), clock.now, progress
        )
        found = verifier.verify(again=again)
        names = {r.id: f"{r.repository}#{r.pull}" for r in store.records_by_id([one.record for one in found])}
    if as_json:
        print_json([to_json(one) | {"pull": names[one.record]} for one in found])
    elif found:
        show(_verified(found, names))
    else:
        typer.echo("Nothing to verify: every held-out record is settled as it is checked now.")


@heldout_app.command()
def freeze(context: typer.Context, as_json: Json = False) -> None:
    """Close the held-out set: no later record joins it, and what answers its issues still never teaches.

    Examples: fleetssd heldout freeze
    """
    with _open(context) as (given, store):
        count = store.freeze_held_out(wiring.open_clock(given).now())
        since = store.held_out_frozen()
    if as_json:
        print_json(to_json({"records": count, "frozen_at": since}))
    else:
        typer.echo(f"{count} records examine from now on, and no other.")


@heldout_app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME#N", help="An issue or a pull request.")],
    as_json: Json = False,
) -> None:
    """Hold an issue out for ever; its records leave the window, and nothing that answers it teaches again.

    Examples: fleetssd heldout add fleet/app#12
    """
    with _open(context) as (given, store):
        moved = hold_out(store, given, wiring.open_sketch(), name, wiring.open_clock(given).now())
    if as_json:
        print_json([{**_line(record), "state": record.state, "reasons": list(record.reasons)} for record in moved])
        return
    counts = Counter(record.state.replace("_", " ") for record in moved)
    said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no pull request answers it yet"
    typer.echo(f"{name} never teaches: {said}.")


@contextmanager
def _open(context: typer.Context) -> Iterator[tuple[Settings, Store]]:
    given = settings(context)
    store = wiring.open_store(given)
    try:
        yield given, store
    finally:
        store.close()


def _line(record: Record) -> dict[str, Any]:
    return {"repository": record.repository, "pull": record.pull, "merged_at": record.merged_at.isoformat()}


def _inside(inside: tuple[Record, ...], size: int) -> Any:
    made = table(f"In the window: {len(inside)} of at most {size}", "repository", "records", "oldest", "newest")
    for repository, count in Counter(record.repository for record in inside).most_common():
        times = sorted(record.merged_at.isoformat() for record in inside if record.repository == repository)
        made.add_row(escape(repository), str(count), moment(times[0]), moment(times[-1]))
    return made


def _outside(out: list[Record], why: dict[str, str]) -> Any:
    rest = f", the newest {SHOWN} of them" if len(out) > SHOWN else ""
    made = table(f"Left out, and kept on file: {len(out)}{rest}", "merged", "pull request", "why")
    for record in out[:SHOWN]:
        name = escape(f"{record.repository}#{record.pull}")
        made.add_row(moment(record.merged_at.isoformat()), name, escape(why[record.id]))
    return made


def _held_out(found: HeldOut) -> Any:
    grid = pairs()
    rows = {
        "held out": f"{found.records} records, {found.executed} verified to judge by their tests",
        "weaker evidence": f"{found.references} without tests, compared with the merged change; no gate reads them",
        "not verified yet": f"{found.waiting}: the next night, or `fleetssd heldout verify`, looks at them",
        "by repository": _counts(found.by_repository),
        "by slice": _counts(found.by_slice),
        "consulted": f"by {found.consulted} verdict{'' if found.consulted == 1 else 's'}",
        "frozen": f"since {moment(found.frozen_at.isoformat())}" if found.frozen_at else "no: new issues may join",
        "overlap": ", ".join(f"{leak.held_out} with {leak.train}" for leak in found.overlap) or "none with the window",
    }
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", escape(value))
    return grid


def _refused(found: HeldOut) -> Any:
    rest = f", the first {SHOWN} of them" if len(found.refused) > SHOWN else ""
    made = table(f"Refused: {len(found.refused)}{rest}", "pull request", "code", "why")
    for refusal in found.refused[:SHOWN]:
        made.add_row(escape(refusal.name), refusal.code, escape(_why(refusal.code, refusal.detail)))
    return made


def _verified(found: list[Admission], names: dict[str, str]) -> Any:
    made = table(f"Verified: {len(found)}", "pull request", "kind", "code", "seconds", "why", numeric=("seconds",))
    for one in found:
        why = escape(_why(one.code, one.detail))
        made.add_row(escape(names[one.record]), tag(one.kind), one.code, f"{one.seconds:.2f}", why)
    return made


def _why(code: str, detail: str) -> str:
    """Return the sentence of a code, and the first line of what was seen."""
    return f"{REASONS.get(code, '')} {detail.strip().partition(chr(10))[0]}".strip()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
