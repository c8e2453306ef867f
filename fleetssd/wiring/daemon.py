"""Everything that the daemon works with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fleetssd.config import Settings
from fleetssd.ports import Clock, Forge, Grounds, Memory, Mirror, Sandbox
from fleetssd.records import Redact
from fleetssd.wiring.engine import open_engine
from fleetssd.wiring.examining import lent_sandbox, open_grounds
from fleetssd.wiring.forge import open_forge, open_memory, open_mirror, open_secrets
from fleetssd.wiring.process import open_clock, open_store

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from fleetssd.adapters.store import SqlStore
    from fleetssd.wiring.engine import ServingEngine


@dataclass(frozen=True, slots=True)
class DaemonParts:
    """What the daemon's jobs share. The sandbox is opened by the first watch: an idle daemon stays small."""

    store: SqlStore
    forge: Forge
    mirror: Mirror
    secrets: Redact
    engine: ServingEngine
    clock: Clock
    sandbox: Callable[[], Sandbox]
    grounds: Grounds
    app: Callable[[Callable[[], None]], Starlette]
    close: Callable[[], None]
    memory: Memory | None = None


def open_daemon(settings: Settings) -> DaemonParts:
    """Open everything that the daemon works with."""
    stack = ExitStack()
    store, clock, engine = open_store(settings), open_clock(settings), open_engine(settings)
    forge = open_forge(settings)
    stack.callback(store.close)
    stack.callback(forge.close)
    stack.callback(engine.close)
    memory = open_memory(settings)
    if memory is not None:
        stack.callback(memory.close)
    return DaemonParts(
        memory=memory,
        store=store,
        forge=forge,
        mirror=open_mirror(settings),
        secrets=open_secrets(settings),
        engine=engine,
        clock=clock,
        sandbox=cache(lambda: stack.enter_context(lent_sandbox(settings))),
        grounds=open_grounds(settings),
        app=lambda hint: _app(settings, store, clock, hint),
        close=stack.close,
    )


def _app(settings: Settings, store: SqlStore, clock: Clock, hint: Callable[[], None]) -> Starlette:
    from fleetssd.operations.report import read_report  # noqa: PLC0415
    from fleetssd.web.app import build_app  # noqa: PLC0415
    from fleetssd.web.webhook import routes  # noqa: PLC0415

    return build_app(
        lambda: read_report(settings, store, clock.now(), store.canary()), routes(settings, store, clock, hint)
    )
