"""The verb that builds the demo's base, with its progress as JSON lines on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fleetssd.toy.base import BaseSettings
from fleetssd.toy.corpus import PAIRS


def main(argv: Sequence[str]) -> int:
    """Build the base that `argv` asks for, or find it built; the last line names its files' digests."""
    parser = argparse.ArgumentParser(prog="base", description="Build the demo's tiny base model, once.")
    parser.add_argument("--out", type=Path, required=True, help="folder for hf/, the two GGUFs and base.json")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus and weights (default 0)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="size of the corpus; smaller only for tests")
    parser.add_argument("--steps", type=int, default=400, help="training steps; fewer only for tests")
    arguments = parser.parse_args(argv)
    settings = BaseSettings(seed=arguments.seed, pairs=arguments.pairs, steps=arguments.steps)

    from fleetssd.toy.model import build_base  # noqa: PLC0415  torch: not before the arguments are right

    base = build_base(arguments.out, arguments.seed, _report, settings)
    _line(
        {"event": "base", "folder": str(base.folder), "seconds": base.seconds, "digests": dict(base.digests)}
    )
    return 0


def _report(step: int, steps: int, loss: float) -> None:
    _line({"event": "step", "step": step, "steps": steps, "loss": round(loss, 4)})


def _line(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
