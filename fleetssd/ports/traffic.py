"""What the gateway knows from the database and tells it; every request flows without either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fleetssd.calls import Call, Gap
from fleetssd.canary import Canary


class Sink(Protocol):
    """Where the gateway puts a call that ended."""

    def put(self, call: Call) -> None:
        """Take it without waiting for anything: what does not fit is dropped, and counted."""
        ...


class Traffic(Protocol):
    """The database's side of it. Every method is one transaction."""

    def add_calls(self, calls: Sequence[Call], gap: Gap | None) -> None:
        """Keep a batch of calls, and the gap before it; the same id twice is one row."""
        ...

    def canary(self) -> Canary | None:
        """Return the canary that was started last and neither promoted nor aborted; it may have expired."""
        ...
