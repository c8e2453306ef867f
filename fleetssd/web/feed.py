"""What the gateway knows of the fleet: read from the database beside the requests, never within one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from fleetssd.errors import FleetError
from fleetssd.keys import Key
from fleetssd.routes import Routing

log = structlog.get_logger()
T = TypeVar("T")

REFRESH = 0.25
"""Seconds between two looks at the swap log: a rollback must have callers back at the incumbent within a second."""
HASTE = 0.1
"""Seconds between two looks while requests are held for the outcome."""


class Feed:
    """Routing and keys in memory, read behind the requests' backs; while a source is down the last known are kept."""

    def __init__(
        self, read: Callable[[], Routing], first: Routing, keys: Callable[[], Mapping[str, Key] | None] = lambda: None
    ) -> None:
        self.now = first
        self.keys: Mapping[str, Key] | None = {}
        self.problem: str | None = None
        self.reloading_since: float | None = None
        self._read, self._read_keys = read, keys
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(HASTE if self.now.reloading else REFRESH)
            await self.refresh()

    async def refresh(self) -> None:
        """Look once; a source that cannot be read is one line in the log, until it can be read again."""
        keys, no_keys = await _read(self._read_keys, self.keys)
        found, no_route = await _read(self._read, self.now)
        problem = no_route or no_keys
        if problem and problem != self.problem:
            log.warning("route_kept", model=found.route.model, checkpoint=found.route.digest, error=problem)
        self.keys, self.problem = keys, problem
        self._take(found)

    async def settled(self, seconds: float) -> None:
        """Wait until no reload is under way, at most so many seconds."""
        if self.now.reloading:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self, found: Routing) -> None:
        if found.route != self.now.route:
            log.info("route_changed", model=found.route.model, checkpoint=found.route.digest)
        if found.canary != self.now.canary:
            told = found.canary
            log.info("canary_changed", model=told and told.model, mode=told and told.mode, share=told and told.share)
        if found.reloading != self.now.reloading:
            self.reloading_since = time.monotonic() if found.reloading else None
            (self._changed.clear if found.reloading else self._changed.set)()
        self.now = found


async def _read(source: Callable[[], T], last: T) -> tuple[T, str | None]:
    """Return what a source says now, or what it said last and why it says nothing."""
    try:
        return await asyncio.to_thread(source), None
    except FleetError as error:
        return last, error.message
    except Exception as error:
        log.exception("source_not_read")
        return last, type(error).__name__
