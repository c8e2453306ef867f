"""The verbs `run` and `night`: start the processes that do the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.adapters.rich_bar import bar
from fleetssd.cli.app import app, complain, config_path, err, out, settings
from fleetssd.config import Settings
from fleetssd.schedule import next_times, night_due


@app.command()
def run(context: typer.Context) -> None:
    """Run the daemon in the foreground: poll, webhook, nights, dawn, watch, status page.

    Example: fleetssd --config /etc/fleetssd/config.toml run
    """
    settings(context)  # a wrong key is said here, as a sentence, before the daemon takes over
    path = str(config_path(context).resolve())
    os.execv(sys.executable, [sys.executable, "-P", "-m", "services.daemon", "--config", path])  # noqa: S606  our own module


@app.command()
def night(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the hour of schedule.night.")] = False,
) -> None:
    """Run a night by hand, or continue the one that was interrupted; what is served stays as it is.

    Without --now it runs only where one is due. Exits 0 when there is a verdict, 75 to try again, 78 misconfigured.
    Examples: fleetssd night --now; fleetssd night
    """
    given = settings(context)
    if not now and not _due(given):
        upcoming = next_times(wiring.open_clock(given).now(), given.schedule).night
        out.print(f"No night is due; the next one is at {upcoming:%Y-%m-%d %H:%M} UTC. --now does not wait.")
        return
    command = [sys.executable, "-P", "-m", "services.night", "--config", str(config_path(context).resolve())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=wiring.night_environment()
    ) as process:
        try:
            _follow(process)
        except KeyboardInterrupt:
            process.terminate()  # the open stage stays open; the next start continues it
    raise typer.Exit(process.returncode)


def _due(given: Settings) -> bool:
    store = wiring.open_store(given)
    try:
        nights = store.nights()
    finally:
        store.close()
    if any(each.state == "running" for each in nights):
        return True
    last = nights[-1].started_at if nights else None
    return night_due(wiring.open_clock(given).now(), given.schedule, last) is not None


def _follow(process: subprocess.Popen[str]) -> None:
    """Show the night's progress lines as a bar, its verdict as a sentence, and why it stopped as an error."""
    assert process.stdout is not None  # noqa: S101  it was asked for
    with bar(err) as shown:
        task = shown.add_task("night", total=None)
        for line in process.stdout:
            event = _parsed(line)
            if event["event"] == "progress":
                shown.update(task, completed=event["done"], total=event["total"] or None, description=event["what"])
            elif event["event"] == "verdict":
                said = f"night {event['night']}: [bold]{event['verdict']}[/] {escape(event['reason'])}"
                out.print(said, highlight=False)
            elif event["event"] == "night_stopped":
                complain(event["error"], event["hint"])
            elif event.get("level") not in ("debug", "info"):
                err.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def _parsed(line: str) -> dict[str, Any]:
    """Read one line of the night's log; what is no event of ours, a library's own words, stands for itself."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) and "event" in event else {"event": "words"}
