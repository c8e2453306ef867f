"""The verbs `status` and `nights`: what serves now, and what every night did."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd.cli.app import app
from fleetssd.cli.reading import moment, pairs, percent, points, print_json, report, short, show, table, tag
from fleetssd.errors import Rejected
from fleetssd.status import Served, Status, to_json

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
    lines = [line for line in report(context).nights if line["number"] == number]
    if not lines:
        raise Rejected(f"there is no night {number}", hint="`fleetssd nights` lists them.")
    if as_json:
        print_json(lines[0])
    else:
        show(_head(lines[0]), _arms(lines[0]), _stages(lines[0]))


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
    if now.unproven:
        rows["unproven"] = f"[red]{now.unproven.kind} to {short(now.unproven.to_digest)} was begun and not proven[/]"
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
        "gain over the incumbent": points(line["lift"]),
        "gain over the tuned base": points(line["over_tuned"]),
        "started": f"{moment(line['started_at'])} UTC, finished {moment(line['finished_at'])}",
    }
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", value)
    return grid


def _arms(line: dict[str, Any]) -> Table:
    made = table("held-out issues, percent", "arm", "pass@1", f"pass@{line['k'] or 'k'}", numeric=("pass@1",))
    for arm in line["pass_1"]:
        made.add_row(arm, percent(line["pass_1"][arm]), percent(line["pass_k"].get(arm)))
    return made


def _stages(line: dict[str, Any]) -> Table:
    made = table("stages", "stage", "seconds", numeric=("seconds",))
    for stage in line["stages"]:
        made.add_row(stage["stage"], f"{stage['seconds']:.1f}")
    return made
