"""The verb `config check`: everything that this machine can tell about the settings before the first night."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fleetssd import wiring
from fleetssd.cautions import cautions, served_at
from fleetssd.cli.app import app, config_path, err, out, settings
from fleetssd.cli.reading import print_json
from fleetssd.config import Settings
from fleetssd.errors import FleetError, Misconfigured
from fleetssd.facts import leaves_machine, warning

config_app = typer.Typer(help="The settings file.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(config_app, name="config")
FREE_GB = 5.0
"""A night of a 4B model keeps a merged GGUF of this size beside the base's."""


@config_app.callback()
def _config() -> None:
    """Look at the settings file."""


@config_app.command()
def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Read the settings and look at what they name; exits 78 where something is wrong. Nothing is contacted.

    Example: fleetssd --config /etc/fleetssd/config.toml config check
    """
    given = settings(context)
    results = [(name, _try(look)) for name, look in _checks(given)]
    if as_json:
        print_json([{"check": name, "ok": not error, "error": error and error.message} for name, error in results])
    else:
        out.print(f"[dim]settings[/] {escape(str(config_path(context)))}", highlight=False)
        for name, error in results:
            _line(name, error)
    for sentence in _later(given):
        err.print(f"[dim]later:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    served = served_at(given.decode.manage, given.decode.temperature, given.decode.tau_grid)
    for sentence in cautions(given.recipe.arm, given.recipe.prompts, given.recipe.t_train, served):
        err.print(f"[dim]caution:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    if given.mirror.enabled and leaves_machine(given.mirror.url):
        err.print(f"[yellow]warning:[/] {escape(warning(given.mirror.url))}", highlight=False, soft_wrap=True)
    if any(error for _, error in results):
        raise typer.Exit(Misconfigured.exit_code)


def _checks(given: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "data_dir can be written", lambda: _writable(given.data_dir)
    yield f"data_dir has {FREE_GB:g} GB free", lambda: _free(given.data_dir)
    yield "database opens", lambda: wiring.open_store(given).close()
    yield "forge.token_file holds a token", lambda: _secret(given.forge.token_file, "forge.token_file")
    hook = given.forge.webhook_secret_file
    if hook is not None:
        yield "forge.webhook_secret_file holds a secret", lambda: _secret(hook, "forge.webhook_secret_file")
    key_file = given.mirror.key_file
    if given.mirror.enabled and key_file is not None:
        yield "mirror.key_file holds a key", lambda: _secret(key_file, "mirror.key_file")
    for key, path in (("base.weights", given.base.weights), ("base.gguf", given.base.gguf)):
        if path is not None:
            yield f"{key} is there", lambda key=key, path=path: _exists(path, key)  # type: ignore[misc]
    if given.guards.files:
        yield "guards.files are guard sets", lambda: _done(wiring.open_guards(given))
    if given.guards.lm_eval_tasks:
        yield "guards.lm_eval_command is installed", lambda: _done(wiring.open_harness(given))
    yield "git is installed", lambda: _program("git", "apt-get install git")
    yield f"model-written code runs in {given.evaluation.sandbox}", lambda: _opens(given)


def _later(given: Settings) -> Iterator[str]:
    """Yield what the first night will ask for, where it would be by default and is not: polling does without it."""
    from fleetssd.operations.learn import Base  # noqa: PLC0415

    base = Base.named(given)
    for key, named, path in (("weights", given.base.weights, base.weights), ("gguf", given.base.gguf, base.gguf)):
        if named is None and not path.exists():
            yield f"a night needs the base at {path}, or where base.{key} says"


def _opens(given: Settings) -> None:
    with wiring.lent_sandbox(given):
        pass


def _done(_: object) -> None:
    """Drop what was opened only to see that it opens."""


def _try(look: Callable[[], None]) -> FleetError | None:
    try:
        look()
    except FleetError as error:
        return error
    return None


def _line(name: str, error: FleetError | None) -> None:
    if error is None:
        out.print(f"[green]ok[/]    {name}", highlight=False)
        return
    out.print(f"[red]wrong[/] {name}: {escape(error.message)}", highlight=False, soft_wrap=True)
    out.print(f"      [yellow]hint:[/] {escape(error.hint)}", highlight=False, soft_wrap=True)


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Misconfigured(f"cannot make {folder}: {error.strerror}", hint="Set data_dir to another folder.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Misconfigured(f"{folder} is not ours to write", hint=f"chown it to {os.getuid()}, or set data_dir.")


def _free(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    if free < FREE_GB:
        raise Misconfigured(f"{free:.1f} GB are free on the disk of {folder}", hint="Free some, or move data_dir.")


def _secret(path: Path, key: str) -> None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise Misconfigured(f"no file at {path}", hint=f"Create it, readable by us alone, or set {key}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"cannot read {path}: {type(error).__name__}", hint="Look at its owner and mode.") from None
    if not text:
        raise Misconfigured(f"{path} is empty", hint="Put the secret into it, on one line.")
    if path.stat().st_mode & 0o007:
        raise Misconfigured(f"everyone on this machine can use {path}", hint=f"chmod o-rwx {path}")


def _exists(path: Path, key: str) -> None:
    if not path.exists():
        raise Misconfigured(f"nothing at {path}", hint=f"Put the base there, or set {key}.")


def _program(name: str, remedy: str) -> None:
    if shutil.which(name) is None:
        raise Misconfigured(f"{name} is not on PATH", hint=f"As root: {remedy}")
