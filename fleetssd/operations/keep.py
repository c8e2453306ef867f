"""Put the alias back where the swap log has it, for engines whose alias dies with their process."""

from __future__ import annotations

from datetime import datetime

import structlog

from fleetssd.config import Settings
from fleetssd.operations.swap import alone
from fleetssd.ports import Engine, Store
from fleetssd.serving import served, unproven

log = structlog.get_logger()


def keep(store: Store, engine: Engine, settings: Settings, now: datetime) -> bool:
    """Point the alias to what serves by the log, where the engine has it elsewhere; say whether it had.

    A swap that is under way is left to itself. Raises Rejected where the engine has no such model any more, Transient
    where it is away or a swap runs.
    """
    alias, current = settings.engine.alias, served(store.swaps(), store.checkpoints())
    if current is None or unproven(store.swaps()) or engine.digest_of(alias) == current.served_digest:
        return False
    with alone(store, "dawn", now):
        current = served(store.swaps(), store.checkpoints())
        if current is None or unproven(store.swaps()):
            return False
        engine.point(alias, current.model)
    log.warning("alias_restored", alias=alias, model=current.model)
    return True
