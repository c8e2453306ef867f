"""Which checkpoint the gateway sends to: read from the swap log beside the requests, never within one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from fleetssd.errors import FleetError
from fleetssd.gateway import Route

log = structlog.get_logger()

REFRESH = 1.0
"""Seconds between two looks at the swap log."""


class Feed:
    """The route in memory, read behind the requests' backs; while the store is down the last known one is kept."""

    def __init__(self, read: Callable[[], Route], first: Route) -> None:
        self.route = first
        self.problem: str | None = None
        self._read = read

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH)

    async def refresh(self) -> None:
        """Look once; a store that cannot be read is one line in the log, until it can be read again."""
        try:
            found, problem = await asyncio.to_thread(self._read), None
        except FleetError as error:
            found, problem = self.route, error.message
        except Exception as error:
            log.exception("route_not_read")
            found, problem = self.route, type(error).__name__
        if found != self.route:
            log.info("route_changed", model=found.model, checkpoint=found.digest)
        if problem and problem != self.problem:
            log.warning("route_kept", model=found.model, checkpoint=found.digest, error=problem)
        self.route, self.problem = found, problem
