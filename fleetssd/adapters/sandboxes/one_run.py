"""The program of one run without a sandbox: it limits itself, lays the files out and becomes the job.

Never imported by fleetssd. It borrows from `inside` what a forked run does there; nothing of the watcher, which kills
and wipes whatever it can reach, may run outside of a sandbox.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the job from stdin; the descriptor for its result is the only argument."""
    told = json.load(sys.stdin)
    sys.path.append(str(Path(__file__).parent))
    confinement, place, script, job = (_ours(name) for name in ("confinement", "place", "script", "job"))
    sys.path.pop()
    place.WORK, place.TREE, place.WRITABLE = told["folder"], told["tree"] or "/nonexistent", (told["folder"],)
    os.chdir(told["folder"])
    said = confinement.elsewhere(int(sys.argv[1]))
    _, output = confinement.empty_stdin()
    confinement.limit_all(told["limits"])
    words = script.arguments(told["job"]["command"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "inside"]:
        del sys.modules[name]  # the job may have a module of that name
    job.become(told["job"], told["limits"], words, told["token"].encode(), (output, said))


def _ours(name: str) -> Any:
    return importlib.import_module(f"inside.{name}")


if __name__ == "__main__":
    main()
