"""The verb `demo`: watch three nights on this machine, with real parts."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fleetssd.cli.app import app, out


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fleet's work and of every night.")] = 0,
) -> None:
    """Play three nights: promoted and rolled back, promoted and settled, rejected.

    Starts a forge, an engine and the daemon on loopback, lets agents work, and checks its own claims; exits 1 if one
    does not hold. Example: fleetssd demo --dir demo --seed 1
    """
    # The demo's parts (plots, the corpus) are slow to import and no other verb needs them.
    from fleetssd.demo.story import run  # noqa: PLC0415

    # By default SIGTERM ends a process where it stands, and the servers of the demo would go on without it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A log file has no width of its own; the tables need this much.
    if not run(folder, seed, out if out.is_terminal else Console(width=120)):
        raise typer.Exit(1)
