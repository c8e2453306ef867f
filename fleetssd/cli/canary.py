"""The verbs `canary start | status | promote | abort`: a candidate before a share of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.checkpoints import Checkpoint
from fleetssd.cli.app import app, settings
from fleetssd.cli.calls import summary
from fleetssd.cli.reading import moment, pairs, print_json, short, show, table, tag
from fleetssd.config import Settings
from fleetssd.errors import Rejected
from fleetssd.operations import canary
from fleetssd.operations.traffic import as_evidence
from fleetssd.rollout import GoBack
from fleetssd.serving import pending
from fleetssd.status import swap_table, to_json
from fleetssd.trials import Trial, open_trial

if TYPE_CHECKING:
    from fleetssd.adapters.store import SqlStore

canary_app = typer.Typer(
    help="Try a candidate on a share of the fleet's tasks (needs the gateway).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(canary_app, name="canary")
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the log.")]


@canary_app.command()
def start(
    context: typer.Context,
    candidate: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Name or digest; without it what waits for dawn.")
    ] = "",
    share: Annotated[float | None, typer.Option(min=0.001, max=1.0, help="Share of tasks, such as 0.1.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="How long it may run.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Ask it as well, and return nothing of it.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Though it was aborted a short while ago.")] = False,
    crowded: Annotated[bool, typer.Option("--crowded", help="Though engine memory holds one model at a time.")] = False,
    as_json: Json = False,
) -> None:
    """Put a candidate before a share of tasks; a task stays with it. It goes back by itself if it does worse.

    While it runs, and after it was aborted, dawn leaves it alone. Nothing but `promote` puts it before everybody.
    Examples: fleetssd canary start; fleetssd canary start fleet-coder:v20261121-3f9a1c --share 0.05 --minutes 120;
    fleetssd canary start --shadow
    """
    with _open(context) as (told, store), closing(wiring.open_engine(told)) as engine:
        now = wiring.open_clock(told).now()
        begun = canary.start(
            store,
            engine,
            told,
            _named(store, candidate),
            now,
            mode="shadow" if shadow else "split",
            share=share,
            minutes=minutes,
            again=again,
            crowded=crowded,
        )
    if as_json:
        print_json(to_json(begun))
        return
    tried, until = begun.canary, moment(begun.canary.expires_at.isoformat())
    how = "is asked as well for" if shadow else "answers"
    show(f"Canary {begun.id}: {escape(tried.model)} {how} {tried.share:.1%} of tasks until {until} UTC.")


@canary_app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the canary that runs, or the last one: both sides' calls, metric by metric, and what speaks against it.

    Examples: fleetssd canary status; fleetssd canary status --json | jq .verdict
    """
    with _open(context) as (told, store):
        trials = store.trials()
        standing = canary.look(store, told, wiring.open_clock(told).now(), trials[-1]) if trials else None
    if as_json:
        print_json(_json(standing) if standing else None)
    elif standing is None:
        show("No canary yet. `fleetssd canary start MODEL` starts one.")
    else:
        show(_head(standing), _metrics(standing))


@canary_app.command()
def promote(context: typer.Context, reason: Reason = "promoted from its canary", as_json: Json = False) -> None:
    """Put the running candidate before everybody: a flip, proven, with the canary's numbers as its evidence.

    Examples: fleetssd canary promote --reason "two hours, nothing worse"
    """
    with _open(context) as (told, store), closing(wiring.open_engine(told)) as engine:
        ended, line = canary.promote(store, engine, told, wiring.open_clock(told).now(), reason)
    if as_json:
        print_json({"canary": to_json(ended), "swap": swap_table([line])[0]})
    else:
        show(f"{told.engine.alias} serves {escape(line.to_model)} ({line.to_digest[:12]}).")


@canary_app.command()
def abort(context: typer.Context, reason: Reason = "by hand", as_json: Json = False) -> None:
    """End the running canary: every task is the incumbent's again as soon as the gateway looks, within a second.

    Examples: fleetssd canary abort --reason "agents complain"
    """
    with _open(context) as (told, store), closing(wiring.open_engine(told)) as engine:
        ended = canary.abort(store, engine, told, wiring.open_clock(told).now(), reason)
    if as_json:
        print_json(to_json(ended))
    else:
        show(
            f"Canary {ended.id} ended: {escape(ended.canary.model)} gets no new task. "
            "`fleetssd canary status` says when it got its last call."
        )


@contextmanager
def _open(context: typer.Context) -> Iterator[tuple[Settings, SqlStore]]:
    told = settings(context)
    with closing(wiring.open_store(told)) as store:
        yield told, store


def _named(store: SqlStore, text: str) -> Checkpoint:
    """Return the checkpoint of this name or digest, or what waits for dawn. Raises Rejected."""
    points = store.checkpoints()
    if not text:
        waits = pending(store.nights(), store.swaps(), points)
        if waits is None:
            raise Rejected(
                "no promoted checkpoint waits for dawn", hint="Name one by its digest: `fleetssd nights show N`."
            )
        return waits
    found = [point for point in points if point.model == text or point.digest.startswith(text)]
    if len(found) != 1:
        raise Rejected(
            f"{len(found) or 'no'} checkpoints are called {text!r}",
            hint="Give a model's whole name, or more of its digest: `fleetssd nights show N`.",
        )
    return found[0]


def _head(standing: canary.Standing) -> Any:
    trial, tried, grid = standing.trial, standing.trial.canary, pairs()
    speaks = isinstance(standing.verdict, GoBack)
    rows = {
        "canary": f"{trial.id}: {_state(trial)}",
        "candidate": f"[bold]{short(tried.digest)}[/] {escape(tried.model)} ({tried.mode}, {tried.share:.1%} of tasks)",
        "beside": short(trial.incumbent),
        "from, until": f"{moment(tried.started_at.isoformat())}, {moment(tried.expires_at.isoformat())} UTC",
        "the watch says": f"[red]{escape(standing.verdict.reason)}[/]" if speaks else escape(standing.verdict.reason),
    }
    if standing.lag is not None:
        rows["last call after its end"] = f"{standing.lag:.2f} s" if standing.lag else "none"
    for name, value in rows.items():
        grid.add_row(f"[dim]{name}[/]", value)
    return grid


def _state(trial: Trial) -> str:
    if not trial.outcome:
        return "[green]runs[/]"
    return f"{tag(trial.outcome)} {moment(to_json(trial.ended_at))} by {trial.ended_by}: {escape(trial.reason)}"


def _metrics(standing: canary.Standing) -> Any:
    sides = f"{standing.candidate.calls} calls against {standing.incumbent.calls}"
    made = table(f"candidate against incumbent: {sides}", "what", "worse than it may be?")
    for each in standing.compared:
        said = "[red]yes[/]" if each.fires else "too little is known" if each.open else "[green]not shown[/]"
        made.add_row(escape(each.sentence), said)
    return made


def _json(standing: canary.Standing) -> dict[str, Any]:
    sides = {"candidate": summary(standing.candidate), "incumbent": summary(standing.incumbent)}
    metrics = as_evidence(standing.candidate, standing.incumbent, standing.compared)["metrics"]
    verdict = {"go_back": isinstance(standing.verdict, GoBack), "reason": standing.verdict.reason}
    runs = open_trial([standing.trial]) is not None
    trial = to_json(standing.trial)
    return {**trial, "runs": runs, **sides, "metrics": metrics, "verdict": verdict, "lag_seconds": standing.lag}
