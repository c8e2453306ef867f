"""The verb `calls`: who answered what, and what served at a moment."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fleetssd import wiring
from fleetssd.calls import Call
from fleetssd.cli.app import app, settings
from fleetssd.cli.reading import moment, pairs, print_json, short, show, table
from fleetssd.config import Settings
from fleetssd.operations.traffic import Answered, answered_at, by_checkpoint
from fleetssd.ports import Desk
from fleetssd.status import to_json
from fleetssd.telemetry import Filter, failed, read_moment
from fleetssd.windows import Tally, quantile

SINCE = "When: 03:12, 2026-11-22 03:12, or an age: 90m, 2h, 3d (UTC)."


@app.command()
def calls(
    context: typer.Context,
    request: Annotated[str, typer.Option(help="X-Fleetssd-Request of a call, or its start.")] = "",
    agent: Annotated[str, typer.Option(help="Who asked.")] = "",
    task: Annotated[str, typer.Option(help="The task's key, such as fleet/app#12.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Start of an artefact's digest, or a model's name.")] = "",
    at: Annotated[str, typer.Option(metavar="TIME", help="What served then, and the calls under way.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help=SINCE)] = "",
    errors: Annotated[bool, typer.Option("--errors", help="Only calls that went wrong.")] = False,
    by: Annotated[bool, typer.Option("--by-checkpoint", help="Count what each checkpoint answered.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Newest calls shown.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say who answered which call. The gateway leaves one row a call, without prompts unless telemetry.texts is set.

    Examples: fleetssd calls --request 4f1c; fleetssd calls --at 03:12; fleetssd calls --task fleet/app#12 --json;
    fleetssd calls --errors --since 2h --agent bot-1; fleetssd calls --by-checkpoint --since 7d
    """
    told = settings(context)
    with closing(wiring.open_store(told)) as store:
        now = wiring.open_clock(told).now()
        begin = read_moment(since, now) if since else None
        if by:
            _by_checkpoint(store, told, begin, now, as_json=as_json)
            return
        wanted = Filter(request, agent, task, checkpoint, since=begin, errors=errors)
        if at:
            _at(answered_at(store, replace(wanted, at=read_moment(at, now)), limit), as_json=as_json)
            return
        found, gaps = store.calls(wanted, limit), store.gaps(begin)
    if as_json:
        print_json({"calls": [_line(call) for call in found], "gaps": to_json(gaps)})
        return
    missing = sum(gap.calls for gap in gaps)
    said = [f"{missing} calls in this time are not on file: the database was away."] if missing else []
    if not found:
        show("No such call on file. The gateway writes them: is it before the fleet?", *said)
    elif request:
        show(*[_whole(call) for call in found])
    else:
        show(_table(found, f"calls (UTC), the newest {len(found)}"), *said)


def _at(found: Answered, *, as_json: bool) -> None:
    if as_json:
        served, canary = found.served, found.canary
        print_json({
            "at": found.at.isoformat(),
            "served": served and {"digest": served.digest, "model": served.model, "kind": served.kind},
            "since": to_json(found.move.at) if found.move else None,
            "canary": canary and to_json(canary.canary),
            "calls": [_line(call) for call in found.calls],
            "near": [_line(call) for call in found.near],
            "gaps": to_json(found.gaps),
        })  # fmt: skip
        return
    grid = pairs()
    name = f"[bold]{short(found.served.digest)}[/] {escape(found.served.model)}" if found.served else "nothing known"
    move = found.move
    since = f"swap {move.id}, {moment(to_json(move.at))}, by {move.actor}" if move else "the beginning"
    grid.add_row("[dim]at[/]", f"{found.at:%Y-%m-%d %H:%M:%S} UTC")
    grid.add_row("[dim]the fleet's name led to[/]", name)
    grid.add_row("[dim]since[/]", since)
    if found.canary:
        tried = found.canary.canary
        grid.add_row("[dim]canary[/]", f"{escape(tried.model)} ({tried.mode}, {tried.share:.0%} of tasks)")
    grid.add_row("[dim]not on file[/]", f"{sum(gap.calls for gap in found.gaps)} calls around then")
    blocks: list[object] = [grid]
    if found.calls:
        blocks.append(_table(found.calls, "under way then"))
    else:
        blocks.append(
            _table(found.near, "none was under way; the ones around it") if found.near else "No call near it."
        )
    show(*blocks)


