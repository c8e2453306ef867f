"""The clock, and how long work tells how far it got."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


class Clock(Protocol):
    """The only source of now; aware UTC."""

    def now(self) -> datetime:
        """Return the present moment in UTC."""
        ...
