"""What the engine can do: tried once a version and base, then read from the database."""

from __future__ import annotations

from datetime import datetime

import structlog

from fleetssd.artefact import Probe
from fleetssd.config import Engine as EngineSettings
from fleetssd.errors import Misconfigured
from fleetssd.ports import Engine, Store

log = structlog.get_logger()


def known(store: Store, engine: Engine, told: EngineSettings, now: datetime, *, fresh: bool = False) -> Probe:
    """Return what this engine was seen to do; it is tried where that is not on file, or where `fresh` asks for it.

    A trial loads an adapter of zeros, which can cost the fleet a reload. Raises Misconfigured without a base model.
    """
    version, base = engine.version(), engine.digest_of(told.base_model)
    if base is None:
        raise Misconfigured(
            f"the engine has no model {told.base_model}", hint="Create it, or name another in [engine] base_model."
        )
    found = None if fresh else store.capability(told.url, version, base)
    if found is None:
        found = engine.probe()
        store.keep_capability(told.url, base, found, now)
        log.info("engine_probed", host=told.url, version=version, pulls=found.pulls_from_loopback,
                 creates=found.creates_adapters, loads=found.loads_adapters)  # fmt: skip
    return found
