"""The verbs `webhook install`, `list` and `remove`: the forge's side of the webhook, by its API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from fleetssd import hooks, wiring
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.reading import print_json, show, table
from fleetssd.config import Settings
from fleetssd.errors import FleetError, Misconfigured
from fleetssd.hooks import Hook, Place
from fleetssd.operations import webhooks
from fleetssd.operations.webhooks import Outcome
from fleetssd.ports import Hooks

webhook_app = typer.Typer(help="The forge's webhook.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(webhook_app, name="webhook")

DELIVERED, MISSING, REFUSED = "delivered", "missing", "refused"
PAUSE = 0.1
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="The daemon's /webhook as the forge sees it; default: web.host and web.port."),
]
Org = Annotated[list[str] | None, typer.Option("--org", help="An organisation instead of its repositories.")]
Repository = Annotated[
    list[str] | None,
    typer.Option("--repository", help="owner/name; repeat it for more. Default: the watched ones."),
]
Token = Annotated[
    Path | None,
    typer.Option("--token-file", help="A token with write:repository; default: forge.token_file.", dir_okay=False),
]


@dataclass(frozen=True, slots=True)
class Site:
    """What every verb here works on: the forge's hooks at some places, and the address that ours call."""

    settings: Settings
    forge: Hooks
    places: list[Place]
    address: str


@contextmanager
def _site(
    context: typer.Context, url: str | None, org: list[str] | None, repository: list[str] | None, token: Path | None
) -> Iterator[Site]:
    given = settings(context)
    address = hooks.address(url or _own(given))
    with wiring.open_hooks(given, token) as forge:
        yield Site(given, forge, _places(forge, given, org, repository), address)


@webhook_app.command()
def install(
    context: typer.Context,
    url: Url = None,
    org: Org = None,
    repository: Repository = None,
    token_file: Token = None,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Ask for a test delivery and wait for it.")] = True,
    wait: Annotated[float, typer.Option("--wait", help="Seconds to wait for a test delivery.", min=0.1)] = 10.0,
    as_json: Json = False,
) -> None:
    """Make the webhook, or mend the one that is there; then let the forge deliver a test to the running daemon.

    Examples: fleetssd webhook install --url https://fleetssd.lan/webhook --token-file /root/admin-token;
    fleetssd webhook install --org fleet --no-test
    """
    secret = wiring.read_webhook_secret(settings(context))
    with _site(context, url, org, repository, token_file) as site:
        up = test and wiring.deliveries_seen(site.settings) is not None
        watch = partial(_watch, site.settings, wait) if up else None
        found = webhooks.install(site.forge, site.places, site.address, secret, watch)
    if test and not up:
        err.print("[yellow]not tested:[/] the daemon is not up; start it and do this again.", highlight=False)
    _show(found, site.address, as_json=as_json)


@webhook_app.command(name="list")
def list_hooks(
    context: typer.Context,
    url: Url = None,
    org: Org = None,
    repository: Repository = None,
    token_file: Token = None,
    as_json: Json = False,
) -> None:
    """List the hooks of the watched repositories; ours are those that call the address.

    Example: fleetssd webhook list --url https://fleetssd.lan/webhook --json
    """
    with _site(context, url, org, repository, token_file) as site:
        found = webhooks.listed(site.forge, site.places)
    rows = [row for place, told in found for row in _rows(place, told, site.address)]
    if as_json:
        print_json(rows)
        return
    made = table(f"Webhooks that call {site.address}, and others", "place", "id", "ours", "active", "events", "calls")
    for row in rows:
        cells = (row["place"], row["id"], row["ours"], row["active"], " ".join(row["events"]), row["calls"])
        made.add_row(*(escape(_cell(cell)) for cell in cells))
    show(made)


@webhook_app.command()
def remove(
    context: typer.Context,
    url: Url = None,
    org: Org = None,
    repository: Repository = None,
    token_file: Token = None,
    as_json: Json = False,
) -> None:
    """Take down the hooks that call the address; hooks that call others stay.

    Example: fleetssd webhook remove --url https://fleetssd.lan/webhook --token-file /root/admin-token
    """
    with _site(context, url, org, repository, token_file) as site:
        found = webhooks.remove(site.forge, site.places, site.address)
    _show(found, site.address, as_json=as_json)


def _own(given: Settings) -> str:
    if not given.web.port:
        raise Misconfigured("web.port is 0, so the daemon's address is not known", hint="Give --url.")
    host = f"[{given.web.host}]" if ":" in given.web.host else given.web.host
    return f"http://{host}:{given.web.port}/webhook"


def _places(forge: Hooks, given: Settings, org: list[str] | None, repository: list[str] | None) -> list[Place]:
    named = [Place(name, organization=True) for name in org or ()] + [Place(name) for name in repository or ()]
    found = named or webhooks.places(forge, given.fleet)
    if not found:
        raise Misconfigured("the token sees no watched repository", hint="Name one with --repository, or see fleet.")
    return found


def _watch(given: Settings, seconds: float, send: Callable[[], None]) -> str:
    """Send a test delivery, and wait until the daemon has counted it; tell whether it was believed."""
    before = wiring.deliveries_seen(given) or {}
    send()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = wiring.deliveries_seen(given) or before
        if now["signed"] > before["signed"]:
            return DELIVERED
        if now["refused"] > before["refused"]:
            return REFUSED
        time.sleep(PAUSE)
    return MISSING


def _show(found: list[Outcome], url: str, *, as_json: bool) -> None:
    """Print what became of every place; exits 1 where a hook is not as it should be or its test did not come."""
    if as_json:
        print_json([_outcome(each) for each in found])
    for each in () if as_json else found:
        mark, told = ("red", each.error.message) if each.error else ("green", _told(each))
        out.print(f"[{mark}]{each.did}[/] {escape(each.place.name)}{escape(told and f': {told}')}", highlight=False)
    hints = [each.error.hint for each in found if each.error and each.error.hint]
    tests = {each.test for each in found}
    if MISSING in tests:
        hints.append(hooks.not_delivered(url))
    if REFUSED in tests:
        hints.append("The daemon refused the delivery: restart it, so that it reads the secret that the hook now has.")
    for hint in dict.fromkeys(hints):
        err.print(f"[yellow]hint:[/] {escape(hint)}", highlight=False, soft_wrap=True)
    if any(each.error for each in found) or tests & {MISSING, REFUSED}:
        raise typer.Exit(1)


def _told(each: Outcome) -> str:
    return f"test delivery: {each.test}" if each.test else ""


def _outcome(each: Outcome) -> dict[str, Any]:
    return {
        "place": each.place.name,
        "did": each.did,
        "id": each.hook and each.hook.id,
        "test": each.test,
        "error": each.error and each.error.message,
    }


def _rows(place: Place, told: list[Hook] | FleetError, url: str) -> Iterator[dict[str, Any]]:
    if isinstance(told, FleetError):
        yield {"place": place.name, "id": None, "ours": None, "active": None, "events": [], "calls": told.message}
        return
    for hook in told:
        yield {
            "place": place.name,
            "id": hook.id,
            "ours": hook.url == url,
            "active": hook.active,
            "events": list(hook.events),
            "calls": hook.url,
        }


def _cell(value: Any) -> str:
    return "-" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
