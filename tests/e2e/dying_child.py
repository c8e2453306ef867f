"""Swaps again and again, each time in a fork in which somebody dies before a call: says before which one, and the end.

Every line in is a list: the settings, the checkpoint, the verb, the number of a call, and the process to kill before
it, 0 for the one that swaps.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fleetssd import wiring
from fleetssd.ports import Engine, Store
from tests.e2e import swap_child

COUNT = frozenset({"claim", "begin_swap", "quiet", "preload", "point", "adapter_of", "finish_swap", "release"})
"""The calls of a swap that change something, and its proof; between two others nothing happens."""


class Fate:
    """Counts the calls that count, and kills before one of them."""

    def __init__(self, number: int, victim: int, say: int) -> None:
        self._left, self._victim, self._say = number, victim, say

    def over(self, store: Store, engine: Engine) -> tuple[Any, Any]:
        """Return both ports under this fate."""
        return Doomed(store, self), Doomed(engine, self)

    def meet(self, name: str) -> None:
        """Count a call."""
        self._left -= 1
        if self._left == 0:
            os.write(self._say, name.encode())
            os.kill(self._victim or os.getpid(), signal.SIGKILL)


class Doomed:
    """A port whose calls are counted."""

    def __init__(self, port: object, fate: Fate) -> None:
        self._port, self._fate = port, fate

    def __getattr__(self, name: str) -> Any:
        """Return the port's own, counted where it counts."""
        found: Callable[..., object] = getattr(self._port, name)
        if name not in COUNT:
            return found

        def call(*positional: object, **named: object) -> object:
            self._fate.meet(name)
            return found(*positional, **named)

        return call


def main() -> None:
    """Swap once a line."""
    wiring.configure_logging()
    for line in sys.stdin:
        config, digest, verb, number, victim = json.loads(line)
        heard, say = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(swap_child.main(config, digest, verb, Fate(number, victim, say).over))
        os.close(say)
        _, status = os.waitpid(child, 0)
        with os.fdopen(heard) as told:
            where = told.read() or "done"
        end = "" if os.WIFSIGNALED(status) else f" {os.WEXITSTATUS(status)}"
        sys.stdout.write(f"{where}{end}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