def _table(found: list[Call], title: str) -> Table:
    columns = ("when", "request", "agent", "task", "checkpoint", "tokens", "seconds", "how it ended")
    made = table(title, *columns, numeric=("tokens", "seconds"))
    for call in found:
        tokens = f"{_known(call.prompt_tokens)}+{_known(call.answer_tokens)}"
        who = (escape(call.agent or "-"), escape(call.task if call.task_source != "none" else "-"))
        seconds = f"{call.total_ns / 1e9:.2f}"
        made.add_row(f"{call.at:%m-%d %H:%M:%S}", call.id[:8], *who, _checkpoint(call), tokens, seconds, _end(call))
    return made


def _checkpoint(call: Call) -> str:
    return short(call.checkpoint) if call.checkpoint else escape(call.model)


def _end(call: Call) -> str:
    beside = " (shadow)" if call.shadow else f" (for {call.of[:12]})" if call.of else ""
    if failed(call.status, call.fault):
        return f"[red]{call.fault or 'error'} {call.status or ''}[/]".replace(" [/]", "[/]") + beside
    return escape(call.finish or "-") + (" empty" if call.empty else "") + beside


def _whole(call: Call) -> Table:
    grid = pairs()
    for name, value in _line(call).items():
        if value not in (None, ""):
            grid.add_row(f"[dim]{name}[/]", escape(str(value)))
    return grid


def _line(call: Call) -> dict[str, Any]:
    line: dict[str, Any] = to_json({**asdict(call), "request": None, "reply": None})
    for name, text in (("request", call.request), ("reply", call.reply)):
        line[name] = None if text is None else text.decode("utf-8", "replace")
    return line


def _known(count: int | None) -> str:
    return "?" if count is None else str(count)


def _by_checkpoint(store: Desk, told: Settings, since: datetime | None, now: datetime, *, as_json: bool) -> None:
    begin = since or now - timedelta(days=7)
    found = by_checkpoint(store, told, begin, now)
    names = {point.digest: point.model for point in store.checkpoints()}
    if as_json:
        print_json(
            [{"checkpoint": digest, "model": names.get(digest), **summary(one)} for digest, one in found.items()]
        )
        return
    if not found:
        show(f"No call since {begin:%Y-%m-%d %H:%M} UTC. The gateway writes them: is it before the fleet?")
        return
    numeric = ("calls", "failed", "empty", "cut", "p50", "p95", "merged")
    made = table(f"since {begin:%Y-%m-%d %H:%M} UTC", "checkpoint", "model", *numeric, numeric=numeric)
    for digest, one in found.items():
        shares = (_percent(count, of) for count, of in ((one.errors, one.calls), (one.empty, one.answers)))
        cut, merged = _percent(one.capped, one.answers), f"{one.merged} of {one.tasks}" if one.tasks else "too few"
        times = (f"{value:.2f} s" if value is not None else "-" for value in _times(one))
        made.add_row(short(digest), escape(names.get(digest, "?")), str(one.calls), *shares, cut, *times, merged)
    hours = told.canary.merge_hours
    show(made, f"Merged: of tasks that callers named (X-Fleetssd-Task: owner/name#12), begun over {hours:g} hours ago.")


def summary(one: Tally) -> dict[str, Any]:
    """Return a window's numbers as JSON knows them."""
    p50, p95 = _times(one)
    names = ("calls", "errors", "empty", "capped", "tasks", "merged")
    return {name: getattr(one, name) for name in names} | {"p50_seconds": p50, "p95_seconds": p95}


def _times(one: Tally) -> tuple[float | None, float | None]:
    times = sorted(one.seconds)
    p50, p95 = (quantile(times, share, 0.0).point if times else None for share in (0.5, 0.95))
    return p50, p95


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "-"
