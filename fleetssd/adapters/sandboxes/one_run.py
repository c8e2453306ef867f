"""The program of one run without a sandbox: it limits itself, lays the files out and becomes the job.

Never imported by fleetssd. It borrows from `zygote.py` what a forked run does there; nothing of its watcher, which
kills and wipes whatever it can reach, may run outside of a sandbox.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the job from stdin; the descriptor for its result is the only argument."""
    told = json.load(sys.stdin)
    place = importlib.util.spec_from_file_location("zygote", Path(__file__).with_name("zygote.py"))
    assert place is not None and place.loader is not None  # noqa: S101,PT018
    zygote: Any = importlib.util.module_from_spec(place)
    place.loader.exec_module(zygote)
    zygote.WORK, zygote.TREE, zygote.WRITABLE = told["folder"], told["tree"] or "/nonexistent", (told["folder"],)
    os.chdir(told["folder"])
    command = told["job"]["command"]
    python = zygote._python_arguments(command)  # noqa: SLF001
    zygote._child(told["job"], told["limits"], python, told["token"].encode(), (1, int(sys.argv[1])))  # noqa: SLF001


if __name__ == "__main__":
    main()
