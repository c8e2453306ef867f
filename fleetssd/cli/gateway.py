"""The verbs `gateway key add`, `list` and `remove`: who may ask the gateway."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.cli.app import app, err, out, settings
from fleetssd.cli.reading import print_json, show, table
from fleetssd.errors import Misconfigured, Rejected
from fleetssd.keys import SECRET_BYTES, Key, mint

if TYPE_CHECKING:
    from fleetssd.adapters.key_file import KeyFile

gateway_app = typer.Typer(help="The gateway in front of the engine.", no_args_is_help=True, rich_markup_mode="rich")
key_app = typer.Typer(help="The API keys of its callers.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(gateway_app, name="gateway")
gateway_app.add_typer(key_app, name="key")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@key_app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The agent that the key names, in telemetry and limits.")],
    as_json: Json = False,
) -> None:
    """Make a key for an agent and print it, this once; a running gateway takes it within a second.

    The caller sends it as `Authorization: Bearer KEY` (OPENAI_API_KEY, OLLAMA_API_KEY) or as `x-api-key`. An agent may
    have several, so that a new one is there before the old one goes.

    Examples: fleetssd gateway key add agent-7; fleetssd gateway key add agent-7 --json | jq -r .key
    """
    file, now = _file(context), wiring.open_clock(settings(context)).now()
    key, text = mint(name, secrets.token_bytes(SECRET_BYTES), now)
    file.change(lambda keys: keys.update({key.id: key}))
    if as_json:
        print_json({**_row(key), "key": text})
        return
    out.print(text, highlight=False, markup=False, soft_wrap=True)
    err.print(f"[dim]This is the only time that the key of {escape(key.agent)} is shown.[/]", highlight=False)


@key_app.command(name="list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List the keys: their ids, agents and dates, never the keys themselves.

    Example: fleetssd gateway key list --json
    """
    rows = [_row(key) for key in _file(context).read().values()]
    if as_json:
        print_json(rows)
        return
    made = table("API keys of the gateway", "id", "agent", "made at")
    for row in rows:
        made.add_row(row["id"], escape(row["agent"]), row["created_at"])
    show(made if rows else "No key yet, so nobody may ask: `fleetssd gateway key add NAME`.")


@key_app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="An agent, whose keys all go, or the id of one key.")],
    as_json: Json = False,
) -> None:
    """Take keys away; a running gateway refuses them within a second.

    Examples: fleetssd gateway key remove agent-7; fleetssd gateway key remove 0f3a91bc
    """
    gone: list[Key] = []

    def edit(keys: dict[str, Key]) -> None:
        gone.extend(key for key in keys.values() if name in (key.id, key.agent))
        for key in gone:
            del keys[key.id]

    _file(context).change(edit)
    if not gone:
        raise Rejected(f"no key has the id {name!r}, and no agent that name", hint="`fleetssd gateway key list`")
    if as_json:
        print_json([_row(key) for key in gone])
    else:
        show("\n".join(f"removed {key.id} of {escape(key.agent)}" for key in gone))


def _file(context: typer.Context) -> KeyFile:
    file = wiring.open_keys(settings(context))
    if file is None:
        raise Misconfigured(
            "the gateway asks nobody for a key", hint='Set keys_file = "gateway-keys" in [gateway] and restart it.'
        )
    return file


def _row(key: Key) -> dict[str, str]:
    return {"id": key.id, "agent": key.agent, "created_at": key.created_at.isoformat()}
