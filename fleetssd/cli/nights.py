"""The verbs `status` and `nights`: what serves now, and what every night did."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd import wiring
from fleetssd.adapters.rich_bar import bar
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.ledger import ledger_table
from fleetssd.cli.reading import moment, pairs, percent, points, print_json, report, short, show, table, tag
from fleetssd.errors import Rejected
from fleetssd.ledger import ledger
from fleetssd.night_markdown import guard_word
from fleetssd.operations.learn import Base
from fleetssd.operations.replay import replay
from fleetssd.status import Served, Status, night_table, to_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

nights_app = typer.Typer(rich_markup_mode="rich")
app.add_typer(nights_app, name="nights")
_ARMS = ("incumbent", "base", "tuned base", "candidate")


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Say what serves now, what waits for dawn, and how much there is to learn from.

    Examples: fleetssd status; fleetssd status --json | jq -r .served.digest
    """
    now = report(context).status
    if as_json:
        print_json(to_json(now))
    else:
        show(_summary(now))


@nights_app.callback(invoke_without_command=True)
def nights(context: typer.Context, as_json: Json = False) -> None:
    """List the nights, oldest first.

    Examples: fleetssd nights; fleetssd nights --json; fleetssd nights show 2
    """
    if context.invoked_subcommand is not None:
        return
    lines = report(context).nights
    if as_json:
        print_json(lines)
    else:
        show(_list(lines) if lines else "No night yet. `fleetssd night --now` starts one.")


@nights_app.command("show")
def show_night(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The night's number.")],
    as_json: Json = False,
) -> None:
    """Show one night: its stages, its numbers and why it was decided so.

    Examples: fleetssd nights show 2; fleetssd nights show 2 --json
    """
    store = wiring.open_store(settings(context))
    try:
        night = store.night(number)
    finally:
        store.close()
    if night is None:
        raise Rejected(f"there is no night {number}", hint="`fleetssd nights` lists them.")
    line, spent = night_table([night])[0], ledger(night)
    if as_json:
        print_json(line | {"ledger": spent})
    else:
        parts = ((_arms, "pass_1"), (_splits, "splits"), (_guards, "guards"), (_stages, "stages"))
        more = [made(line) for made, name in parts if line[name]]
        show(_head(line), *more, *([ledger_table(spent)] if spent else []))


@nights_app.command("replay")
def replay_night(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The night's number.")],
    as_json: Json = False,
) -> None:
    """Make a night's adapter again from the database, in a folder that goes with it, and compare digests.

    The samples are those on file. Exits 0 where all is the same byte for byte, 1 with the reason where it is not.
    Examples: fleetssd nights replay 2; fleetssd nights replay 2 --json
    """
    given = settings(context)
    store = wiring.open_store(given)
    try:
        with tempfile.TemporaryDirectory(dir=given.data_dir, prefix="replay-") as folder, bar(err) as shown:
            task = shown.add_task("replay", total=None)
            made = replay(
                number,
                store=store,
                trainer=wiring.open_trainer(given),
                builder=wiring.open_builder(given),
                base=Base.named(given),
                mix=given.recipe.mix,
                folder=Path(folder),
                progress=lambda done, total, what: shown.update(
                    task, completed=done, total=total or None, description=what
                ),
            )
    finally:
        store.close()
    if as_json:
        print_json(to_json(made) | {"same": made.same})
    else:
        out.print(f"night {number}: {tag('same' if made.same else 'differs')}: {escape(made.reason)}", highlight=False)
        if made.expected != made.found:
            out.print(f"{made.differs}: {made.found}, not {made.expected}", highlight=False)
    if not made.same:
        raise typer.Exit(1)


def _summary(now: Status) -> Table:
    grid = pairs()
    records = now.records
    rows = {
        "serving": _name(now.served) if now.served else "nothing known yet",
        "since": moment(to_json(now.served.since)) if now.served and now.served.since else "the beginning",
        "watch": now.watch.state + (f" until {moment(to_json(now.watch.until))}" if now.watch.until else ""),
        "rollback to": _name(now.previous) if now.previous else "-",
        "waits for dawn": _name(now.pending) if now.pending else "-",
        "last night": _last_night(now.last_night),
        "last swap": _last_swap(now.last_swap),
        "records": f"{records.train} train, {records.held_out} held out, {records.refused} refused",
        "refused for": ", ".join(f"{escape(reason)} {count}" for reason, count in records.reasons.items()) or "-",
        "forge seen up to": moment(to_json(now.cursor)),
        "next": f"night {moment(to_json(now.next.night))}, dawn {moment(to_json(now.next.dawn))} UTC",
    }
    if tried := now.canary:
        until = moment(to_json(tried.expires_at))
        rows["canary"] = f"{escape(tried.model)} ({tried.mode}, {tried.share:.1%} of tasks) until {until} UTC"
    if held := now.challenger:
        capital = f"e-value {held['e_value']:.3g} of {held['needed']:.3g} needed"
        rows["challenger"] = (
            f"{short(held['digest'])} of night {held['night']}: {capital} (nights asked: {held['nights']})"
        )
    if now.unproven:
        rows["unproven"] = f"[red]{now.unproven.kind} to {short(now.unproven.to_digest)} was begun and not proven[/]"
    for warning in now.warnings:
        rows["warning"] = f"[red]{escape(warning)}[/]"
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", value)
    return grid


