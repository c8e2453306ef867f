"""How much the gateway takes on at a time: requests in all and by agent, and requests that are held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fleetssd.config import Gateway
from fleetssd.errors import Rejected

RETRY_AFTER = 1
"""Seconds after which a caller who is told to come back should."""


class Bounds:
    """Counts of what is under way; raises Rejected (429 or 503) instead of queueing without end."""

    def __init__(self, settings: Gateway) -> None:
        self._settings = settings
        self.calls = self.held = 0
        self.by_agent: Counter[str] = Counter()

    @contextmanager
    def call(self, agent: str) -> Iterator[None]:
        """Take a place for a call until the block ends."""
        if self.calls >= self._settings.concurrency:
            raise Rejected("the gateway has its hands full", hint="Raise [gateway] concurrency.", status=503)
        if self.by_agent[agent] >= self._settings.agent_concurrency:
            limit = self._settings.agent_concurrency
            raise Rejected(
                f"{limit} requests of {agent} are under way", hint="Raise [gateway] agent_concurrency.", status=429
            )
        self.calls += 1
        self.by_agent[agent] += 1
        try:
            yield
        finally:
            self.calls -= 1
            self.by_agent[agent] -= 1
            if not self.by_agent[agent]:
                del self.by_agent[agent]

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Take a place among the held until the block ends."""
        if self.held >= self._settings.hold_requests:
            raise Rejected(
                "the engine is reloading, and many wait for it already",
                hint="Come back; or raise [gateway] hold_requests.",
                status=503,
            )
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
