"""Give the engine its room back: names that nobody goes back to, and files that no name refers to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import structlog

from fleetssd.checkpoints import Night
from fleetssd.config import Settings
from fleetssd.operations.swap import alone
from fleetssd.ports import Engine, Store
from fleetssd.retention import expendable, orphans

log = structlog.get_logger()

NIGHTS = 7
"""How many nights back built files are looked for; the engine itself drops older ones at its start."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What left the engine: names, and the digests of files that no name referred to."""

    models: tuple[str, ...]
    blobs: tuple[str, ...]


def sweep(store: Store, engine: Engine, settings: Settings, now: datetime, needed: Collection[str] = ()) -> Swept:
    """Remove what may go, under the lease of swaps, and say what went.

    While a night runs nothing goes, and nothing ever where the settings keep everything (`engine.history` of -1).

    What is `needed` (digests) stays, whatever the swap log says. A name that serves something else than we installed
    is left alone. Raises Transient where a swap runs.
    """
    nights, checkpoints = store.nights(), store.checkpoints()
    if settings.engine.history < 0 or any(night.state == "running" for night in nights):
        return Swept((), ())
    with alone(store, "dawn", now):
        gone = expendable(nights, store.swaps(), checkpoints, settings.engine.history)
        gone = tuple(one for one in gone if one.digest not in needed)
        there = engine.names()
        models = tuple(one.model for one in gone if there.get(one.model) == one.served_digest)
        for model in models:
            engine.remove(model)
        kept = [one for one in checkpoints if one not in gone]
        built = [_built(night) for night in nights[-NIGHTS:]]
        blobs = tuple(blob for blob in orphans(built, kept) if engine.drop(blob, settings.engine.base_model))
    if models or blobs:
        log.info("engine_swept", models=models, blobs=len(blobs))
    return Swept(models, blobs)


def _built(night: Night) -> dict[str, str]:
    files = next((row.result.get("files") for row in night.stages if row.stage == "build"), None)
    return dict(files or {})
