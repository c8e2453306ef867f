"""The command line: global options, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fleetssd.config import Settings, load
from fleetssd.errors import FleetError, Misconfigured

app = typer.Typer(
    name="fleetssd",
    help="Nightly self-distillation for a fleet of coding agents: merged pull requests in, a proven checkpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console()
err = Console(stderr=True)


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="FLEETSSD_CONFIG", help="Settings file (TOML).", dir_okay=False),
    ] = None,
) -> None:
    """Remember where the settings are; each verb reads them when it needs them."""
    context.obj = config


def settings(context: typer.Context) -> Settings:
    """Read the settings file named by --config or FLEETSSD_CONFIG.

    Raises Misconfigured where none is named or it does not hold.
    """
    return load(config_path(context))


def config_path(context: typer.Context) -> Path:
    """Return the settings file's path. Raises Misconfigured where none is named."""
    path: Path | None = context.obj
    if path is None:
        raise Misconfigured(
            "no settings file is named",
            hint="Give --config FILE or set FLEETSSD_CONFIG; config.example.toml is a start.",
        )
    return path


def main(argv: list[str] | None = None) -> None:
    """Run the command line; every FleetError, and every file that is not to be had, ends here as a sentence."""
    _register_verbs()
    from fleetssd.wiring import configure_talking  # noqa: PLC0415

    configure_talking()
    try:
        code = app(args=argv, standalone_mode=False)
    except FleetError as error:
        complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise  # no file of the operator's: ours to mend
        complain(f"{error.filename}: {error.strerror}", "Is there room, and may this account read and write it?")
        sys.exit(Misconfigured.exit_code)
    except Exception as usage:
        if hasattr(usage, "show") and hasattr(usage, "exit_code"):  # click's own usage errors
            usage.show()
            sys.exit(usage.exit_code)
        raise
    # Outside its standalone mode click returns the code of `typer.Exit` instead of leaving.
    if isinstance(code, int) and code:
        sys.exit(code)


def _register_verbs() -> None:
    """Import every verb: each registers itself, and importing them here keeps `app` free of a cycle."""
    from fleetssd.cli import (  # noqa: PLC0415
        audit,  # noqa: F401
        calls,  # noqa: F401
        canary,  # noqa: F401
        config,  # noqa: F401
        demo,  # noqa: F401
        engine,  # noqa: F401
        gateway,  # noqa: F401
        guards,  # noqa: F401
        ingest,  # noqa: F401
        mirror,  # noqa: F401
        night_report,  # noqa: F401
        nights,  # noqa: F401
        processes,  # noqa: F401
        reproduce,  # noqa: F401
        serving,  # noqa: F401
        sides,  # noqa: F401
        webhook,  # noqa: F401
    )


def complain(message: str, hint: str) -> None:
    """Print an error as a sentence and, where there is one, a hint."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    if hint:
        err.print(f"[yellow]hint:[/] {escape(hint)}", highlight=False, soft_wrap=True)