def _name(served: Served) -> str:
    night = f", night {served.night}" if served.night else ""
    tau = f", τ = {served.tau:g}" if served.tau != 1.0 else ""
    return f"[bold]{short(served.digest)}[/] {escape(served.model)} ({served.kind}{night}{tau})"


def _last_night(line: dict[str, Any] | None) -> str:
    if line is None:
        return "-"
    return f"{line['number']} ({line['arm']}): {tag(line['verdict'] or line['state'])} {escape(line['reason'])}"


def _last_swap(line: dict[str, Any] | None) -> str:
    if line is None:
        return "-"
    return f"{moment(line['at'])} {tag(line['kind'])} to {short(line['to'])} by {line['actor']}"


def _list(lines: list[dict[str, Any]]) -> Table:
    numeric = ("night", "rows", *_ARMS, "gain")
    made = table("pass@1, percent", "night", "arm", "verdict", "rows", *_ARMS, "gain", numeric=numeric)
    for line in lines:
        scores = [percent(line["pass_1"].get(arm), bare=True) for arm in _ARMS]
        verdict, gain = tag(line["verdict"] or line["state"]), points(line["lift"]).removesuffix(" pp")
        made.add_row(str(line["number"]), line["arm"], verdict, str(line["records"]), *scores, gain)
    return made


def _head(line: dict[str, Any]) -> Table:
    grid = pairs()
    rows = {
        "night": f"[bold]{line['number']}[/] ({line['arm']})",
        "verdict": f"{tag(line['verdict'] or line['state'])} {escape(line['reason'])}",
        "artefact": line["artefact"] or "-",
        "records": f"{line['records']} trained on, {line['held_out']} held out",
        "round": f"{line['round']}; taught by {_rounds(line['rounds'])}",
        "gain over the incumbent": points(line["lift"]),
        "gain over the tuned base": points(line["over_tuned"]),
        "gain over the teacher decode": points(line["over_teacher"]),
        "started": f"{moment(line['started_at'])} UTC, finished {moment(line['finished_at'])}",
    }
    if told := line["challenger"]:
        said = f"{told['kind']}; {escape(told['reason'])}"
        rows["challenger"] = f"{told['artefact'][:12]} of night {told['origin']}: {said}"
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", value)
    for sentence in line["cautions"]:
        grid.add_row("[dim]caution[/]", escape(sentence))
    return grid


def _rounds(rounds: dict[str, int]) -> str:
    """Say whose work the records of a night hold."""
    named = {"0": "of the base", "unknown": "of nobody knows which checkpoint"}
    said = [f"{count} {named.get(number, f'of round {number}')}" for number, count in rounds.items()]
    return ", ".join(said) or "records whose origin nobody looked for"


def _arms(line: dict[str, Any]) -> Table:
    made = table("held-out issues, percent", "arm", "pass@1", f"pass@{line['k'] or 'k'}", numeric=("pass@1",))
    for arm in line["pass_1"]:
        made.add_row(arm, percent(line["pass_1"][arm]), percent(line["pass_k"].get(arm)))
    return made


def _splits(line: dict[str, Any]) -> Table:
    """Say slice by slice what retuning the base gives for free, and what is left over the base at its best."""
    named = {"gain over the base": "total", "decoding": "decoding", "skill": "skill", "teacher decode": "teacher"}
    made = table("where the gain comes from, pp", "slice", "issues", *named, numeric=("issues",))
    for part in line["splits"]:
        gains = (points(part[name]).removesuffix(" pp") for name in named.values())
        made.add_row(escape(part["slice"]), str(part["problems"]), *gains)
    return made


def _guards(line: dict[str, Any]) -> Table:
    """Say set by set what the candidate kept of what the base knows."""
    columns = ("set", "items", "base", "candidate", "change, pp", "")
    made = table("guard tasks, percent", *columns, numeric=("items", "base", "candidate"))
    for guard in line["guards"]:
        shares = (percent(guard[arm], bare=True) for arm in ("base", "candidate"))
        change = points(guard["change"]).removesuffix(" pp")
        made.add_row(escape(guard["name"]), str(guard["items"]), *shares, change, guard_word(guard))
    return made


def _stages(line: dict[str, Any]) -> Table:
    made = table("stages", "stage", "seconds", numeric=("seconds",))
    for stage in line["stages"]:
        made.add_row(stage["stage"], f"{stage['seconds']:.1f}")
    return made
