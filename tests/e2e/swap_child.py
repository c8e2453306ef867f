"""What the daemon does at its start and at dawn, and nothing else: recover, then flip or roll back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleetssd import wiring
from fleetssd.config import load
from fleetssd.errors import FleetError
from fleetssd.operations.swap import flip, recover, rollback
from fleetssd.ports import Engine, Store
from fleetssd.serving import served

Over = Callable[[Store, Engine], tuple[Any, Any]]


def main(config: str, digest: str, verb: str, over: Over = lambda *ports: ports) -> int:
    """Make this checkpoint serve, by a flip or by a rollback, unless it does already; `over` wraps both ports."""
    settings, now = load(Path(config)), datetime.now(UTC)
    with closing(wiring.open_store(settings)) as opened, closing(wiring.open_engine(settings)) as reached:
        store, engine = over(opened, reached)
        try:
            recover(store, engine, settings, now)
            current, wanted = served(store.swaps(), store.checkpoints()), store.checkpoint(digest)
            assert current is not None
            assert wanted is not None
            if current.digest == digest:
                return 0
            if verb == "flip":
                flip(store, engine, settings, wanted, actor="dawn", now=now)
            else:
                rollback(store, engine, settings, actor="watch", reason="worse", now=now)
        except FleetError as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3]))
