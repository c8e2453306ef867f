"""The gateway: its routes, its rows and its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from fleetssd.config import Settings
from fleetssd.shelf import Applied
from fleetssd.wiring.engine import open_shelf_engine
from fleetssd.wiring.process import open_store

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from fleetssd.adapters.key_file import KeyFile
    from fleetssd.web.recorder import Recorder


def open_gateway(settings: Settings) -> ASGIApp:
    """Return the pass-through in front of the engine, fed by the swap log.

    The store is opened by the first look at it: where it is down, requests for the alias still flow.
    """
    from fleetssd.routes import Route, Routing, fitted, routing  # noqa: PLC0415
    from fleetssd.web.feed import Feed  # noqa: PLC0415
    from fleetssd.web.gateway_app import build_gateway  # noqa: PLC0415
    from fleetssd.web.upstream import Upstream  # noqa: PLC0415

    alias, keys, held = settings.engine.alias, open_keys(settings), _held(settings)
    opened = cache(lambda: open_store(settings))

    def look() -> Routing:
        store = opened()
        found = routing(alias, store.swaps(), store.checkpoints(), store.canary())
        return fitted(found, settings.engine.kind, settings.engine.base_model, held())

    feed = Feed(look, Routing(Route(alias, alias, None)), keys.read if keys else lambda: None)
    return build_gateway(feed, Upstream(settings.engine.url, settings.engine.kind), open_recorder(settings), settings)


def _held(settings: Settings) -> Callable[[], Sequence[Applied]]:
    """Return what tells the adapters that a llama-server holds; for other engines there are none to tell."""
    if settings.engine.kind != "llama-server":
        return tuple
    engine = open_shelf_engine(settings)
    return engine.held


def open_recorder(settings: Settings) -> Recorder | None:
    """Return what writes a row a call, with a connection of its own; None where telemetry is off.

    The store is opened by the first batch: where it is down, rows wait. Close it when the last answer has ended.
    """
    if not settings.telemetry.enabled:
        return None
    from fleetssd.web.recorder import Recorder  # noqa: PLC0415

    rules = settings.telemetry
    opened = cache(lambda: open_store(settings))
    return Recorder(opened, batch=rules.batch, flush_seconds=rules.flush_ms / 1000, queue=rules.queue)


def open_keys(settings: Settings) -> KeyFile | None:
    """Return the file of the gateway's API keys; None where nobody needs one."""
    from fleetssd.adapters.key_file import KeyFile  # noqa: PLC0415

    return KeyFile(settings.gateway.keys_file) if settings.gateway.keys_file else None
